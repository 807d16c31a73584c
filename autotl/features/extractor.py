"""Images to features: decoded in parallel with inference, recorded once, read by every trial."""

import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from autotl.backbones.base import Backbone, Layout
from autotl.clock import Deadline
from autotl.data.augmentation import ORIGINAL, View
from autotl.data.dataset import ImageDataset
from autotl.data.decoding import UndecodableImage
from autotl.data.preprocessing import load_view
from autotl.data.splits import Split
from autotl.engines.base import Compiled, Engine
from autotl.engines.parity import MIN_COSINE, engine_cosine
from autotl.engines.torch import TorchEngine
from autotl.errors import DataError
from autotl.features.progress import ExtractionProgress
from autotl.features.sharing import StoreTimeout, extract_missing
from autotl.features.store import FORMAT, FeatureStore, FeatureTable

if TYPE_CHECKING:
    from torch import nn

    from autotl.backbones.graph_split import GraphSplit

__all__ = ["BATCH", "BackboneFeatures", "FeatureExtractor", "StoredSamples", "batches", "conversion_key"]

BATCH = 32
"""Images that a thread takes from their files to their features at a time, and that are recorded together."""
CONVERSION = 5.0
"""Seconds that making an engine ready may take; it can't be interrupted."""
FEATURE_DTYPE = "float16"
"""What features are recorded in: 11 bits of mantissa, more than any engine's bf16 has."""
BOUNDARY_BYTES = 4
"""A boundary is recorded where it takes up to this many times the bytes of the image itself; else the image is."""
T = TypeVar("T")
R = TypeVar("R")


def batches(
    items: Iterable[T], work: Callable[[list[T]], R], threads: int, batch: int = BATCH
) -> Iterator[tuple[list[T], R]]:
    """Each batch of items, in order, and what `work` makes of it in one of `threads` threads.

    A thread takes a batch all the way, from files to features: one that decodes for another that infers would have
    twice as many threads wait for the cores. They run two batches each ahead and never more: memory stays flat, and a
    thread that is held up doesn't hold up the others.

    What `work` raises comes out here, where its batch would have.
    """
    source = iter(items)
    with ThreadPoolExecutor(threads, thread_name_prefix="batch") as pool:
        ahead: deque[tuple[list[T], Future[R]]] = deque()
        try:
            while True:
                while len(ahead) <= 2 * threads and (chunk := list(itertools.islice(source, batch))):
                    ahead.append((chunk, pool.submit(work, chunk)))
                if not ahead:
                    return
                chunk, made = ahead.popleft()
                yield chunk, made.result()
        finally:
            for _, made in ahead:
                made.cancel()


def conversion_key(backbone_digest: str, block: int | None = None) -> str:
    """What an engine keeps a converted network under: with all levels, in their order, or up to a block."""
    return f"{backbone_digest}/{f'levels-{FORMAT}' if block is None else block}"


class StoredSamples:
    """Recorded rows on disk, one for each of `digests`: `rows[2:5]` and `rows[array]` read those, from the map."""

    def __init__(self, recorded: FeatureTable, digests: Sequence[str]):
        self.recorded, self.digests = recorded, np.array(digests)

    def __len__(self) -> int:
        return len(self.digests)

    def __getitem__(self, chosen: slice | np.ndarray) -> np.ndarray:
        return self.recorded.read(self.digests[chosen].tolist())


@dataclass
class FeatureExtractor:
    """What one worker extracts with: the images, the store, the engine of its device."""

    dataset: ImageDataset
    split: Split
    store: FeatureStore
    boundary_store: FeatureStore
    """For boundary activations: temporary to the search."""
    engine: Engine
    device: str
    threads: int
    conversions: Path | None = None
    """Where engines keep what they converted."""
    deadline: Deadline = field(default_factory=Deadline)
    """When recording has to be done."""
    on_progress: Callable[[ExtractionProgress], None] = field(default=lambda progress: None)
    """Called after each batch."""
    log: Callable[[str], None] = field(default=lambda line: None)
    extraction_seconds: float = 0.0
    """Seconds that recording has taken, waiting for others included."""
    _features: dict[str, "BackboneFeatures"] = field(default_factory=dict, init=False)

    def move_to(self, store: FeatureStore, conversions: Path) -> None:
        """Record somewhere else from now on."""
        self.store, self.conversions = store, conversions
        self.release_networks()

    def release_networks(self) -> None:
        """Let go of the networks that were built, compiled and mapped: they are made again where they are needed."""
        self._features.clear()

    def of(self, backbone: Backbone) -> "BackboneFeatures":
        """The features of one backbone; what was built for an earlier trial is used again."""
        if backbone.name not in self._features:
            self._features[backbone.name] = BackboneFeatures(self, backbone)
        return self._features[backbone.name]


class BackboneFeatures:
    """What one frozen backbone makes of the images of a study."""

    def __init__(self, extractor: FeatureExtractor, backbone: Backbone):
        self.extractor, self.backbone = extractor, backbone
        self.engine = extractor.engine
        self._compiled: dict[int | None, Compiled] = {}
        self._settled = False

    @cached_property
    def graph_split(self) -> "GraphSplit":
        from autotl.backbones.graph_split import GraphSplit

        module = self.backbone.build()
        return GraphSplit(module, self.backbone.blocks(module))

    @cached_property
    def layout(self) -> Layout:
        from autotl.backbones.graph_split import FeatureLevels

        kept = self._layout_file()
        if kept and kept.exists():
            try:
                return Layout(**json.loads(kept.read_text()))
            except (ValueError, TypeError):
                pass  # damaged: found again and written anew below
        layout = FeatureLevels(self.graph_split).layout(self.backbone.preprocessing.size)
        if kept:
            from autotl.atomic_io import write_json

            with suppress(OSError):  # it is found again
                write_json(kept, asdict(layout))
        return layout

    def _layout_file(self) -> Path | None:
        folder = self.extractor.conversions
        return folder / f"layout-{FORMAT}-{self.backbone.digest[:32]}.json" if folder else None

    def levels(self, subset: Literal["train", "validation", "test"], levels: str, view: View = ORIGINAL) -> np.ndarray:
        """Pooled outputs [n, num_features], float32, in the order of the subset's images."""
        rows = self._rows(subset, view, None, (self.layout.width,), self.extractor.store)
        return rows.recorded.read(rows.digests.tolist(), "float32", self.layout.features(levels))

    def boundary(
        self, subset: Literal["train", "validation", "test"], block: int, view: View = ORIGINAL
    ) -> "StoredSamples | None":
        """What enters block number `block`, float16 [n, …]; for block 0 the images, uint8 [n, size, size, 3]. None
        where the network can't be split there, or where recording the images is so much smaller."""
        size = self.backbone.preprocessing.size
        if block == 0:
            return self._rows(subset, view, 0, (size, size, 3), self.extractor.boundary_store)
        if self.graph_split.cut(block) is None:
            return None
        shape = self._boundary_shape(block)
        if shape is None or np.prod(shape) * np.dtype(FEATURE_DTYPE).itemsize > BOUNDARY_BYTES * size * size * 3:
            return None
        return self._rows(subset, view, block, shape, self.extractor.boundary_store)

    def _boundary_shape(self, block: int) -> tuple[int, ...] | None:
        import torch

        size = self.backbone.preprocessing.size
        with torch.inference_mode():
            entering = self.graph_split.prefix(block)(torch.zeros(1, 3, size, size))
        return tuple(entering.shape[1:]) if isinstance(entering, torch.Tensor) else None  # a few pass tuples on

    def _rows(self, subset: str, view: View, block: int | None, shape: tuple[int, ...], store: FeatureStore) -> "StoredSamples":
        """Rows of the subset's images in the order of the split; what isn't recorded yet is, once for everybody."""
        extractor = self.extractor
        indices = getattr(extractor.split, subset)
        digests = [extractor.dataset.digests[i] for i in indices]
        images_alone = block == 0
        if not images_alone:
            self._settle_engine(indices)
        label = "images" if images_alone else self.backbone.name
        recorded = store.open(self._spec(view, block), shape, "uint8" if images_alone else FEATURE_DTYPE, label)
        if missing := recorded.missing(digests):
            path_of = {extractor.dataset.digests[i]: extractor.dataset.paths[i] for i in indices}

            def compute(mine: Iterator[str]) -> Iterator[tuple[list[str], np.ndarray]]:
                return self._compute(mine, len(missing), path_of, view, block)

            began = time.monotonic()
            extract_missing(recorded, digests, compute, extractor.deadline)
            extractor.extraction_seconds += time.monotonic() - began
        self._compiled.clear()  # hundreds of MiB each; made again from what is kept in a fraction of a second
        return StoredSamples(recorded, digests)

    def _spec(self, view: View, block: int | None) -> dict[str, Any]:
        """All that a row is made of, apart from the image."""
        spec = {"preprocessing": asdict(self.backbone.preprocessing), "view": str(view), "block": block}
        if block == 0:
            return spec
        precision = self.engine.precision(self.extractor.device)
        return spec | {"backbone": self.backbone.digest, "engine": self.engine.name, "precision": precision}

    def _compute(
        self, digests: Iterable[str], n: int, path_of: dict[str, Path], view: View, block: int | None
    ) -> Iterator[tuple[list[str], np.ndarray]]:
        extractor = self.extractor
        ran = "levels" if block is None else f"prefix-{block}" if block else "images"
        run = self._run(block) if block != 0 else None
        began, done = time.monotonic(), 0

        def work(chunk: list[str]) -> np.ndarray:
            images = np.stack([self._load(path_of[d], d, view) for d in chunk])
            return images if run is None else run(images)

        for chunk, rows in batches(digests, work, extractor.threads):
            yield chunk, rows
            done += len(chunk)
            rate = done / max(1e-6, time.monotonic() - began)
            extractor.on_progress(ExtractionProgress(self.backbone.name, ran, str(view), done, n, rate))

    def _load(self, path: Path, digest: str, view: View) -> np.ndarray:
        try:
            return load_view(path, digest, self.backbone.preprocessing, view)
        except UndecodableImage as error:
            raise DataError(f"{path} could be read when the search began and can't be now: {error}") from error

    def _settle_engine(self, indices: np.ndarray) -> None:
        """Refuse, once, an engine whose features stray from PyTorch's in fp32 on real images of this study."""
        plain = self.engine.name == TorchEngine.name and self.engine.precision(self.extractor.device) == "fp32"
        if plain or self._settled:
            return
        verdict = self._verdict_file()
        if verdict and verdict.exists():
            cosine = float(verdict.read_text())
        else:
            dataset = self.extractor.dataset
            images = np.stack([self._load(dataset.paths[i], dataset.digests[i], ORIGINAL) for i in indices[:8]])
            cosine = engine_cosine(self._run(None), self._module(None), images)
            if verdict:
                from autotl.atomic_io import write_atomically

                with suppress(OSError):  # it is measured again
                    write_atomically(verdict, f"{cosine}".encode())
        if cosine < MIN_COSINE:
            self.extractor.log(
                f"{self.backbone.name}: features of engine {self.engine.name} stray from PyTorch's in fp32 "
                f"(mean cosine {cosine:.3f}, at least {MIN_COSINE} is asked): torch is used instead"
            )
            self.engine = TorchEngine(bf16=False)
            self._compiled.clear()
        self._settled = True

    def _verdict_file(self) -> Path | None:
        folder = self.extractor.conversions
        engine = f"{self.engine.name}-{self.engine.precision(self.extractor.device)}"
        return folder / f"cosine-{self.backbone.digest[:32]}-{engine}.txt" if folder else None

    def _run(self, block: int | None) -> Compiled:
        """The compiled network: with all levels, or up to a block."""
        if block not in self._compiled:
            extractor = self.extractor
            if extractor.deadline.remaining() < CONVERSION:
                raise StoreTimeout(f"the time was up before {self.backbone.name} was made ready")
            self._compiled[block] = self.engine.compile(
                self._module(block),
                self.backbone.preprocessing.size,
                extractor.device,
                extractor.threads,
                self.engine.precision(extractor.device),
                cache=extractor.conversions,
                key=conversion_key(self.backbone.digest, block),
            )
        return self._compiled[block]

    def _module(self, block: int | None) -> "nn.Module":
        from autotl.backbones.graph_split import FeatureLevels, Normalize

        network = FeatureLevels(self.graph_split) if block is None else self.graph_split.prefix(block)
        return Normalize(network, self.backbone.preprocessing).eval()
