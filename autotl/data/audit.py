"""Audit of a dataset: leakage between subsets, label noise, class imbalance and other causes of misleading scores."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from autotl.data.dataset import Finding, ImageDataset, Subset
from autotl.data.near_duplicates import MAX_IMAGES, is_uniform, near_duplicates

__all__ = ["audit_dataset"]

IMBALANCE_RATIO = 10
"""Class imbalance (largest / smallest) from which to warn."""
MIN_CLASS_SIZE = 5
"""Number of training images of a class below which to warn: fewer than the folds of a usual cross-validation."""
NEAR_DUPLICATE_SHARE = 0.01
"""Share of images with a near-duplicate from which the finding is serious. Fewer pairs barely change a score."""
MAX_EXAMPLES = 5


@dataclass(frozen=True)
class _Pair:
    """Indices of two images."""

    a: int
    b: int


def audit_dataset(
    dataset: ImageDataset, thumbnails: Sequence[bytes] | None = None, to_train: bool = True
) -> tuple[Finding, ...]:
    """Find the data-quality problems of a dataset.

    Args:
        thumbnails: one of each image, as `autotl.data.decoding.verify` returns them. Without them near-duplicates and
            uniform images are not searched for.
        to_train: whether a model is going to be trained on the dataset. If not, class sizes are not checked.

    Returns:
        Findings, the serious ones first.
    """
    findings = [
        *(_class_sizes(dataset) if to_train else ()),
        *_similar_class_names(dataset.classes),
        *_classes_missing_from_subsets(dataset),
        *_exact_duplicates(dataset),
        *(_near_duplicates(dataset, thumbnails) if thumbnails is not None else ()),
        *_groups_across_subsets(dataset),
    ]
    return tuple(sorted(findings, key=lambda finding: not finding.serious))


def _class_sizes(dataset: ImageDataset) -> Iterator[Finding]:
    to_train = np.isin(dataset.subsets, ("", "train"))
    counts = np.bincount(dataset.labels[to_train], minlength=len(dataset.classes))
    sizes = dict(zip(dataset.classes, counts.tolist(), strict=True))
    single = [name for name, count in sizes.items() if count == 1]
    if single:
        text = f"Only one training image of {_join(single)}: too few to learn the class or to validate it. Add images."
        yield Finding("one_image", True, text, len(single), tuple(single[:MAX_EXAMPLES]))
    small = [f"{name} ({count})" for name, count in sizes.items() if 1 < count < MIN_CLASS_SIZE]
    if small:
        text = f"Fewer than {MIN_CLASS_SIZE} training images of {_join(small)}: their scores are noise. Add images."
        yield Finding("few_images", False, text, len(small), tuple(small[:MAX_EXAMPLES]))
    if counts.min() and counts.max() >= IMBALANCE_RATIO * counts.min():
        largest, smallest = int(counts.argmax()), int(counts.argmin())
        text = (
            f"Class imbalance: {dataset.classes[largest]!r} has {counts[largest]:,} training images, "
            f"{dataset.classes[smallest]!r} {counts[smallest]:,}. "
            "--metric balanced_accuracy gives all classes the same weight."
        )
        by_size = sorted(sizes.items(), key=lambda item: -item[1])
        extremes = [*by_size[:2], *by_size[-2:]] if len(by_size) > 4 else by_size
        examples = tuple(f"{name} ({count:,})" for name, count in extremes)
        yield Finding("class_imbalance", True, text, len(sizes), examples)


def _similar_class_names(classes: Sequence[str]) -> Iterator[Finding]:
    by_normal_form: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        # casefold can leave text that isn't in normal form, hence NFKC twice
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
        by_normal_form[re.sub(r"[\s_-]+", " ", folded).strip()].append(name)
    similar = [" and ".join(repr(name) for name in names) for names in by_normal_form.values() if len(names) > 1]
    if similar:
        text = (
            f"Class names that differ only in case, spaces, hyphens or Unicode form: {_join(similar)}. "
            "If they are one class, give them the same name."
        )
        yield Finding("similar_class_names", True, text, len(similar), tuple(similar[:MAX_EXAMPLES]))


def _classes_missing_from_subsets(dataset: ImageDataset) -> Iterator[Finding]:
    subsets = np.array(dataset.subsets)
    held_out: tuple[Subset, ...] = ("validation", "test")
    for subset in held_out:
        present = set(dataset.labels[subsets == subset].tolist())
        missing = [name for i, name in enumerate(dataset.classes) if i not in present]
        if present and missing:
            text = f"No {subset} image of {_join(missing)}: the {subset} score doesn't cover it."
            yield Finding(f"class_missing_from_{subset}", True, text, len(missing), tuple(missing[:MAX_EXAMPLES]))


def _exact_duplicates(dataset: ImageDataset) -> Iterator[Finding]:
    by_digest: dict[str, list[int]] = defaultdict(list)
    for i, digest in enumerate(dataset.digests):
        by_digest[digest].append(i)
    duplicates = [copies for copies in by_digest.values() if len(copies) > 1]
    across_subsets = [copies for copies in duplicates if len({dataset.subsets[i] for i in copies}) > 1]
    conflicting = [copies for copies in duplicates if len({int(dataset.labels[i]) for i in copies}) > 1]
    within_subset = [copies for copies in duplicates if len({dataset.subsets[i] for i in copies}) < len(copies)]
    if across_subsets:
        subsets = _subset_names(dataset, (i for copies in across_subsets for i in copies))
        pairs = [_first_difference(copies, [dataset.subsets[i] for i in copies]) for copies in across_subsets]
        text = (
            f"{_are_duplicated(len(across_subsets))} across subsets ({subsets}), byte for byte: the scores are "
            f"optimistic because of this leakage. For example {_two_paths(dataset, pairs[0])}."
        )
        yield Finding("duplicates_across_subsets", True, text, len(across_subsets), _examples(dataset, pairs))
    if conflicting:
        pairs = [_first_difference(copies, dataset.labels[copies].tolist()) for copies in conflicting]
        text = (
            f"{_are_duplicated(len(conflicting))} under different labels, byte for byte: label noise. "
            f"For example {_two_labels(dataset, pairs[0])}."
        )
        examples = _examples(dataset, pairs, _two_labels)
        yield Finding("duplicates_with_different_labels", True, text, len(conflicting), examples)
    if within_subset:
        pairs = [_Pair(*copies[:2]) for copies in within_subset]
        text = (
            f"{_are_duplicated(len(within_subset))} within a subset, byte for byte. "
            f"For example {_two_paths(dataset, pairs[0])}."
        )
        yield Finding("duplicates", True, text, len(within_subset), _examples(dataset, pairs))


def _near_duplicates(dataset: ImageDataset, thumbnails: Sequence[bytes]) -> Iterator[Finding]:
    """Near-duplicates across subsets, with different labels and otherwise; and images of a uniform colour."""
    if len(dataset) > MAX_IMAGES:
        text = f"Near-duplicates were not searched for: there are more than {MAX_IMAGES:,} images."
        yield Finding("near_duplicates_not_checked", False, text, len(dataset))
        return
    pixels = np.frombuffer(b"".join(thumbnails), np.uint8).reshape(len(thumbnails), -1)
    labels, subsets = dataset.labels, np.array(dataset.subsets)
    all_pairs = near_duplicates(pixels, np.array(dataset.digests))
    across_subsets = subsets[all_pairs[:, 0]] != subsets[all_pairs[:, 1]]
    conflicting = labels[all_pairs[:, 0]] != labels[all_pairs[:, 1]]
    pairs = [_Pair(*pair) for pair in all_pairs[across_subsets].tolist()]
    if pairs:
        names = _subset_names(dataset, (i for pair in pairs for i in (pair.a, pair.b)))
        text = (
            f"{_pairs_of_near_duplicates(len(pairs))} across subsets ({names}): the scores are optimistic because of "
            f"this leakage. For example {_two_paths(dataset, pairs[0])}."
        )
        num_held_out = sum(subset in ("validation", "test") for subset in dataset.subsets)
        serious = len(pairs) >= NEAR_DUPLICATE_SHARE * num_held_out
        yield Finding("near_duplicates_across_subsets", serious, text, len(pairs), _examples(dataset, pairs))
    pairs = [_Pair(*pair) for pair in all_pairs[conflicting].tolist()]
    if pairs:
        text = (
            f"{_pairs_of_near_duplicates(len(pairs))} under different labels: label noise. "
            f"For example {_two_labels(dataset, pairs[0])}."
        )
        serious = len(pairs) >= NEAR_DUPLICATE_SHARE * len(dataset)
        examples = _examples(dataset, pairs, _two_labels)
        yield Finding("near_duplicates_with_different_labels", serious, text, len(pairs), examples)
    pairs = [_Pair(*pair) for pair in all_pairs[~across_subsets & ~conflicting].tolist()]
    if pairs:
        text = (
            f"{_pairs_of_near_duplicates(len(pairs))} within a subset and class. A column group in a manifest keeps "
            "such images in one subset."
        )
        yield Finding("near_duplicates", False, text, len(pairs), _examples(dataset, pairs))
    uniform = np.flatnonzero(is_uniform(pixels)).tolist()
    if uniform:
        text = f"{len(uniform):,} {'image is' if len(uniform) == 1 else 'images are'} of one colour, or nearly."
        examples = tuple(str(dataset.paths[i]) for i in uniform[:MAX_EXAMPLES])
        yield Finding("uniform_images", False, text, len(uniform), examples)


def _groups_across_subsets(dataset: ImageDataset) -> Iterator[Finding]:
    subsets_of: dict[str, set[Subset]] = defaultdict(set)
    for group, subset in zip(dataset.groups, dataset.subsets, strict=True):
        if group:
            subsets_of[group].add(subset)
    across = [group for group, subsets in subsets_of.items() if len(subsets) > 1]
    if across:
        subsets = ", ".join(sorted(subset or "train" for subset in subsets_of[across[0]]))
        text = (
            f"{len(across):,} {'group is' if len(across) == 1 else 'groups are'} in several subsets, {across[0]!r} in "
            f"{subsets}: the scores are optimistic because of this leakage."
        )
        yield Finding("groups_across_subsets", True, text, len(across), tuple(across[:MAX_EXAMPLES]))


# --- texts


def _first_difference(indices: Sequence[int], values: Sequence[object]) -> _Pair:
    """The first image, and the first one whose value differs from the first image's."""
    return _Pair(indices[0], next(i for i, value in zip(indices, values, strict=True) if value != values[0]))


def _subset_names(dataset: ImageDataset, indices: Iterator[int]) -> str:
    return ", ".join(sorted({dataset.subsets[i] or "train" for i in indices}))


def _two_paths(dataset: ImageDataset, pair: _Pair) -> str:
    return f"{dataset.paths[pair.a]} and {dataset.paths[pair.b]}"


def _two_labels(dataset: ImageDataset, pair: _Pair) -> str:
    a, b = (dataset.classes[dataset.labels[i]] for i in (pair.a, pair.b))
    return f"{dataset.paths[pair.a]} is {a!r} and {dataset.paths[pair.b]} {b!r}"


def _examples(
    dataset: ImageDataset, pairs: Sequence[_Pair], describe: Callable[[ImageDataset, _Pair], str] = _two_paths
) -> tuple[str, ...]:
    return tuple(describe(dataset, pair) for pair in pairs[:MAX_EXAMPLES])


def _are_duplicated(count: int) -> str:
    return "1 image is duplicated" if count == 1 else f"{count:,} images are duplicated"


def _pairs_of_near_duplicates(count: int) -> str:
    return f"{count:,} {'pair' if count == 1 else 'pairs'} of near-duplicates"


def _join(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_EXAMPLES:,} more" if len(names) > MAX_EXAMPLES else ""
    return ", ".join(names[:MAX_EXAMPLES]) + more
