"""Samples that stay in an accelerator's memory, so that no epoch of fine-tuning waits for a disk or a decoder."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from autotl.backbones.base import Backbone
from autotl.data.augmentation import View
from autotl.engines.accelerator import ACCELERATOR_BATCH, autocast, to_half, use_here, wait_for_stream
from autotl.engines.base import Engine
from autotl.engines.micro_batch import MicroBatch
from autotl.engines.passes import has_plans, padded_size, queued, run_padded
from autotl.features.batching import batches
from autotl.features.sharing import StoreTimeout

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = ["ResidentCache", "ResidentSamples", "Residents", "free_memory"]

MEMORY_SHARE = 0.5
"""Share of the free memory that resident samples may take; the rest is for networks and their activations."""


class ResidentSamples:
    """Samples [n, ...] in the memory of a device: `samples[2:5]` and `samples[indices]` are tensors there."""

    def __init__(self, tensor: "Tensor"):
        self.tensor = tensor

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, chosen: "slice | np.ndarray | Tensor", /) -> "Tensor":
        if isinstance(chosen, slice):
            return self.tensor[chosen]
        import torch

        indices = torch.as_tensor(chosen).to(self.tensor.device)
        return self.tensor.index_select(0, indices)


class ResidentCache:
    """The resident samples of one worker. The least recently used make room for new ones.

    Args:
        free_memory: bytes that are free now, without what the cache holds.
    """

    def __init__(self, free_memory: Callable[[], int]):
        self._free_memory = free_memory
        self._kept: OrderedDict[Hashable, ResidentSamples] = OrderedDict()

    def get(self, key: Hashable) -> ResidentSamples | None:
        """The samples that were kept under a key."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def fits(self, num_bytes: int) -> bool:
        """Whether samples of so many bytes fit, if others make room for them."""
        return num_bytes <= self._room()

    def _room(self) -> float:
        return MEMORY_SHARE * (self._free_memory() + self._bytes())

    def allocate(self, shape: tuple[int, ...], dtype: "torch.dtype", device: str) -> "Tensor | None":
        """Memory for samples [n, ...], which `keep` keeps once they are complete; None where they don't fit."""
        import torch

        num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        room = self._room()
        if num_bytes > room:
            return None
        while self._kept and self._bytes() + num_bytes > room:
            self._kept.popitem(last=False)
        return torch.empty(shape, dtype=dtype, device=device)

    def keep(self, key: Hashable, tensor: "Tensor") -> ResidentSamples:
        """Keep complete samples."""
        self._kept[key] = ResidentSamples(tensor)
        return self._kept[key]

    def clear(self) -> None:
        """Free all memory."""
        self._kept.clear()

    def _bytes(self) -> int:
        return sum(samples.tensor.nbytes for samples in self._kept.values())


def free_memory(device: str) -> int:
    """Bytes of an accelerator's memory that this process could still allocate."""
    import torch

    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.startswith("mps"):
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    if device.startswith("xpu"):
        free, _ = torch.xpu.mem_get_info(device)
        return free
    return 0


class Source(Protocol):
    """What `Residents` needs of a backbone's features (`autotl.features.extractor.BackboneFeatures`)."""

    extractor: Any
    backbone: Backbone
    engine: Engine

    def digests(self, subset: str) -> Sequence[str]: ...

    def path_of(self, subset: str) -> Mapping[str, Path]: ...

    def network(self, block: int | None) -> "nn.Module": ...

    def report(self, ran: str, view: View, done: int, total: int, began: float) -> None: ...


class Residents:
    """The images and boundary activations of one backbone that stay in an accelerator's memory."""

    def __init__(self, features: Source):
        self.features = features

    def hold_images(self) -> bool:
        """Whether the training and validation images fit into an accelerator's memory."""
        extractor, size = self.features.extractor, self.features.backbone.preprocessing.size
        num_images = len(extractor.split.train) + len(extractor.split.validation)
        return extractor.resident is not None and extractor.resident.fits(num_images * size * size * 3)

    def samples(self, subset: str, view: View, block: int, shape: tuple[int, ...]) -> ResidentSamples | None:
        """The input of a block, for block 0 the images; None where it doesn't fit."""
        return self.activations(subset, view, block, shape) if block else self.images(subset, view)

    def images(self, subset: str, view: View) -> ResidentSamples | None:
        """The decoded images of a subset in the accelerator's memory; None where they don't fit."""
        import torch

        cache = self.features.extractor.resident
        if cache is None or not self.hold_images():
            return None
        key = ("images", subset, view, self.features.backbone.preprocessing)
        if kept := cache.get(key):
            return kept
        size, digests = self.features.backbone.preprocessing.size, self.features.digests(subset)
        images = cache.allocate((len(digests), size, size, 3), torch.uint8, self.features.extractor.device)
        if images is None:
            return None
        number_of = {digest: number for number, digest in enumerate(digests)}
        began, done = time.monotonic(), 0
        for chunk, loaded in self._load_all(number_of, subset, view):
            images[torch.tensor([number_of[d] for d in chunk], device=images.device)] = use_here(loaded)
            done += len(chunk)
            self.features.report("images", view, done, len(number_of), began)
            if self.features.extractor.deadline.passed():
                raise StoreTimeout(f"the time was up with {len(number_of) - done:,} images not decoded")
        if len(number_of) < len(digests):  # copies of one image
            images = images[torch.tensor([number_of[d] for d in digests], device=images.device)]
        self.features.extractor.extraction_seconds += time.monotonic() - began
        return cache.keep(key, images)

    def _load_all(self, digests: Iterable[str], subset: str, view: View) -> "Iterator[tuple[list[str], Tensor]]":
        """The images of a subset on the accelerator, batch by batch."""
        import torch

        loader = self.features.extractor.loader(
            self.features.backbone.preprocessing, view, self.features.path_of(subset)
        )

        def work(chunk: list[str]) -> "Tensor":
            with loader.stream():
                loaded = torch.as_tensor(loader.load(chunk)).to(self.features.extractor.device)
                wait_for_stream(self.features.extractor.device)  # another thread's stream reads the images
                return loaded

        try:
            yield from batches(digests, work, loader.threads, loader.batch)
        finally:
            loader.close()

    def activations(self, subset: str, view: View, block: int, shape: tuple[int, ...]) -> ResidentSamples | None:
        """The input of a block in the accelerator's memory, computed from the resident images."""
        import torch

        extractor, cache = self.features.extractor, self.features.extractor.resident
        assert cache is not None
        key = ("activations", subset, view, block, self.features.backbone.digest)
        if kept := cache.get(key):
            return kept
        images = self.images(subset, view)
        activations = (
            cache.allocate((len(images), *shape), torch.float16, extractor.device) if images is not None else None
        )
        if images is None or activations is None:
            return None
        began = time.monotonic()
        prefix = deepcopy(self.features.network(block)).to(extractor.device).to(memory_format=torch.channels_last)
        precision = self.features.engine.precision(extractor.device)
        micro = MicroBatch(
            f"{self.features.backbone.name} before block {block} in {precision}", extractor.device, extractor.log
        )

        size = (
            padded_size(ACCELERATOR_BATCH, self.features.backbone.preprocessing.size)
            if has_plans(extractor.device)
            else 1
        )

        def run(samples: slice) -> None:
            activations[samples] = to_half(run_padded(prefix, images[samples], micro.size_for(size)))

        def run_all() -> None:
            with torch.no_grad(), autocast(extractor.device, precision):
                micro.forward(len(images), run, ACCELERATOR_BATCH, at_least=size)

        queued(run_all, extractor.device) if has_plans(extractor.device) else run_all()
        extractor.extraction_seconds += time.monotonic() - began
        return cache.keep(key, activations)
