"""Micro-batches: how many samples pass through a network at once. The number halves until they fit into memory, and
doubles again after a while: what other processes had taken may be free.

The batch size of a trial is part of its recipe and doesn't change: gradients are summed over the micro-batches of a
batch. What fitted is remembered for each network and device, so that memory runs out once and not in every step.
(Batch norms in training mode see the statistics of a micro-batch, as with any gradient accumulation.)
"""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from autotl.atomic_io import read_json, write_json
from autotl.devices import is_out_of_memory

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MicroBatch", "persist_to"]

T = TypeVar("T")
_fitting_sizes: dict[str, int] = {}
"""Number of samples that fit, by network and device. A process has only one device of each name."""
GROW_AFTER = 64
"""Calls that fit, after which a reduced number is doubled. After each failure twice as many."""
_until_growth: dict[str, tuple[int, int]] = {}
"""By network and device: calls that must still fit before the number doubles, and how many were asked for last."""
_files: list[Path] = []
"""The file of `persist_to`, or nothing."""


def persist_to(file: Path) -> None:
    """Read the sizes in `file`, and write every new one to it, for other processes on the same device."""
    _files[:] = [file]
    _fitting_sizes.update(_read(file))


def _read(file: Path) -> dict[str, int]:
    """The sizes in a file; none where it is missing or damaged."""
    with suppress(OSError, ValueError, AttributeError):
        sizes = read_json(file)
        return {name: size for name, size in sizes.items() if type(size) is int and size > 0}
    return {}


class MicroBatch:
    """Runs a network in micro-batches that fit into the memory of a device.

    Args:
        network: name under which the fitting size is remembered.
        device: a torch device.
        log: called with a line when the size halves.
    """

    def __init__(self, network: str, device: str, log: Callable[[str], None] = lambda line: None):
        self.network, self.device, self.log = network, device, log
        self.name = f"{network} on {device}"

    def size_for(self, batch: int) -> int:
        """The size of a micro-batch of a batch of `batch` samples."""
        return min(batch, _fitting_sizes.get(self.name, batch))

    def backward(
        self,
        batch: int,
        micro_batch_loss: Callable[[slice], "Tensor"],
        clear: Callable[[], object],
        scale: Callable[["Tensor"], "Tensor"] = lambda loss: loss,
    ) -> "Tensor":
        """Sum the gradients of a batch into the parameters, and return the batch's loss.

        Args:
            batch: number of samples.
            micro_batch_loss: the part of the batch's loss that the samples of a slice contribute. The parts of all
                slices must add up to the loss.
            clear: drops the gradients of an attempt that did not fit.
            scale: applied to each loss before its backward pass, and not to the loss that is returned.
        """

        def attempt() -> "Tensor":
            total: Tensor | None = None
            for samples in _slices(batch, self.size_for(batch)):
                loss = micro_batch_loss(samples)
                scale(loss).backward()
                total = loss.detach() if total is None else total + loss.detach()
            assert total is not None
            return total

        return self._retry_until_it_fits(batch, attempt, clear)

    def forward(
        self, num_samples: int, run: Callable[[slice], T], max_size: int | None = None, at_least: int = 1
    ) -> list[T]:
        """The results of `run` on consecutive slices of `num_samples` samples, each of at most `max_size`.

        Args:
            at_least: samples to which `run` pads a slice, as far as they fit.
        """
        batch = max(min(num_samples, max_size or num_samples), at_least)
        return self._retry_until_it_fits(
            batch, lambda: [run(samples) for samples in _slices(num_samples, self.size_for(batch))]
        )

    def _retry_until_it_fits(
        self, batch: int, attempt: Callable[[], T], clear: Callable[[], object] = lambda: None
    ) -> T:
        while True:
            try:
                result = attempt()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.size_for(batch) <= 1:
                    raise
            else:
                self._grow(batch)
                return result
            # Outside of the handler: the traceback keeps the tensors of the failed attempt alive.
            clear()
            _release_memory(self.device)
            self._halve(self.size_for(batch))

    def _grow(self, batch: int) -> None:
        """Count a call that fitted, and double the size once enough did."""
        size = self.size_for(batch)
        if size >= batch:
            return
        left, asked = _until_growth.get(self.name, (GROW_AFTER, GROW_AFTER))
        if left > 1:
            _until_growth[self.name] = left - 1, asked
        else:
            _until_growth[self.name] = asked, asked
            _fitting_sizes[self.name] = 2 * size

    def _halve(self, size: int) -> None:
        _fitting_sizes[self.name] = size // 2
        _, asked = _until_growth.get(self.name, (0, GROW_AFTER // 2))
        _until_growth[self.name] = 2 * asked, 2 * asked
        self.log(
            f"{self.network}: {size} images at once exceed the memory of {self.device}: continuing with {size // 2}"
        )
        for file in _files:
            with suppress(OSError):  # the next process makes one more attempt
                write_json(file, {**_read(file), self.name: size // 2})


def _slices(num_samples: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, num_samples)) for start in range(0, num_samples, max(1, size)))


def _release_memory(device: str) -> None:
    """Return the memory that PyTorch caches to the device."""
    gc.collect()
    torch = sys.modules["torch"]
    with suppress(RuntimeError):
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
        elif device.startswith("mps"):
            torch.mps.empty_cache()
