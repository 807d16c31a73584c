"""The micro-batch: how many rows pass through a network at once. It halves until they fit into the device's memory.

A trial's batch is part of its recipe and stays what it is: gradients are summed over its micro-batches. What fitted is
remembered for each network and device, so that memory runs out once and not in every step. (Norms that take their
statistics from the batch see a micro-batch of it, which is what gradient accumulation means for them everywhere.)
"""

import gc
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from autotl.atomic_io import write_json
from autotl.devices import out_of_memory

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MicroBatch", "keep_in"]

T = TypeVar("T")
_fitting: dict[str, int] = {}
"""Rows that fit, by network and device. A process has one device of each name."""
_kept: list[Path] = []


def keep_in(page: Path) -> None:
    """Remember in a file too, for the processes that come after this one, and those beside it."""
    _kept[:] = [page]
    _fitting.update(_read(page))


def _read(page: Path) -> dict[str, int]:
    with suppress(OSError, ValueError, AttributeError):
        found = json.loads(page.read_text(encoding="utf-8"))
        return {name: rows for name, rows in found.items() if type(rows) is int and rows > 0}
    return {}


class MicroBatch:
    """How many rows of `network`, by its name, fit on a torch device.

    Args:
        log: told in a line when the size halves.
    """

    def __init__(self, network: str, device: str, log: Callable[[str], None] = lambda line: None):
        self.network, self.device, self.log = network, device, log
        self.name = f"{network} on {device}"

    def of(self, rows: int) -> int:
        """The size for a batch of so many rows."""
        return min(rows, _fitting.get(self.name, rows))

    def backward(self, rows: int, loss_of: Callable[[slice], "Tensor"], clear: Callable[[], object]) -> "Tensor":
        """The loss of a batch, its gradients summed into the parameters.

        Args:
            loss_of: the share that some of the batch's rows have in its loss: shares add up to the whole.
            clear: drops the gradients of an attempt that did not fit.
        """

        def attempt() -> "Tensor":
            total: Tensor | None = None
            for chosen in _parts(rows, self.of(rows)):
                share = loss_of(chosen)
                share.backward()
                total = share.detach() if total is None else total + share.detach()
            assert total is not None
            return total

        return self._until_it_fits(rows, attempt, clear)

    def forward(self, rows: int, run: Callable[[slice], T], at_once: int | None = None) -> list[T]:
        """What `run` makes of all rows, part by part, of `at_once` rows at the most."""
        most = min(rows, at_once or rows)
        return self._until_it_fits(most, lambda: [run(chosen) for chosen in _parts(rows, self.of(most))])

    def _until_it_fits(self, rows: int, attempt: Callable[[], T], clear: Callable[[], object] = lambda: None) -> T:
        while True:
            try:
                return attempt()
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or self.of(rows) <= 1:
                    raise
            # not inside the handler, where the traceback keeps what the attempt allocated
            clear()
            _empty(self.device)
            self._halve(self.of(rows))

    def _halve(self, size: int) -> None:
        _fitting[self.name] = size // 2
        self.log(f"{self.network}: {self.device} has no memory for {size} images at once: goes on with {size // 2}")
        for page in _kept:
            with suppress(OSError):  # it costs the next process one more attempt
                write_json(page, {**_read(page), self.name: size // 2})


def _parts(rows: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, rows)) for start in range(0, rows, max(1, size)))


def _empty(device: str) -> None:
    """What PyTorch holds without using it goes back to the device."""
    gc.collect()
    torch = sys.modules["torch"]
    with suppress(RuntimeError):
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
        elif device.startswith("mps"):
            torch.mps.empty_cache()
