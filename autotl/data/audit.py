"""Audit of a dataset: class sizes and names, subsets, duplicates, groups. Reports what makes a score unreliable."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from autotl.data.dataset import Finding, ImageDataset, Subset, join_names
from autotl.data.near_duplicates import MAX_COMPARED, connected, is_uniform

__all__ = ["OVERLOOKED", "audit_dataset", "folded"]

IMBALANCE_RATIO = 10
"""Class imbalance (largest / smallest) from which to warn."""
MIN_CLASS_SIZE = 5
"""A class with fewer images is missing from some folds of the usual 5-fold cross-validation."""
SERIOUS_SHARE = 0.01
"""Near-duplicate pairs per image from which the finding is serious: a few pairs don't change a score."""
MANY_LOOKALIKES = 0.1
"""Share of the training images with a near-duplicate from which the finding is serious: a random fold would flatter."""
MAX_EXAMPLES = 5
OVERLOOKED = "case, spaces, hyphens or Unicode form, in invisible characters, or in how a number is written"
"""What `folded` takes away."""


@dataclass(frozen=True)
class _Pair:
    """Indices of two images."""

    a: int
    b: int


def audit_dataset(
    dataset: ImageDataset,
    thumbnails: np.ndarray | None = None,
    pairs: np.ndarray | None = None,
    *,
    for_training: bool = True,
) -> tuple[Finding, ...]:
    """All findings about a dataset, serious ones first.

    Args:
        thumbnails: uint8 [n, pixels], from `autotl.data.decoding.verify`. None skips the check for uniform images.
        pairs: int64 [m, 2], from `autotl.data.near_duplicates.near_duplicates`. None skips the checks for them.
        for_training: False skips the checks of class sizes, which don't matter if nothing is trained on the dataset.
    """
    findings = [
        *(_class_sizes(dataset) if for_training else ()),
        *_similar_class_names(dataset.classes),
        *_classes_missing_from_subsets(dataset),
        *_duplicates(dataset),
        *(_near_duplicates(dataset, pairs) if pairs is not None else ()),
        *(_uniform_images(dataset, thumbnails) if thumbnails is not None else ()),
        *_groups_across_subsets(dataset),
    ]
    return tuple(sorted(findings, key=lambda finding: not finding.serious))


def _class_sizes(dataset: ImageDataset) -> Iterator[Finding]:
    is_training = np.isin(dataset.subsets, ("", "train"))
    counts = np.bincount(dataset.labels[is_training], minlength=len(dataset.classes))
    sizes = dict(zip(dataset.classes, counts.tolist(), strict=True))
    single = [name for name, count in sizes.items() if count == 1]
    if single:
        text = f"Classes with a single training image: {join_names(single)}. They can't be validated. Add images."
        yield Finding("one_image", text, len(single), tuple(single[:MAX_EXAMPLES]), serious=True)
    rare = [f"{name} ({count})" for name, count in sizes.items() if 1 < count < MIN_CLASS_SIZE]
    if rare:
        text = (
            f"Classes with fewer than {MIN_CLASS_SIZE} training images: {join_names(rare)}. "
            "Their scores are mostly chance. Add images."
        )
        yield Finding("few_images", text, len(rare), tuple(rare[:MAX_EXAMPLES]), serious=False)
    if counts.min() and counts.max() >= IMBALANCE_RATIO * counts.min():
        largest, smallest = int(counts.argmax()), int(counts.argmin())
        text = (
            f"Class imbalance: {dataset.classes[largest]!r} has {counts[largest]:,} training images, "
            f"{dataset.classes[smallest]!r} {counts[smallest]:,}. "
            "--metric balanced_accuracy gives all classes equal weight."
        )
        by_size = sorted(sizes.items(), key=lambda item: -item[1])
        extremes = [*by_size[:2], *by_size[-2:]] if len(by_size) > 4 else by_size
        examples = tuple(f"{name} ({count:,})" for name, count in extremes)
        yield Finding("class_imbalance", text, len(sizes), examples, serious=True)


def folded(name: str) -> str:
    """A class name without what people overlook: case, spaces, hyphens, invisible characters and Unicode form; of a
    number, its value.

    >>> folded("Dog-Rose\\u200b"), folded("01"), folded("1.0"), folded("-1")
    ('dog rose', '1', '1', '-1')
    """
    if re.fullmatch(r"[+-]?\d{1,15}(\.\d{1,9})?", name):
        return f"{float(name):.15g}"
    # case folding can undo the normal form, hence the second normalisation
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    text = "".join(character for character in text if unicodedata.category(character) != "Cf")
    return re.sub(r"[\s_-]+", " ", text).strip()


def _similar_class_names(classes: Sequence[str]) -> Iterator[Finding]:
    similar: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        similar[folded(name)].append(name)
    groups = [" and ".join(repr(name) for name in names) for names in similar.values() if len(names) > 1]
    if groups:
        text = (
            f"Class names that differ only in {OVERLOOKED}: {join_names(groups)}. "
            "If they mean the same class, use one name."
        )
        yield Finding("similar_class_names", text, len(groups), tuple(groups[:MAX_EXAMPLES]), serious=True)


def _classes_missing_from_subsets(dataset: ImageDataset) -> Iterator[Finding]:
    subsets = np.array(dataset.subsets)
    evaluated: tuple[Subset, ...] = ("validation", "test")
    for subset in evaluated:
        present = set(dataset.labels[subsets == subset].tolist())
        missing = [name for i, name in enumerate(dataset.classes) if i not in present]
        if present and missing:
            text = f"No {subset} image of {join_names(missing)}: the {subset} score doesn't cover every class."
            examples = tuple(missing[:MAX_EXAMPLES])
            yield Finding(f"class_missing_from_{subset}", text, len(missing), examples, serious=True)


def _duplicates(dataset: ImageDataset) -> Iterator[Finding]:
    """Images with the same digest."""
    by_digest: dict[str, list[int]] = defaultdict(list)
    for i, digest in enumerate(dataset.digests):
        by_digest[digest].append(i)
    duplicates = [indices for indices in by_digest.values() if len(indices) > 1]
    across = [indices for indices in duplicates if len({dataset.subsets[i] for i in indices}) > 1]
    mislabelled = [indices for indices in duplicates if len({int(dataset.labels[i]) for i in indices}) > 1]
    within = [indices for indices in duplicates if len({dataset.subsets[i] for i in indices}) < len(indices)]
    if across:
        subsets = _subset_names(dataset, (i for indices in across for i in indices))
        text = (
            f"{_count_images(len(across))} in several subsets ({subsets}), byte for byte: "
            "the score is optimistic because of leakage between subsets."
        )
        pairs = [_first_different(indices, [dataset.subsets[i] for i in indices]) for indices in across]
        yield _pair_finding("duplicates_across_subsets", text, dataset, pairs, serious=True)
    if mislabelled:
        text = f"{_count_images(len(mislabelled))} under different labels, byte for byte."
        pairs = [_first_different(indices, dataset.labels[indices].tolist()) for indices in mislabelled]
        yield _pair_finding(
            "duplicates_with_different_labels", text, dataset, pairs, serious=True, describe=_paths_and_labels
        )
    if within:
        text = f"{_count_images(len(within))} duplicated within a subset, byte for byte."
        pairs = [_Pair(*indices[:2]) for indices in within]
        yield _pair_finding("duplicates", text, dataset, pairs, serious=True)


def _near_duplicates(dataset: ImageDataset, pairs: np.ndarray) -> Iterator[Finding]:
    if len(dataset) > MAX_COMPARED:
        text = f"Near-duplicates were not searched for: there are more than {MAX_COMPARED:,} images."
        yield Finding("near_duplicates_not_searched", text, len(dataset), serious=False)
        return
    labels, subsets = dataset.labels, np.array(dataset.subsets)
    is_across = subsets[pairs[:, 0]] != subsets[pairs[:, 1]]
    is_mislabelled = labels[pairs[:, 0]] != labels[pairs[:, 1]]
    across = [_Pair(*pair) for pair in pairs[is_across].tolist()]
    mislabelled = [_Pair(*pair) for pair in pairs[is_mislabelled].tolist()]
    others = [_Pair(*pair) for pair in pairs[~is_across & ~is_mislabelled].tolist()]
    if across:
        names = _subset_names(dataset, (i for pair in across for i in (pair.a, pair.b)))
        text = (
            f"{_count_pairs(len(across))} across subsets ({names}){_torn(dataset, pairs[is_across])}: "
            "the score is optimistic because of leakage between subsets."
        )
        serious = len(across) >= SERIOUS_SHARE * sum(subset in ("validation", "test") for subset in dataset.subsets)
        yield _pair_finding("near_duplicates_across_subsets", text, dataset, across, serious=serious)
    if mislabelled:
        text = f"{_count_pairs(len(mislabelled))} under different labels."
        serious = len(mislabelled) >= SERIOUS_SHARE * len(dataset)
        yield _pair_finding(
            "near_duplicates_with_different_labels",
            text,
            dataset,
            mislabelled,
            serious=serious,
            describe=_paths_and_labels,
        )
    if others:
        text = (
            f"{_count_pairs(len(others))} in one subset and class. "
            "Every split that autotl draws keeps them on one side."
        )
        drawn = np.flatnonzero(np.isin(subsets, ("", "train")))
        _, sizes = np.unique(connected(len(dataset), pairs)[drawn], return_counts=True)
        sizes = sizes[sizes > 1]
        serious = bool(sizes.sum() >= MANY_LOOKALIKES * len(drawn))
        if serious:
            torn = round(float((1 - 0.8**sizes - 0.2**sizes).sum()))
            text += (
                f" {sizes.sum():,} of {len(drawn):,} training images look like another one, in {len(sizes):,} groups "
                "(copies, frames of a film, exposures of one object): a random fifth of the images for validation "
                f"would tear about {torn:,} groups, and its score would be optimistic."
            )
        yield _pair_finding("near_duplicates", text, dataset, others, serious=serious)


def _torn(dataset: ImageDataset, across: np.ndarray) -> str:
    """How many images of the validation and the test subset look like a training image, in words."""
    subsets = np.array(dataset.subsets)
    counts = []
    for subset in ("validation", "test"):
        with_training = np.isin(subsets[across[:, ::-1]], ("", "train")) & (subsets[across] == subset)
        if count := len(np.unique(across[with_training])):
            counts.append(f"{count:,} of {(subsets == subset).sum():,} {subset} images look like a training image")
    return "; " * bool(counts) + ", ".join(counts)


def _uniform_images(dataset: ImageDataset, thumbnails: np.ndarray) -> Iterator[Finding]:
    uniform = np.flatnonzero(is_uniform(thumbnails)).tolist()
    if uniform:
        text = f"{len(uniform):,} {'image is' if len(uniform) == 1 else 'images are'} of a single colour, or nearly."
        examples = tuple(str(dataset.paths[i]) for i in uniform[:MAX_EXAMPLES])
        yield Finding("uniform_images", text, len(uniform), examples, serious=False)


def _groups_across_subsets(dataset: ImageDataset) -> Iterator[Finding]:
    subsets_of: dict[str, set[Subset]] = defaultdict(set)
    for group, subset in zip(dataset.groups, dataset.subsets, strict=True):
        if group:
            subsets_of[group].add(subset)
    across = [group for group, subsets in subsets_of.items() if len(subsets) > 1]
    if across:
        names = ", ".join(sorted(subset or "train" for subset in subsets_of[across[0]]))
        text = (
            f"{len(across):,} {'group is' if len(across) == 1 else 'groups are'} in several subsets, "
            f"{across[0]!r} in {names}: the score is optimistic because of leakage between subsets."
        )
        yield Finding("groups_across_subsets", text, len(across), tuple(across[:MAX_EXAMPLES]), serious=True)


# --- pairs and their descriptions


def _first_different(indices: Sequence[int], values: Sequence[object]) -> _Pair:
    """The first image, and the first other one whose value differs from that of the first."""
    return _Pair(indices[0], next(i for i, value in zip(indices, values, strict=True) if value != values[0]))


def _paths(dataset: ImageDataset, pair: _Pair) -> str:
    return f"{dataset.paths[pair.a]} and {dataset.paths[pair.b]}"


def _paths_and_labels(dataset: ImageDataset, pair: _Pair) -> str:
    a, b = (dataset.classes[dataset.labels[i]] for i in (pair.a, pair.b))
    return f"{dataset.paths[pair.a]} is {a!r} and {dataset.paths[pair.b]} {b!r}"


def _pair_finding(
    code: str,
    text: str,
    dataset: ImageDataset,
    pairs: Sequence[_Pair],
    *,
    serious: bool,
    describe: Callable[[ImageDataset, _Pair], str] = _paths,
) -> Finding:
    examples = tuple(describe(dataset, pair) for pair in pairs[:MAX_EXAMPLES])
    return Finding(code, text, len(pairs), examples, f"For example {examples[0]}.", serious=serious)


def _subset_names(dataset: ImageDataset, indices: Iterator[int]) -> str:
    return ", ".join(sorted({dataset.subsets[i] or "train" for i in indices}))


def _count_images(count: int) -> str:
    return "1 image is" if count == 1 else f"{count:,} images are"


def _count_pairs(count: int) -> str:
    return "1 pair of near-duplicates" if count == 1 else f"{count:,} pairs of near-duplicates"
