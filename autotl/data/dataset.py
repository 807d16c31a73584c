"""Labelled images: their files, classes, and a digest of each image's bytes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # a plugin that registers a data set is loaded by `autotl --help`: NumPy would be half of its time
    import numpy as np

__all__ = ["DatasetSource", "Finding", "ImageDataset", "LabelledImage", "Skipped", "Subset"]

Subset = Literal["", "train", "validation", "test"]


@dataclass(frozen=True)
class LabelledImage:
    """One row of what a source lists. `subset` is "" where the source doesn't say; images of one `group` (a patient, a
    module) never end up in different subsets."""

    path: Path
    label: str
    subset: Subset = ""
    group: str = ""


@dataclass(frozen=True)
class Skipped:
    """An image that was left out, and why, in words."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Finding:
    """Something that a user should know about a dataset."""

    code: str
    """A word for programs: `same_in_subsets`, `uneven_classes`, …"""
    serious: bool
    """It puts a score in doubt: a search says it too."""
    text: str
    """A line for people."""
    count: int
    examples: tuple[str, ...] = ()
    """The first few."""


class DatasetSource(ABC):
    """A kind of place that labelled images come from: a folder, a manifest, a data set by name."""

    name: str

    @abstractmethod
    def matches(self, location: str) -> bool:
        """Whether `location`, as the user typed it, is one of this source's."""

    @abstractmethod
    def images(self, location: str) -> list[LabelledImage]:
        """All images there, undecoded. Raises DataError where the place isn't as it should be; what it leaves out it
        says with `warnings.warn`, which the user gets to see."""


@dataclass(frozen=True)
class ImageDataset:
    """Labelled images that can all be decoded."""

    name: str
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: "np.ndarray"
    """int64 [n]: indices into `classes`."""
    digests: tuple[str, ...]
    """Of each file's bytes: 32 hex digits."""
    subsets: tuple[Subset, ...]
    groups: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    findings: tuple[Finding, ...] = ()
    warnings: tuple[str, ...] = ()
    """What the user should know before trusting a score, a line each."""

    def __len__(self) -> int:
        return len(self.paths)
