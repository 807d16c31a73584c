"""The engine contract: a frozen network becomes a fast function from image batches to arrays, on a device."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import nn


__all__ = ["Compiled", "Engine"]

Compiled = Callable[[np.ndarray], np.ndarray]
"""uint8 images [N, size, size, 3] to float32 rows [N, ...]. N may differ from call to call, and several threads call it
at once."""


class Engine(ABC):
    """Compiles modules that take uint8 images [N, size, size, 3] (they normalise them themselves)."""

    name: str

    @abstractmethod
    def usable(self, device: str) -> bool:
        """Whether it runs on this torch device, here."""

    @abstractmethod
    def precision(self, device: str) -> str:
        """`"fp32"` or `"bf16"`: what it would compute in on this device. Subset of the feature store's key."""

    @abstractmethod
    def compile(
        self,
        module: "nn.Module",
        size: int,
        device: str,
        threads: int,
        precision: str,
        cache: Path | None = None,
        key: str = "",
    ) -> Compiled:
        """Make `module`, in eval mode, fast on `device`. `threads` is this worker's share of the CPU, and how many
        threads call what comes out at once: each hands in its own images as soon as it has read them.

        What takes long to prepare may be kept in the folder `cache` for other processes, under `key`: digits of
        everything that `module` is made of, its weights too.
        """
