"""Which images to train on, to choose by, and to test with: fixed by a seed, stratified, and without leaks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from autotl.data.dataset import ImageDataset
from autotl.errors import DataError

__all__ = ["Split", "make_split"]


@dataclass(frozen=True, eq=False)
class Split:
    """int64 indices into a dataset, sorted; no image is in two subsets. `test` is empty where there is no test subset."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    seed: int
    warnings: tuple[str, ...] = ()
    """What the user should know about this split, a line each."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "train": self.train.tolist(),
            "validation": self.validation.tolist(),
            "test": self.test.tolist(),
            "seed": self.seed,
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Split":
        train, validation, test = (np.array(data[subset], dtype=np.int64) for subset in ("train", "validation", "test"))
        return cls(train, validation, test, data["seed"], tuple(data["warnings"]))


def make_split(
    dataset: ImageDataset,
    seed: int,
    test: Literal["auto", "none"] = "auto",
    validation_fraction: float = 0.2,
    test_fraction: float = 0.2,
) -> Split:
    """Keep the subsets that the dataset has, and make those that it lacks from its training images.

    Without a validation and a test subset, `test_fraction` is held out first; without a validation subset,
    `validation_fraction` of what is left. A dataset with a validation subset alone gets no test subset.

    Images of one group, and images of the same bytes, stay together. With groups the fractions are met as closely as
    whole groups can (a fraction that isn't 1/k is rounded to the nearest). Of a class with one image (or group), that
    one is trained on.

    Args:
        seed: the same seed and dataset give the same split.
        test: "none" holds nothing out, and leaves the images of a test subset unused.

    Raises:
        DataError: where there are too few images or groups to make a subset.
    """
    subsets = np.array(dataset.subsets)
    train = np.flatnonzero(np.isin(subsets, ("", "train")))
    validation, tested = (np.flatnonzero(subsets == subset) for subset in ("validation", "test"))
    said: list[str] = []
    if not len(train):
        raise DataError("There are no images to train on.")
    if test == "none":
        if len(tested):
            said.append(f"{len(tested):,} test images are left unused (--test none).")
        tested = tested[:0]
    units = _units(dataset)
    if test == "auto" and not len(tested) and not len(validation):
        remedy = "Add images, give test images with --test DIR, or do without: --test none"
        train, tested = _set_apart(dataset, units, train, test_fraction, seed, "test", remedy, said)
    if not len(validation):
        remedy = "Add images, or give validation ones: folders train/ and val/, or a column split in a manifest"
        train, validation = _set_apart(dataset, units, train, validation_fraction, seed, "validation", remedy, said)
    return Split(train, validation, tested, seed, tuple(dict.fromkeys(said)))


def _units(dataset: ImageDataset) -> np.ndarray:
    """int64 [n]: the same number for images that must stay together, by group, by bytes, or by a chain of both."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(dataset)
    _, by_digest = np.unique(np.array(dataset.digests), return_inverse=True)
    # an image without a group is one of its own
    _, by_group = np.unique(
        [f"group {g}" if g else f"image {i}" for i, g in enumerate(dataset.groups)], return_inverse=True
    )
    links = coo_array((np.ones(n, dtype=bool), (by_digest, by_group + n)), shape=(2 * n, 2 * n))
    _, component = connected_components(links, directed=False)
    return component[by_digest].astype(np.int64)


def _set_apart(
    dataset: ImageDataset,
    units: np.ndarray,
    rows: np.ndarray,
    fraction: float,
    seed: int,
    subset: str,
    remedy: str,
    said: list[str],
) -> tuple[np.ndarray, np.ndarray]:
    """`rows` without the subset, and the subset."""
    if not 0 < fraction < 1:
        raise DataError(f"The {subset} fraction is between 0 and 1, not {fraction}.")
    labels, units = dataset.labels[rows], units[rows]
    grouped = any(dataset.groups[i] for i in rows)
    free, kept = _free(labels, units)
    kind = "group" if grouped else "image"
    if kept:
        names = _few([dataset.classes[c] for c in kept])
        said.append(f"Only one {kind} to train on, so none to check with: {names}.")
    chosen = None
    if free.any():
        choose = _whole_groups if grouped else _stratified
        chosen = choose(labels[free], units[free], fraction, seed % 2**32)
    apart = np.isin(units, chosen) if chosen is not None else np.zeros(len(rows), dtype=bool)
    for label in np.setdiff1d(labels, labels[~apart]):  # by a unit of several classes: nothing to train on is left
        apart &= units != units[labels == label][0]
    if not apart.any():
        raise DataError(
            f"The images can't be split: no {kind} of any class can be spared for the {subset} subset. {remedy}"
        )
    missing = set(labels.tolist()) - set(labels[apart].tolist()) - set(kept)
    if missing:
        names = _few([dataset.classes[c] for c in sorted(missing)])
        said.append(f"No {subset} image of {names}: too few {kind}s. The {subset} score says nothing about it.")
    return rows[~apart], rows[apart]


def _free(labels: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """bool [n]: which images may be set apart; and the classes that lie in one unit, which has to be trained on."""
    pairs = np.unique(np.stack([labels, units]), axis=1)
    classes, first, counts = np.unique(pairs[0], return_index=True, return_counts=True)
    needed = pairs[1][first[counts == 1]]
    return ~np.isin(units, needed), classes[counts == 1].tolist()


def _stratified(labels: np.ndarray, units: np.ndarray, fraction: float, seed: int) -> np.ndarray | None:
    """The units to set apart where each is one image (or copies of it)."""
    from sklearn.model_selection import StratifiedShuffleSplit

    singles, first = np.unique(units, return_index=True)
    of_unit = labels[first]
    # a class that has one unit left here, its others being needed for rarer classes, is trained on with it
    names, counts = np.unique(of_unit, return_counts=True)
    enough = np.isin(of_unit, names[counts > 1])
    singles, of_unit = singles[enough], of_unit[enough]
    n, num_classes = len(singles), int((counts > 1).sum())
    if not n:
        return None
    size = min(max(round(n * fraction), num_classes), n - num_classes)  # one of each class at least, on both sides
    splitter = StratifiedShuffleSplit(1, test_size=size, random_state=seed)
    _, chosen = next(splitter.split(singles, of_unit))
    return singles[chosen]


def _whole_groups(labels: np.ndarray, units: np.ndarray, fraction: float, seed: int) -> np.ndarray | None:
    """The units to set apart where they differ in size: the fold that is nearest to the fraction in every class."""
    import warnings

    from sklearn.model_selection import StratifiedGroupKFold

    in_all = np.bincount(labels)
    folds = min(max(2, round(1 / fraction)), len(np.unique(units)), int(in_all.max()))
    if folds < 2:
        return None
    best, least = None, np.inf
    with warnings.catch_warnings():  # classes with fewer images than folds are no news: we take one fold
        warnings.simplefilter("ignore")
        splits = list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, units))
    for _, fold in splits:
        off = float(np.abs(np.bincount(labels[fold], minlength=len(in_all)) - in_all * fraction).sum())
        if off < least and len(fold):
            best, least = np.unique(units[fold]), off
    return best


def _few(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
