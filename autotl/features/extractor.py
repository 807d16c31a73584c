"""Extracts features from images: decodes and infers in parallel, records each feature once for all trials."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from autotl.atomic_io import read_sealed, write_sealed
from autotl.backbones.base import Backbone, Preprocessing
from autotl.backbones.levels import BUILT_IN as BUILT_IN_LEVELS
from autotl.backbones.levels import Layout, Levels
from autotl.clock import Deadline
from autotl.data.augmentation import BUILT_IN as BUILT_IN_AUGMENTATIONS
from autotl.data.augmentation import ORIGINAL, Augmentation, View, view_key
from autotl.data.columns import ByDigest, DigestColumn
from autotl.data.dataset import ImageDataset
from autotl.data.splits import Split
from autotl.engines.accelerator import is_accelerator, to_host
from autotl.engines.base import Compiled, Engine
from autotl.engines.parity import MIN_COSINE, engine_cosine
from autotl.engines.torch import TorchEngine
from autotl.errors import find_named
from autotl.features.batching import batches
from autotl.features.keys import LAYOUT_KEY, conversion_key, fact_file, library_versions
from autotl.features.pixels import AcceleratorLoader, PixelLoader, decoder_of
from autotl.features.pool import FeaturePool
from autotl.features.progress import ExtractionProgress
from autotl.features.resident import ResidentCache, Residents, ResidentSamples
from autotl.features.sharing import StoreTimeout, extract_missing
from autotl.features.store import FeatureStore, FeatureTable

if TYPE_CHECKING:
    from torch import nn

    from autotl.backbones.graph_split import GraphSplit

__all__ = ["FEATURE_DTYPE", "LARGEST_FEATURE", "BackboneFeatures", "FeatureExtractor", "StoredSamples"]

COMPILE_SECONDS = 5.0
"""Seconds that compiling a network may take. It can't be interrupted, so it starts only with this much time left."""
FEATURE_DTYPE = "float16"
"""The dtype of recorded features: 11 bits of mantissa, more than the bf16 of any engine has."""
LARGEST_FEATURE = float(np.finfo(FEATURE_DTYPE).max)
"""To which features are clipped."""
BOUNDARY_BYTES = 4
"""Boundary activations are recorded if they take at most this many times the bytes of the image; else the image is."""


class StoredSamples:
    """The recorded samples of some images, indexed like an array: `samples[2:5]` and `samples[array]` read from disk.

    Args:
        table: holds a row for each image.
        digests: of the images, in the order of the samples.
    """

    def __init__(self, table: FeatureTable, digests: Sequence[str]):
        self.table, self.digests = table, DigestColumn.of(digests)

    def __len__(self) -> int:
        return len(self.digests)

    def __getitem__(self, chosen: slice | np.ndarray, /) -> np.ndarray:
        return self.table.read(self.digests.take(chosen))


@dataclass
class FeatureExtractor:
    """Extracts features for one worker: the images, the stores, and the engine of its device."""

    dataset: ImageDataset
    split: Split
    store: FeatureStore
    boundary_store: FeatureStore
    """For boundary activations, which are kept only for one search."""
    engine: Engine
    device: str
    threads: int
    conversions: Path | None = None
    """Folder where engines cache converted networks, and where their cosines and the backbones' layouts are kept."""
    deadline: Deadline = field(default_factory=Deadline)
    """When extraction must end."""
    on_progress: Callable[[ExtractionProgress], None] = field(default=lambda progress: None)
    """Called after each batch."""
    log: Callable[[str], None] = field(default=lambda line: None)
    augmentations: Mapping[str, Augmentation] = field(default_factory=lambda: BUILT_IN_AUGMENTATIONS)
    """The policies of views, by name."""
    feature_levels: Mapping[str, Levels] = field(default_factory=lambda: BUILT_IN_LEVELS)
    """By name."""
    first_bucket: int = 0  # see `extract_missing`
    decodes: bool = False  # whether the device's GPU decodes images
    resident: ResidentCache | None = None
    """What stays in an accelerator's memory; None on CPUs."""
    pool: FeaturePool | None = None
    """Where hosts share features; not the boundary activations."""
    extraction_seconds: float = 0.0
    """Seconds spent in extraction so far, including the time waiting for other processes."""
    _features: dict[str, "BackboneFeatures"] = field(default_factory=dict, init=False)

    def move_to(self, store: FeatureStore, conversions: Path) -> None:
        """Use another store and another folder for conversions from now on."""
        self.store, self.conversions = store, conversions
        self.release_networks()

    def release_networks(self) -> None:
        """Free the memory of all networks. They are built again when they are needed."""
        self._features.clear()
        if self.resident:
            self.resident.clear()

    @property
    def loads_tensors(self) -> bool:
        """Whether images are loaded to an accelerator."""
        return is_accelerator(self.device) and self.engine.takes_tensors

    def loader(self, preprocessing: Preprocessing, view: View, path_of: Mapping[str, Path]) -> PixelLoader:
        """Loads a view of images to this extractor's device, if its engine takes them there."""
        given = (path_of, preprocessing, view, self.augmentations, self.threads)
        return AcceleratorLoader(*given, self.device, self.decodes) if self.loads_tensors else PixelLoader(*given)

    def keep_networks_of(self, kept: "BackboneFeatures") -> None:
        """Free the device's memory of the compiled networks of all other backbones."""
        for features in self._features.values():
            if features is not kept:
                features.drop_compiled()

    def of(self, backbone: Backbone) -> "BackboneFeatures":
        """The features of one backbone. Its network is built once for all trials."""
        if backbone.name not in self._features:
            self._features[backbone.name] = BackboneFeatures(self, backbone)
        return self._features[backbone.name]


class BackboneFeatures:
    """The features that one frozen backbone extracts from the images of a study."""

    def __init__(self, extractor: FeatureExtractor, backbone: Backbone):
        self.extractor, self.backbone = extractor, backbone
        self.engine = extractor.engine
        self._compiled: dict[int | None, Compiled] = {}
        self._residents = Residents(self)
        self._boundary_shapes: dict[int, tuple[int, ...] | None] = {}
        self._engine_is_checked = False

    def drop_compiled(self) -> None:
        """Free the memory of the compiled networks."""
        self._compiled.clear()

    @cached_property
    def graph_split(self) -> "GraphSplit":
        """The network, built and split into blocks."""
        from autotl.backbones.graph_split import GraphSplit

        module = self.backbone.build()
        return GraphSplit(module, self.backbone.blocks(module))

    @cached_property
    def layout(self) -> Layout:
        """Which features belong to which levels. Kept in a file, so that no network is built for it again."""
        from autotl.backbones.graph_split import FeatureLevels

        file = self.kept_file("layout", LAYOUT_KEY, "json")
        if file and file.exists():
            try:
                return Layout.from_dict(read_sealed(file))
            except (OSError, ValueError, TypeError):
                pass  # damaged: measured and written again below
        layout = FeatureLevels(self.graph_split).layout(self.backbone.preprocessing.size)
        if file:
            with suppress(OSError):  # the next process measures it again
                write_sealed(file, asdict(layout))
        return layout

    def levels(self, subset: "str | np.ndarray", levels: str, view: View = ORIGINAL) -> np.ndarray:
        """The features of `levels` [n, num_features], float32, in the order of the subset or of the indices."""
        slices = self.layout.slices(find_named("levels", levels, self.extractor.feature_levels))
        samples = self.samples(subset, view, None, (self.layout.width,), self.extractor.store)
        parts = [samples.table.read(samples.digests, "float32", part) for part in slices]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def recorded(self, subset: "str | np.ndarray", view: View = ORIGINAL) -> StoredSamples | None:
        """All levels [n, layout.width], in the order of the subset or of the indices, where all are recorded; else
        None."""
        digests = self.digests(subset)
        width = (self.layout.width,)
        table = self.extractor.store.open(self._spec(view, None), width, FEATURE_DTYPE, self.backbone.name)
        return None if table.missing(digests) else StoredSamples(table, digests)

    def num_features(self, levels: str) -> int:
        """The number of features of `levels`."""
        return self.layout.num_features(find_named("levels", levels, self.extractor.feature_levels))

    def boundary(
        self, subset: Literal["train", "validation", "test"], block: int, view: View = ORIGINAL
    ) -> "StoredSamples | ResidentSamples | None":
        """The input of block `block`, float16 [n, ...]; for block 0 the images, uint8 [n, size, size, 3].

        On an accelerator the samples stay in its memory, if the images fit. None where the network can't be split
        there, the activations are much larger than the images, or the images fit into the memory and they don't.
        """
        shape = self._boundary_shape(block)
        if shape is None:
            return None
        if self._residents.hold_images():
            resident = self._residents.samples(subset, view, block, shape)
            if resident is not None or block > 0:
                return resident
        return self.samples(subset, view, block, shape, self.extractor.boundary_store)

    def _boundary_shape(self, block: int) -> tuple[int, ...] | None:
        """The shape of a block's input; None where it can't be recorded, or takes much more space than the image."""
        size = self.backbone.preprocessing.size
        image = (size, size, 3)
        if block == 0:
            return image
        if block not in self._boundary_shapes:
            self._boundary_shapes[block] = self._measure_boundary(block)
        shape = self._boundary_shapes[block]
        if shape is None or np.prod(shape) * np.dtype(FEATURE_DTYPE).itemsize > BOUNDARY_BYTES * np.prod(image):
            return None
        return shape

    def _measure_boundary(self, block: int) -> tuple[int, ...] | None:
        import torch

        if self.graph_split.cut(block) is None:
            return None
        size = self.backbone.preprocessing.size
        with torch.inference_mode():
            activations = self.graph_split.prefix(block)(torch.zeros(1, 3, size, size))
        return tuple(activations.shape[1:]) if isinstance(activations, torch.Tensor) else None  # some pass tuples

    def samples(
        self, subset: "str | np.ndarray", view: View, block: int | None, shape: tuple[int, ...], store: FeatureStore
    ) -> "StoredSamples":
        """The samples of a subset in the order of the split, after extracting those that aren't recorded yet."""
        extractor = self.extractor
        digests = self.digests(subset)
        decodes_only = block == 0
        if not decodes_only:
            self.check_engine(subset)
        label = "images" if decodes_only else self.backbone.name
        table = store.open(self._spec(view, block), shape, "uint8" if decodes_only else FEATURE_DTYPE, label)
        if missing := table.missing(digests):

            def compute(claimed: Iterator[str]) -> Iterator[tuple[list[str], np.ndarray]]:
                return self._compute(claimed, len(missing), self.path_of(subset), view, block)

            began = time.monotonic()
            pool = extractor.pool if store is extractor.store else None
            extract_missing(table, digests, compute, extractor.deadline, start=extractor.first_bucket, pool=pool)
            extractor.extraction_seconds += time.monotonic() - began
        if not is_accelerator(extractor.device):
            self._compiled.clear()  # hundreds of MiB each; recompiling from the cached conversion is fast
        return StoredSamples(table, digests)

    def _indices(self, subset: "str | np.ndarray") -> np.ndarray:
        return getattr(self.extractor.split, subset) if isinstance(subset, str) else subset

    def digests(self, subset: "str | np.ndarray") -> DigestColumn:
        """The digests of a subset's images, in the order of the split."""
        return DigestColumn.of(self.extractor.dataset.digests).take(self._indices(subset))

    def path_of(self, subset: "str | np.ndarray") -> Mapping[str, Path]:
        """The image files of a subset, by digest."""
        dataset, rows = self.extractor.dataset, self._indices(subset)
        return ByDigest(DigestColumn.of(dataset.digests).take(rows), lambda i: dataset.paths[int(rows[i])])

    def _spec(self, view: View, block: int | None) -> dict[str, Any]:
        """Everything that determines a row except the image. Decoded images don't depend on engine and device."""
        extractor, preprocessing = self.extractor, self.backbone.preprocessing
        spec = {"preprocessing": asdict(preprocessing), "view": view_key(view, extractor.augmentations), "block": block}
        if extractor.decodes and (decoder := decoder_of(view, preprocessing, extractor.augmentations)):
            spec["decoder"] = decoder
        return spec if block == 0 else spec | {"backbone": self.backbone.digest} | self.engine_key()

    def engine_key(self) -> dict[str, Any]:
        """Identifies what computes the features. Called for each read, so everything slow in it is cached."""
        device = self.extractor.device
        return {
            "engine": self.engine.name,
            "engine_version": self.engine.version(),
            "precision": self.engine.precision(device),
            "device_type": device.split(":")[0],
            "libraries": library_versions(),
        }

    def _compute(
        self, digests: Iterable[str], total: int, path_of: Mapping[str, Path], view: View, block: int | None
    ) -> Iterator[tuple[list[str], np.ndarray]]:
        extractor = self.extractor
        ran = "levels" if block is None else f"prefix-{block}" if block else "images"
        run = self.compiled(block) if block != 0 else None
        began, done = time.monotonic(), 0

        loader = extractor.loader(self.backbone.preprocessing, view, path_of)

        def work(chunk: list[str]) -> np.ndarray:
            with loader.stream():
                images = loader.load(chunk)
                if run is not None:
                    return run(images)
                return images if isinstance(images, np.ndarray) else to_host(images).numpy()

        try:
            for chunk, rows in batches(digests, work, loader.threads, loader.batch):
                yield chunk, rows
                done += len(chunk)
                self.report(ran, view, done, total, began)
        finally:
            loader.close()

    def report(self, ran: str, view: View, done: int, total: int, began: float) -> None:
        """Report the progress of a pass that began at a moment of the monotonic clock."""
        rate = done / max(1e-6, time.monotonic() - began)
        progress = ExtractionProgress(self.backbone.name, ran, str(view), done, total, rate)
        self.extractor.on_progress(progress)

    def check_engine(self, subset: "str | np.ndarray") -> None:
        """Once per backbone, compare the engine's features of real images with PyTorch's in fp32; if they differ,
        replace the engine by PyTorch in fp32."""
        if self._engine_is_checked:
            return
        if self.engine.name == TorchEngine.name and self.engine.precision(self.extractor.device) == "fp32":
            return
        cosine = self._cosine(subset)
        if cosine < MIN_COSINE:
            self.extractor.log(
                f"{self.backbone.name}: features of engine {self.engine.name} differ from PyTorch's in fp32 "
                f"(mean cosine {cosine:.3f}, at least {MIN_COSINE} is required): torch is used instead"
            )
            self.engine = TorchEngine(bf16=False)
            self._compiled.clear()
        self._engine_is_checked = True

    def _cosine(self, subset: "str | np.ndarray") -> float:
        """The engine's cosine, from a file of an earlier check or measured on some of the images."""
        file = self.kept_file("cosine", self.engine_key(), "json")
        if file and file.exists():
            with suppress(OSError, ValueError, TypeError):  # damaged: measured and written again below
                return float(read_sealed(file))
        extractor, digests = self.extractor, self.digests(subset)
        loader = PixelLoader(
            self.path_of(subset), self.backbone.preprocessing, ORIGINAL, extractor.augmentations, extractor.threads
        )
        images = loader.load(digests[:8])
        cosine = engine_cosine(self.compiled(None), self.network(None), images)
        if file:
            with suppress(OSError):  # the next process measures it again
                write_sealed(file, cosine)
        return cosine

    def kept_file(self, name: str, key: dict[str, Any], suffix: str) -> Path | None:
        """The file where a fact about this backbone under `key` is kept; None where nothing is kept."""
        folder = self.extractor.conversions
        return fact_file(folder, name, key, self.backbone.digest, suffix) if folder else None

    def compiled(self, block: int | None) -> Compiled:
        """The compiled network with all feature levels, or up to a block."""
        if block not in self._compiled:
            extractor = self.extractor
            if extractor.deadline.remaining() < COMPILE_SECONDS:
                raise StoreTimeout(f"the time was up before {self.backbone.name} was compiled")
            extractor.keep_networks_of(self)
            self._compiled[block] = self.engine.compile(
                self.network(block),
                self.backbone.preprocessing.size,
                extractor.device,
                extractor.threads,
                self.engine.precision(extractor.device),
                cache=extractor.conversions,
                key=conversion_key(self.backbone.digest, block),
            )
        return self._compiled[block]

    def network(self, block: int | None) -> "nn.Module":
        """Uint8 images to all feature levels, or to the input of a block. Shares its modules with `graph_split`."""
        from autotl.backbones.graph_split import FeatureLevels, Normalize

        network = FeatureLevels(self.graph_split) if block is None else self.graph_split.prefix(block)
        return Normalize(network, self.backbone.preprocessing).eval()
