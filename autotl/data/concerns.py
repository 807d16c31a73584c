"""What a user should know about a dataset before trusting a score, in words."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from autotl.data.dataset import ImageDataset, Part

__all__ = ["concerns"]

UNEVEN = 10
"""Times that the largest class may outnumber the smallest before it is worth a word."""


def concerns(dataset: ImageDataset, to_train: bool = True) -> tuple[str, ...]:
    """A line for each: rare classes, imbalance, parts without some class, duplicates, groups in several parts.

    Where nothing is going to be trained on the dataset, class sizes are no concern.
    """
    return (
        *(_sizes(dataset) if to_train else ()),
        *_classes_missing_from_parts(dataset),
        *_duplicates(dataset),
        *_groups_in_several_parts(dataset),
    )


def _sizes(dataset: ImageDataset) -> Iterator[str]:
    to_train = np.isin(dataset.parts, ("", "train"))
    counts = np.bincount(dataset.labels[to_train], minlength=len(dataset.classes))
    single = [name for name, count in zip(dataset.classes, counts, strict=True) if count == 1]
    if single:
        yield f"Only one image to train on: {_few(single)}. It can't be learned from, nor checked. Add images."
    if counts.min() and counts.max() >= UNEVEN * counts.min():
        most, least = int(counts.argmax()), int(counts.argmin())
        yield (
            f"Classes are uneven: {dataset.classes[most]!r} has {counts[most]:,} images to train on, "
            f"{dataset.classes[least]!r} {counts[least]:,}. --metric balanced_accuracy counts all classes alike."
        )


def _classes_missing_from_parts(dataset: ImageDataset) -> Iterator[str]:
    parts = np.array(dataset.parts)
    given: tuple[Part, ...] = ("validation", "test")
    for part in given:
        present = set(dataset.labels[parts == part].tolist())
        missing = [name for i, name in enumerate(dataset.classes) if i not in present]
        if present and missing:
            yield f"No {part} image of {_few(missing)}: the {part} score says nothing about it."


def _duplicates(dataset: ImageDataset) -> Iterator[str]:
    copies: dict[str, list[int]] = defaultdict(list)
    for i, digest in enumerate(dataset.digests):
        copies[digest].append(i)
    repeated = [rows for rows in copies.values() if len(rows) > 1]
    across = [rows for rows in repeated if len({dataset.parts[i] for i in rows}) > 1]
    at_odds = [rows for rows in repeated if len({int(dataset.labels[i]) for i in rows}) > 1]
    within = [rows for rows in repeated if len({dataset.parts[i] for i in rows}) < len(rows)]
    if across:
        parts = sorted({dataset.parts[i] or "train" for rows in across for i in rows})
        yield (
            f"{_images(len(across))} in several parts ({', '.join(parts)}), byte for byte: scores there will flatter. "
            f"For example {_pair(dataset, across[0])}."
        )
    if at_odds:
        a, *others = at_odds[0]
        b = next(i for i in others if dataset.labels[i] != dataset.labels[a])
        yield (
            f"{_images(len(at_odds))} under different labels, byte for byte. For example {dataset.paths[a]} is "
            f"{dataset.classes[dataset.labels[a]]!r} and {dataset.paths[b]} {dataset.classes[dataset.labels[b]]!r}."
        )
    if within:
        yield f"{_images(len(within))} more than once, byte for byte. For example {_pair(dataset, within[0])}."


def _groups_in_several_parts(dataset: ImageDataset) -> Iterator[str]:
    parts: dict[str, set[Part]] = defaultdict(set)
    for group, part in zip(dataset.groups, dataset.parts, strict=True):
        if group:
            parts[group].add(part)
    torn = [group for group, where in parts.items() if len(where) > 1]
    if torn:
        where = ", ".join(sorted(part or "train" for part in parts[torn[0]]))
        yield f"{len(torn):,} of the groups lie in several parts, {torn[0]!r} in {where}: scores there will flatter."


def _images(count: int) -> str:
    return "1 image is there" if count == 1 else f"{count:,} images are there"


def _pair(dataset: ImageDataset, rows: Sequence[int]) -> str:
    return " and ".join(str(dataset.paths[i]) for i in rows[:2])


def _few(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
