"""What every row of the bench stands on: how work is registered, what a row says, and the ground it runs on."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from autotl.backbones.base import Backbone
from autotl.data.dataset import ImageDataset
from autotl.data.loading import load_dataset
from autotl.data.splits import Split
from autotl.engines.base import Engine
from autotl.features.extractor import FeatureExtractor
from autotl.features.store import FeatureStore
from autotl.registry import Registry, load_registry

__all__ = ["WORKS", "Ground", "Row", "at_least", "at_most", "seconds", "whole", "work"]


OF_IMAGES = ("paths", "digests", "subsets", "groups", "times", "lookalikes")
"""Fields of a data set with a value for each image."""


@dataclass(frozen=True)
class Row:
    """One line of the table. `naive` and `ratio` are None where there is nothing to compare with."""

    work: str
    naive: float | None
    autotl: float
    unit: str
    ratio: float | None
    target: str
    holds: bool


def at_least(work: str, naive: float, autotl: float, unit: str, ratio: float) -> Row:
    """autotl has to do `ratio` times as much as the naive way, or that share of it."""
    words = f"≥ {ratio:g} ×" if ratio >= 1 else f"≥ {ratio:.0%}"
    return Row(work, naive, autotl, unit, autotl / naive, words, autotl >= ratio * naive)


def at_most(work: str, autotl: float, unit: str, most: float, naive: float | None = None) -> Row:
    """autotl may need `most` of the unit. The ratio says how many times the naive way needs as much."""
    return Row(work, naive, autotl, unit, naive / autotl if naive else None, f"≤ {most:,g} {unit}", autotl <= most)


def seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


@dataclass
class Ground:
    """Where the bench runs: one backbone, real images, an empty scratch folder, every core."""

    folder: Path
    backbone_name: str = "efficientnet_lite0"
    clothing: Path | None = None
    images: int | None = None
    """Use no more images of a data set than this: for a quick look that the bench itself works."""
    naive_images: int = 384
    """The naive way is slow: it is timed on so many images."""
    threads: int = 2
    _datasets: dict[str, ImageDataset] = field(default_factory=dict)

    @cached_property
    def registry(self) -> Registry:
        return load_registry()

    @cached_property
    def backbone(self) -> Backbone:
        return self.registry.backbone(self.backbone_name)

    @cached_property
    def engine(self) -> Engine:
        return self.registry.engine(None, "cpu")

    def dataset(self, location: str) -> ImageDataset:
        if location not in self._datasets:
            dataset = load_dataset(location, self.registry.datasets, threads=self.threads)
            few = np.arange(len(dataset))[:: max(1, len(dataset) // (self.images or len(dataset)))][: self.images]
            self._datasets[location] = replace(
                dataset,
                labels=dataset.labels[few],
                **{name: tuple(values[i] for i in few) for name in OF_IMAGES if (values := getattr(dataset, name))},
            )
        return self._datasets[location]

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder that is removed right after: features of one row don't help another."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            yield Path(folder)

    def extractor(
        self, dataset: ImageDataset, split: Split, folder: Path, engine: Engine | None = None
    ) -> FeatureExtractor:
        """What a worker has, on the store in `folder`. Networks that were made ready stay so for all rows."""
        stores = (FeatureStore(folder / name) for name in ("features", "boundary"))
        return FeatureExtractor(
            dataset, split, *stores, engine or self.engine, "cpu", self.threads, conversions=self.folder / "engines"
        )

    def made_ready(self, dataset: ImageDataset, split: Split, folder: Path) -> FeatureExtractor:
        """An extractor whose network has been built, converted and checked on images that aren't recorded with it."""
        extractor = self.extractor(dataset, replace(split, train=split.train[:1]), folder / "ready")
        features = extractor.of(self.backbone)
        features.levels("train", "last")
        extractor.split = split
        extractor.store = FeatureStore(folder / "features")
        return extractor


def whole(dataset: ImageDataset) -> Split:
    """Every image to train on."""
    none = np.arange(0)
    return Split(np.arange(len(dataset)), none, none, seed=0)


WORKS: dict[str, Callable[[Ground], list[Row]]] = {}


def work(measure: Callable[[Ground], list[Row]]) -> Callable[[Ground], list[Row]]:
    """A function that measures something and returns its rows. Its name, with hyphens, selects it."""
    WORKS[measure.__name__.replace("_", "-")] = measure
    return measure
