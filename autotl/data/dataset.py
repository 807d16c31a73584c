"""Labelled images: their files, classes, and a digest of each file's bytes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # `autotl --help` imports the plugins that register a dataset; NumPy would take half of its time
    import numpy as np

__all__ = ["DatasetSource", "Finding", "ImageDataset", "LabelledImage", "Skipped", "Subset", "join_names"]

Subset = Literal["", "train", "validation", "test"]
"""Subset of an image; "" if the source assigns none: such images are split by the search."""


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image that a source lists. Images of one `group` (a patient, a module) never end up in different subsets."""

    path: Path
    label: str
    subset: Subset = ""
    group: str = ""
    time: float | None = None
    """When it was taken, in any unit; seconds since 1970 where a manifest has a date. Where images have times, those
    of the validation and the test subset that are drawn are later than the training images."""


@dataclass(frozen=True)
class Skipped:
    """An image that was left out, and the reason as a sentence for users."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Finding:
    """A data-quality problem of a dataset: leakage between subsets, label noise, class imbalance, …"""

    code: str
    """Stable identifier for programs: `duplicates_across_subsets`, `class_imbalance`, …"""
    text: str
    """One line for users."""
    count: int
    """Number of images, pairs, classes or groups concerned."""
    examples: tuple[str, ...] = ()
    """The first few of them."""
    example: str = ""
    """A sentence with one example, for output that shows `text` without `examples`."""
    serious: bool = field(kw_only=True)
    """Whether the problem puts scores in doubt. A search warns of serious findings only; `autotl doctor` shows all."""

    def line(self) -> str:
        """The text, followed by the example sentence if there is one."""
        return f"{self.text} {self.example}".rstrip()


class DatasetSource(ABC):
    """A kind of location that labelled images come from: a folder, a manifest, a dataset with a name."""

    name: str

    @abstractmethod
    def matches(self, location: str) -> bool:
        """Return whether this source can load `location`, which is text as the user typed it."""

    @abstractmethod
    def images(self, location: str) -> list[LabelledImage]:
        """List all images at `location` without decoding them.

        Report files that are left out with `warnings.warn`: `load_dataset` shows these warnings to the user.

        Raises:
            DataError: the location has an invalid layout.
        """


@dataclass(frozen=True)
class ImageDataset:
    """Labelled images, all decodable. The sequences are kept as columns (`autotl.data.columns`), which behave like
    tuples: a million images take less than 100 MiB."""

    name: str
    classes: tuple[str, ...]
    paths: Sequence[Path]
    labels: "np.ndarray"
    """int64 [n]: indices into `classes`."""
    digests: Sequence[str]
    """Digest of each file's bytes: 32 hex digits."""
    subsets: Sequence[Subset]
    groups: Sequence[str]
    """Group of each image; "" if it has none."""
    times: Sequence[float | None] = ()
    """Time of each image; empty if no image has one."""
    lookalikes: Sequence[int] = ()
    """Number of the near-duplicates that each image belongs to, which no other images have; empty if they were not
    searched for."""
    skipped: tuple[Skipped, ...] = ()
    findings: tuple[Finding, ...] = ()
    warnings: tuple[str, ...] = ()
    """Warnings of the source and the texts of the serious findings, one line each."""

    def __post_init__(self) -> None:
        from autotl.data.columns import DigestColumn, PathColumn, as_column, codes, numbers

        columns: dict[str, Any] = {
            "paths": PathColumn,
            "digests": DigestColumn,
            "subsets": codes,
            "groups": codes,
            "times": numbers,
            "lookalikes": numbers,
        }
        for name, make in columns.items():
            object.__setattr__(self, name, as_column(getattr(self, name), make))

    def __len__(self) -> int:
        return len(self.paths)


def join_names(names: Sequence[str], limit: int = 5) -> str:
    """`a, b, c and 7 more`: the first `limit` names and the number of the others."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit:,} more" if len(names) > limit else "")
