"""What every data set promises, at a location that is here."""

import re
from collections import Counter
from pathlib import Path
from typing import get_args

from autotl.data.dataset import DatasetSource, LabelledImage, Subset
from autotl.testing.check import Checks, Unexpected, expect

__all__ = ["DATASET"]

DATASET = Checks("dataset", DatasetSource, options=("location",))
SAMPLE = 10
"""Images of each class and subset that are read; listing is checked whole."""


@DATASET.requires(DatasetSource.matches)
def matches_its_own_locations_alone(source: DatasetSource, location: str | None = None) -> None:
    """A source has a name without spaces, knows its own locations, and lets the others be, also ones that don't
    exist."""
    expect(isinstance(source.name, str) and re.fullmatch(r"\S+", source.name), f"name is {source.name!r}")
    location = location or source.name
    expect(source.matches(location) is True, f"matches({location!r}) is {source.matches(location)!r}")
    for strange in ("no/such/place.of.anybody", "\0", "https://example.org/a-data-set-of-somebody-else"):
        expect(source.matches(strange) is False, f"matches({strange!r}) is {source.matches(strange)!r}")


@DATASET.requires(LabelledImage)
def lists_labelled_images(source: DatasetSource, location: str | None = None) -> None:
    """`images` lists LabelledImage: files that are there, of two labels or more, each in subset "", "train",
    "validation" or "test", and no file twice."""
    rows = source.images(location or source.name)
    expect(isinstance(rows, list) and rows, f"images returns {type(rows).__name__} of length {len(rows)}")
    for row in rows:
        expect(isinstance(row, LabelledImage), f"{row!r} is among the images")
        expect(isinstance(row.path, Path), f"the path {row.path!r} is a {type(row.path).__name__}")
        expect(isinstance(row.label, str) and row.label.strip(), f"{row.path} has the label {row.label!r}")
        expect(row.subset in get_args(Subset), f"{row.path} is in subset {row.subset!r}")
    gone = [row.path for row in rows if not row.path.is_file()]
    expect(not gone, f"{len(gone)} of {len(rows)} files aren't there: {gone[0] if gone else ''}")
    expect(len({row.label for row in rows}) >= 2, f"all images have the label {rows[0].label!r}")
    twice = [path for path, count in Counter(row.path for row in rows).items() if count > 1]
    expect(not twice, f"{len(twice)} files are listed more than once: {twice[:1]}")


@DATASET.requires(DatasetSource.images)
def lists_the_same_each_time(source: DatasetSource, location: str | None = None) -> None:
    """Asked again it lists the same images in the same order: a study's split stays what it was."""
    location = location or source.name
    first, again = source.images(location), source.images(location)
    odd = next((f"{a} and then {b}" for a, b in zip(first, again, strict=False) if a != b), "")
    expect(first == again, f"at first {odd or f'{len(first)} images, and then {len(again)}'}")


@DATASET.requires(LabelledImage)
def groups_stay_in_one_subset(source: DatasetSource, location: str | None = None) -> None:
    """Images of one group (a patient, a module) are all in one subset: a test image's twin is no training image."""
    subsets: dict[str, set[str]] = {}
    for row in source.images(location or source.name):
        if row.group and row.subset:
            subsets.setdefault(row.group, set()).add(row.subset)
    torn = sorted(group for group, found in subsets.items() if len(found) > 1)
    expect(not torn, f"{len(torn)} groups are in several subsets: {torn[:1]}")


@DATASET.requires(DatasetSource.images)
def images_can_be_loaded(source: DatasetSource, location: str | None = None) -> None:
    """A search can load it: files decode, and there are images of every class to train on."""
    from autotl.data.loading import load_dataset

    location = location or source.name
    sample = _Sample(source)
    dataset = load_dataset(location, {source.name: sample})
    if dataset.skipped:
        raise Unexpected(f"{dataset.skipped[0].path} can't be decoded: {dataset.skipped[0].reason}")
    labels = {row.label for row in source.images(location)}
    expect(set(dataset.classes) == labels, f"classes {sorted(labels ^ set(dataset.classes))} have no image to train on")


class _Sample(DatasetSource):
    """The first images of each class and subset."""

    def __init__(self, source: DatasetSource):
        self.name, self._source = source.name, source

    def matches(self, location: str) -> bool:
        return self._source.matches(location)

    def images(self, location: str) -> list[LabelledImage]:
        taken: Counter[tuple[str, str]] = Counter()
        rows = []
        for row in self._source.images(location):
            if taken[row.label, row.subset] < SAMPLE:
                taken[row.label, row.subset] += 1
                rows.append(row)
        return rows
