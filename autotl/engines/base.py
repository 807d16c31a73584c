"""The engine contract: compiles a frozen network into a fast function from image batches to features, on a device."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import nn


__all__ = ["Compiled", "Engine"]

Compiled = Callable[[np.ndarray], np.ndarray]
"""uint8 images [N, size, size, 3] to features or maps [N, ...], float32 or float16. N may differ from call to call.
Must be thread-safe: several threads call it at the same time."""


class Engine(ABC):
    """Compiles modules that take uint8 images [N, size, size, 3] and normalise them themselves."""

    name: str
    takes_tensors: bool = False
    """Whether what `compile` returns also takes images as a tensor that is on its device already."""

    @abstractmethod
    def usable(self, device: str) -> bool:
        """Whether the engine runs on this torch device of this machine."""

    @abstractmethod
    def precision(self, device: str) -> str:
        """The precision in which the engine computes on this device: `"fp32"`, `"bf16"` or `"fp16"`.

        Part of the feature store's key and called for each read: cache whatever takes long to find out.
        """

    def version(self) -> str:
        """The library that computes, and its version, such as `"torch 2.9.0"`. The default is PyTorch's.

        Part of the feature store's key, so that features of another version are never read. Called for each read.
        """
        import torch

        return f"torch {torch.__version__}"

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
        """Compile `module`, which is in eval mode, for `device`. The caller's module must stay unchanged.

        Args:
            module: takes uint8 images [N, size, size, 3].
            size: height and width of the images.
            device: a torch device for which `usable` is true.
            threads: this worker's share of the CPU cores, and the number of threads that call the result at once.
            precision: what `precision(device)` returned.
            cache: folder where the engine may keep what takes long to prepare, for other processes.
            key: identifies `module`, including its weights. Files in `cache` must be kept under it.
        """

    def has_cached(self, size: int, cache: Path, key: str) -> bool:
        """Whether `compile` finds in `cache` what takes long to prepare. The arguments are those of `compile`. The
        default is no: few images are then left to PyTorch.
        """
        return False
