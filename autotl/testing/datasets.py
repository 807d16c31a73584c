"""The requirements of a dataset source, checked at a location that exists on this machine."""

import re
from collections import Counter
from pathlib import Path
from typing import get_args

from autotl.data.dataset import DatasetSource, LabelledImage, Subset
from autotl.data.members import is_image_file
from autotl.testing.check import Checks, Unexpected, expect

__all__ = ["DATASET"]

DATASET = Checks("dataset", DatasetSource, options=("location",))
MAX_DECODED = 10
"""Images of each class and subset that are decoded. The listing is checked completely."""


@DATASET.requires(DatasetSource.matches)
def matches_only_its_own_locations(source: DatasetSource, location: str | None = None) -> None:
    """A source has a name without spaces. `matches` is True for its own locations and False for all others, including
    ones that don't exist."""
    expect(isinstance(source.name, str) and re.fullmatch(r"\S+", source.name), f"name is {source.name!r}")
    location = location or source.name
    expect(source.matches(location) is True, f"matches({location!r}) is {source.matches(location)!r}")
    for other in ("no/such/location.at.all", "\0", "https://example.org/another-dataset"):
        expect(source.matches(other) is False, f"matches({other!r}) is {source.matches(other)!r}")


@DATASET.requires(LabelledImage)
def lists_labelled_images(source: DatasetSource, location: str | None = None) -> None:
    """`images` returns a list of LabelledImage with at least two labels. Each file exists and is listed once; each
    subset is "", "train", "validation" or "test"."""
    images = source.images(location or source.name)
    expect(isinstance(images, list) and images, f"images returns {type(images).__name__} of length {len(images)}")
    for image in images:
        expect(isinstance(image, LabelledImage), f"{image!r} is among the images")
        expect(isinstance(image.path, Path), f"the path {image.path!r} is a {type(image.path).__name__}")
        expect(isinstance(image.label, str) and image.label.strip(), f"{image.path} has the label {image.label!r}")
        expect(image.subset in get_args(Subset), f"{image.path} is in subset {image.subset!r}")
    missing = [image.path for image in images if not is_image_file(image.path)]
    expect(not missing, f"{len(missing)} of {len(images)} files don't exist: {missing[0] if missing else ''}")
    expect(len({image.label for image in images}) >= 2, f"all images have the label {images[0].label!r}")
    repeated = [path for path, count in Counter(image.path for image in images).items() if count > 1]
    expect(not repeated, f"{len(repeated)} files are listed more than once: {repeated[:1]}")


@DATASET.requires(DatasetSource.images)
def lists_the_same_images_each_time(source: DatasetSource, location: str | None = None) -> None:
    """Every call of `images` lists the same images in the same order: a study's split depends on it."""
    location = location or source.name
    first, second = source.images(location), source.images(location)
    difference = next((f"{a} and then {b}" for a, b in zip(first, second, strict=False) if a != b), "")
    expect(first == second, f"at first {difference or f'{len(first)} images, and then {len(second)}'}")


@DATASET.requires(LabelledImage)
def groups_stay_in_one_subset(source: DatasetSource, location: str | None = None) -> None:
    """All images of one group (a patient, a module) are in one subset: otherwise the score is optimistic because of
    leakage."""
    subsets_of: dict[str, set[str]] = {}
    for image in source.images(location or source.name):
        if image.group and image.subset:
            subsets_of.setdefault(image.group, set()).add(image.subset)
    across = sorted(group for group, subsets in subsets_of.items() if len(subsets) > 1)
    expect(not across, f"{len(across)} groups are in several subsets: {across[:1]}")


@DATASET.requires(DatasetSource.images)
def images_can_be_loaded(source: DatasetSource, location: str | None = None) -> None:
    """The files can be decoded, and every class has training images."""
    from autotl.data.loading import load_dataset

    location = location or source.name
    sample = _Sample(source)
    dataset = load_dataset(location, {source.name: sample})
    if dataset.skipped:
        raise Unexpected(f"{dataset.skipped[0].path} can't be decoded: {dataset.skipped[0].reason}")
    labels = {image.label for image in source.images(location)}
    expect(set(dataset.classes) == labels, f"classes {sorted(labels ^ set(dataset.classes))} have no training images")


class _Sample(DatasetSource):
    """The first images of each class and subset of another source."""

    def __init__(self, source: DatasetSource):
        self.name, self._source = source.name, source

    def matches(self, location: str) -> bool:
        return self._source.matches(location)

    def images(self, location: str) -> list[LabelledImage]:
        counts: Counter[tuple[str, str]] = Counter()
        images = []
        for image in self._source.images(location):
            if counts[image.label, image.subset] < MAX_DECODED:
                counts[image.label, image.subset] += 1
                images.append(image)
        return images
