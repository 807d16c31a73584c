"""Split of a dataset into training, validation and test images, without leakage: stratified and fixed by a seed, or
forward in time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from autotl.data.dataset import ImageDataset, join_names
from autotl.data.folds import ALWAYS_TRAINED, draw_folds
from autotl.data.near_duplicates import connected
from autotl.errors import DataError
from autotl.escaping import escape

__all__ = ["Split", "connect", "connected_units", "make_split", "units_of"]

NUM_SUBSETS = 3
NUM_DRAWS = 8
"""Draws of whole groups, of which the fold whose classes come closest to the fraction is taken."""
MANY_IMAGES = 10_000
"""Images above which one draw is close enough: it takes seconds."""
UNIT_SIZE = 1.05
"""Mean size of a unit (an image and its near-duplicates) from which the sizes of units count when a subset is drawn."""


@dataclass(frozen=True, eq=False)
class Split:
    """Sorted int64 indices into a dataset. The subsets are disjoint; `test` is empty if there is no test subset."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    seed: int
    warnings: tuple[str, ...] = ()
    """What the user should know about this split, one line each."""
    folds: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """The fold of each training image, from 1; the validation images are fold 0. ALWAYS_TRAINED for images that no fold
    holds out; empty where none does."""

    @property
    def development(self) -> np.ndarray:
        """Sorted indices of the training and validation images."""
        return np.sort(np.concatenate([self.train, self.validation]))

    @property
    def development_folds(self) -> np.ndarray:
        """The fold of each of the `development` images."""
        of_train = self.folds if len(self.folds) else np.full(len(self.train), ALWAYS_TRAINED)
        order = np.argsort(np.concatenate([self.train, self.validation]), kind="stable")
        return np.concatenate([of_train, np.zeros(len(self.validation), np.int64)])[order]

    @property
    def num_folds(self) -> int:
        """The number of folds; 1 where only the validation images are held out."""
        return 1 + max(0, int(self.folds.max(initial=0)))

    def of_fold(self, fold: int) -> "Split":
        """The split that holds out another fold in place of the validation images."""
        images, folds = self.development, self.development_folds
        return replace(self, train=images[folds != fold], validation=images[folds == fold], folds=self.folds[:0])

    def to_dict(self) -> dict[str, Any]:
        """The split as values for JSON."""
        return {
            "train": self.train.tolist(),
            "validation": self.validation.tolist(),
            "test": self.test.tolist(),
            "seed": self.seed,
            "warnings": list(self.warnings),
            "folds": self.folds.tolist(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Split":
        """The split that `to_dict` returned.

        Raises:
            TypeError, ValueError, KeyError: `data` is something else.
        """
        data = {"folds": [], **data}  # a study of an older format is told to be one later
        lines, seed = data["warnings"], data["seed"]
        if not (isinstance(lines, list) and all(isinstance(line, str) for line in lines) and isinstance(seed, int)):
            raise TypeError("its warnings or its seed are of another type")
        arrays = {}
        for name in ("train", "validation", "test", "folds"):
            if not (isinstance(data[name], list) and all(type(number) is int for number in data[name])):
                raise TypeError(f"{name} is not a list of numbers")
            arrays[name] = np.array(data[name], dtype=np.int64)
        folds = arrays["folds"]
        if len(folds) and (len(folds) != len(arrays["train"]) or not (folds >= ALWAYS_TRAINED).all()):
            raise ValueError("its folds are not those of the training images")
        return cls(**arrays, seed=seed, warnings=tuple(escape(line) for line in lines))


def make_split(
    dataset: ImageDataset,
    seed: int,
    test: Literal["auto", "none"] = "auto",
    validation_fraction: float = 0.2,
    test_fraction: float = 0.2,
) -> Split:
    """Keep the subsets that the dataset has, and draw the missing ones from its training images.

    Without a validation and a test subset, `test_fraction` is held out first; without a validation subset,
    `validation_fraction` of the remaining images. A dataset with a validation subset but no test subset gets none.

    Images of one group, near-duplicates, and images with the same digest, stay together. With groups the subset sizes
    are as close to the fractions as whole groups allow (a fraction other than 1/k is rounded to the nearest 1/k). The
    only image (or group) of a class is a training image (or group).

    Where the images have times, the latest ones are held out instead: the test images are later than the validation
    images, and those later than the training images. A group is as late as its latest image. The earliest image of a
    class that the training images would lack is a training image.

    The training images are divided into folds (see `autotl.data.folds`), unless they have times.

    Args:
        seed: the same seed and dataset give the same split. Times leave nothing to draw.
        test: "none" holds out no test images, and leaves the images of a given test subset unused.

    Raises:
        DataError: there are too few images or groups to draw a subset.
    """
    subsets = np.array(dataset.subsets)
    train_indices = np.flatnonzero(np.isin(subsets, ("", "train")))
    validation_indices, test_indices = (np.flatnonzero(subsets == subset) for subset in ("validation", "test"))
    warnings: list[str] = []
    if not len(train_indices):
        raise DataError("The dataset has no training images.")
    if test == "none":
        if len(test_indices):
            warnings.append(f"{len(test_indices):,} test images are unused (--test none).")
        test_indices = test_indices[:0]
    units = _units(dataset, train_indices, warnings)
    if test == "auto" and not len(test_indices) and not len(validation_indices):
        remedy = "Add images, give test images with --test DIR, or omit the test subset with --test none"
        train_indices, test_indices = _hold_out(
            dataset, units, train_indices, test_fraction, seed, "test", remedy, warnings
        )
    if not len(validation_indices):
        remedy = "Add images, or give validation images: folders train/ and val/, or a column split in a manifest"
        train_indices, validation_indices = _hold_out(
            dataset, units, train_indices, validation_fraction, seed, "validation", remedy, warnings
        )
    split = Split(train_indices, validation_indices, test_indices, seed, tuple(dict.fromkeys(warnings)))
    if dataset.times:  # no fold may be earlier than what its model was trained on
        return split
    images = split.development
    held_out = np.isin(images, split.validation)
    return replace(split, folds=draw_folds(dataset.labels[images], units[images], held_out, seed))


def connected_units(dataset: ImageDataset) -> np.ndarray:
    """int64 [n]: one number for all images that stay together in a split: of one group, near-duplicates, equal."""
    return _units(dataset, np.arange(len(dataset)), [])


def _units(dataset: ImageDataset, indices: np.ndarray, warnings: list[str]) -> np.ndarray:
    """int64 [n]: the unit of each image. Images of a unit stay together: connected by groups, digests, looks, or a
    chain of them.

    Looks don't count for a class that has too few units to be in every subset by them alone. Appends to `warnings`.

    Args:
        indices: of the images that are split.
    """
    by_content = connect(len(dataset), dataset.digests, dataset.groups)
    if not dataset.lookalikes:
        return by_content
    lookalikes = np.array(dataset.lookalikes)
    units = connect(len(dataset), by_content, lookalikes)
    alike = []
    for label in np.unique(dataset.labels[indices]):
        of_class = indices[dataset.labels[indices] == label]
        by_looks, without = (len(np.unique(ids[of_class])) for ids in (units, by_content))
        if by_looks < min(without, NUM_SUBSETS):
            alike.append(label)
    if not alike:
        return units
    names = join_names([dataset.classes[label] for label in alike])
    warnings.append(
        f"Nearly all images of one class look the same: {names}. They are split at random, and the scores of these "
        "classes are optimistic."
    )
    alone = np.flatnonzero(np.isin(dataset.labels, alike))
    lookalikes[alone] = lookalikes.max() + 1 + np.arange(len(alone))
    return connect(len(dataset), by_content, lookalikes)


def units_of(dataset: ImageDataset, images: np.ndarray) -> np.ndarray:
    """int64 [n]: one number for all images that are of one group, of the same bytes or near-duplicates, or connected by
    a chain of these.

    Args:
        images: indices into the dataset.
    """
    ids = (dataset.digests, dataset.groups, *([dataset.lookalikes] if dataset.lookalikes else []))
    return connect(len(images), *(np.asarray(values)[images] for values in ids))


def connect(n: int, *ids: Sequence[Any] | np.ndarray) -> np.ndarray:
    """int64 [n]: one number for all images that share a value of any of `ids`, or a chain of them; "" is no value."""
    pairs = []
    for values in ids:
        array = np.asarray(values)
        _, first, inverse = np.unique(array, return_index=True, return_inverse=True)
        links = np.stack([np.arange(len(inverse)), first[inverse]], axis=1)  # each image, and the first of its value
        pairs.append(links[array != ""] if array.dtype.kind == "U" else links)
    return connected(n, np.concatenate(pairs))


def _hold_out(
    dataset: ImageDataset,
    units: np.ndarray,
    indices: np.ndarray,
    fraction: float,
    seed: int,
    subset: str,
    remedy: str,
    warnings: list[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a subset from `indices`. Appends to `warnings`.

    Returns:
        The remaining indices, and those of the subset.
    """
    if not 0 < fraction < 1:
        raise DataError(f"The {subset} fraction must be between 0 and 1, not {fraction}.")
    labels, units = dataset.labels[indices], units[indices]
    if dataset.times:
        return _hold_out_latest(dataset, units, indices, fraction, subset, remedy, warnings)
    has_groups = any(dataset.groups[i] for i in indices)
    # near-duplicates differ in number as groups do, which averages out over many units
    alike = bool(dataset.lookalikes) and len(units) <= MANY_IMAGES
    by_size = has_groups or (alike and len(units) > UNIT_SIZE * len(np.unique(units)))
    eligible, single_unit_classes = _eligible(labels, units)
    noun = "group" if has_groups else "image"
    if single_unit_classes:
        names = join_names([dataset.classes[c] for c in single_unit_classes])
        warnings.append(f"Classes with a single training {noun}, and none for validation or testing: {names}.")
    chosen = None
    if eligible.any():
        choose = _choose_groups if by_size else _choose_stratified
        chosen = choose(labels[eligible], units[eligible], fraction, seed % 2**32)
    held_out = np.isin(units, chosen) if chosen is not None else np.zeros(len(indices), dtype=bool)
    # a unit of several classes can take the last training images of a class: return such a unit to training
    for label in np.setdiff1d(labels, labels[~held_out]):
        held_out &= units != units[labels == label][0]
    if not held_out.any():
        raise DataError(f"There are too few {noun}s to hold out a {subset} subset. {remedy}")
    missing = set(labels.tolist()) - set(labels[held_out].tolist()) - set(single_unit_classes)
    if missing:
        names = join_names([dataset.classes[c] for c in sorted(missing)])
        warnings.append(f"No {subset} image of {names}: too few {noun}s. The {subset} score doesn't cover every class.")
    return indices[~held_out], indices[held_out]


def _hold_out_latest(
    dataset: ImageDataset,
    units: np.ndarray,
    indices: np.ndarray,
    fraction: float,
    subset: str,
    remedy: str,
    warnings: list[str],
) -> tuple[np.ndarray, np.ndarray]:
    """As `_hold_out`, of the latest images. Those of one time stay together; `units` are those of `indices`."""
    times = np.array([np.nan if (time := dataset.times[i]) is None else time for i in indices])
    if missing := int(np.isnan(times).sum()):
        example = dataset.paths[indices[np.isnan(times)][0]]
        raise DataError(
            f"{missing:,} of {len(times):,} images to split have no time, for example {example}. Give all of them a "
            "time, or none."
        )
    _, units = np.unique(units, return_inverse=True)
    latest = np.full(units.max() + 1, -np.inf)
    np.maximum.at(latest, units, times)
    latest = latest[units]
    starts = np.unique(latest)[1:]  # the subset may begin with each time but the first
    if not len(starts):
        raise DataError(
            f"All images to split, or groups of them, have one time: no {subset} subset is later than others. {remedy}"
        )
    sizes = len(times) - np.searchsorted(np.sort(latest), starts)
    start = starts[np.abs(sizes - fraction * len(times)).argmin()]
    held_out = latest >= start
    labels = dataset.labels[indices]
    late_classes = np.setdiff1d(labels, labels[~held_out])
    for label in late_classes:
        of_class = np.flatnonzero(labels == label)
        held_out &= units != units[of_class[times[of_class].argmin()]]
    if parted := np.intersect1d(late_classes, labels[held_out]).tolist():
        names = join_names([dataset.classes[c] for c in parted])
        warnings.append(f"Classes that begin with the {subset} images, whose earliest image is for training: {names}.")
    if not held_out.any():
        raise DataError(f"There are too few images to hold out a {subset} subset. {remedy}")
    if unseen := sorted(set(labels.tolist()) - set(labels[held_out].tolist())):
        names = join_names([dataset.classes[c] for c in unseen])
        warnings.append(f"No {subset} image of {names}: none is as late. The {subset} score doesn't cover every class.")
    return indices[~held_out], indices[held_out]


def _eligible(labels: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """bool [n]: which images may be held out; and the classes with a single unit, which stays in training."""
    pairs = np.unique(np.stack([labels, units]), axis=1)
    classes, first, counts = np.unique(pairs[0], return_index=True, return_counts=True)
    required = pairs[1][first[counts == 1]]
    return ~np.isin(units, required), classes[counts == 1].tolist()


def _choose_stratified(labels: np.ndarray, units: np.ndarray, fraction: float, seed: int) -> np.ndarray | None:
    """The units to hold out, where each unit is one image or its duplicates. None if no class has two units."""
    from sklearn.model_selection import StratifiedShuffleSplit

    unique_units, first = np.unique(units, return_index=True)
    unit_labels = labels[first]
    # a class can be left with one eligible unit, if its others are the required ones of rarer classes
    classes, counts = np.unique(unit_labels, return_counts=True)
    keep = np.isin(unit_labels, classes[counts > 1])
    unique_units, unit_labels = unique_units[keep], unit_labels[keep]
    n, num_classes = len(unique_units), int((counts > 1).sum())
    if not n:
        return None
    size = min(max(round(n * fraction), num_classes), n - num_classes)  # at least one unit per class on both sides
    splitter = StratifiedShuffleSplit(1, test_size=size, random_state=seed)
    _, chosen = next(splitter.split(unique_units, unit_labels))
    return unique_units[chosen]


def _choose_groups(labels: np.ndarray, units: np.ndarray, fraction: float, seed: int) -> np.ndarray | None:
    """The units to hold out, where units differ in size: the fold whose class counts are closest to the fraction."""
    import warnings

    from autotl.data.stratified_groups import QuickStratifiedGroupKFold

    class_counts = np.bincount(labels)
    num_folds = min(max(2, round(1 / fraction)), len(np.unique(units)), int(class_counts.max()))
    if num_folds < 2:
        return None
    best, min_error = None, np.inf
    with warnings.catch_warnings():  # a warning of classes with fewer images than folds is irrelevant for one fold
        warnings.simplefilter("ignore")
        folds = [
            fold
            for draw in range(NUM_DRAWS if len(labels) <= MANY_IMAGES else 1)
            for fold in QuickStratifiedGroupKFold(num_folds, shuffle=True, random_state=(seed + draw) % 2**32).split(
                labels, labels, units
            )
        ]
    for _, fold in folds:
        fold_counts = np.bincount(labels[fold], minlength=len(class_counts))
        error = float(np.abs(fold_counts - class_counts * fraction).sum())
        if error < min_error and len(fold):
            best, min_error = np.unique(units[fold]), error
    return best
