"""What a user should know about a dataset before trusting a score: each finding with its words, count and examples."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from autotl.data.dataset import Finding, ImageDataset, Subset
from autotl.data.near_duplicates import MOST, is_plain, near_duplicates

__all__ = ["look_at"]

UNEVEN = 10
"""Times that the largest class may outnumber the smallest before it is worth a word."""
FOLDS = 5
"""A class with fewer images than this has none in some fold of a usual cross-validation."""
WORTH_A_WORD = 0.01
"""Share of the images that look like another one from which a search says so: a few pairs change no score."""
EXAMPLES = 5


@dataclass(frozen=True)
class _Pair:
    a: int
    b: int


def look_at(
    dataset: ImageDataset, thumbnails: Sequence[bytes] | None = None, to_train: bool = True
) -> tuple[Finding, ...]:
    """Everything that is odd, the serious first.

    Args:
        thumbnails: of each image, as `autotl.data.decoding.verify` makes them; without them no looks are compared.
        to_train: where nothing is going to be trained on the dataset, class sizes are no concern.
    """
    found = [
        *(_sizes(dataset) if to_train else ()),
        *_names(dataset.classes),
        *_classes_missing_from_subsets(dataset),
        *_duplicates(dataset),
        *(_looks(dataset, thumbnails) if thumbnails is not None else ()),
        *_groups_in_several_subsets(dataset),
    ]
    return tuple(sorted(found, key=lambda finding: not finding.serious))


def _sizes(dataset: ImageDataset) -> Iterator[Finding]:
    to_train = np.isin(dataset.subsets, ("", "train"))
    counts = np.bincount(dataset.labels[to_train], minlength=len(dataset.classes))
    sized = dict(zip(dataset.classes, counts.tolist(), strict=True))
    single = [name for name, count in sized.items() if count == 1]
    if single:
        text = f"Only one image to train on: {_few(single)}. It can't be learned from, nor checked. Add images."
        yield Finding("one_image", True, text, len(single), tuple(single[:EXAMPLES]))
    rare = [f"{name} ({count})" for name, count in sized.items() if 1 < count < FOLDS]
    if rare:
        text = f"Fewer than {FOLDS} images to train on: {_few(rare)}. Scores of these classes are chance. Add images."
        yield Finding("few_images", False, text, len(rare), tuple(rare[:EXAMPLES]))
    if counts.min() and counts.max() >= UNEVEN * counts.min():
        most, least = int(counts.argmax()), int(counts.argmin())
        text = (
            f"Classes are uneven: {dataset.classes[most]!r} has {counts[most]:,} images to train on, "
            f"{dataset.classes[least]!r} {counts[least]:,}. --metric balanced_accuracy counts all classes alike."
        )
        by_size = sorted(sized.items(), key=lambda item: -item[1])
        few = [*by_size[:2], *by_size[-2:]] if len(by_size) > 4 else by_size
        yield Finding("uneven_classes", True, text, len(sized), tuple(f"{name} ({count:,})" for name, count in few))


def _names(classes: Sequence[str]) -> Iterator[Finding]:
    alike: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        words = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
        alike[re.sub(r"[\s_-]+", " ", words).strip()].append(name)
    groups = [" and ".join(repr(name) for name in names) for names in alike.values() if len(names) > 1]
    if groups:
        text = (
            f"Classes whose names differ by case, spaces or Unicode form alone: {_few(groups)}. "
            "If they are one, give them one name."
        )
        yield Finding("names_alike", True, text, len(groups), tuple(groups[:EXAMPLES]))


def _classes_missing_from_subsets(dataset: ImageDataset) -> Iterator[Finding]:
    subsets = np.array(dataset.subsets)
    given: tuple[Subset, ...] = ("validation", "test")
    for subset in given:
        present = set(dataset.labels[subsets == subset].tolist())
        missing = [name for i, name in enumerate(dataset.classes) if i not in present]
        if present and missing:
            text = f"No {subset} image of {_few(missing)}: the {subset} score says nothing about it."
            yield Finding(f"class_missing_from_{subset}", True, text, len(missing), tuple(missing[:EXAMPLES]))


def _duplicates(dataset: ImageDataset) -> Iterator[Finding]:
    copies: dict[str, list[int]] = defaultdict(list)
    for i, digest in enumerate(dataset.digests):
        copies[digest].append(i)
    repeated = [rows for rows in copies.values() if len(rows) > 1]
    across = [rows for rows in repeated if len({dataset.subsets[i] for i in rows}) > 1]
    at_odds = [rows for rows in repeated if len({int(dataset.labels[i]) for i in rows}) > 1]
    within = [rows for rows in repeated if len({dataset.subsets[i] for i in rows}) < len(rows)]
    if across:
        subsets = sorted({dataset.subsets[i] or "train" for rows in across for i in rows})
        pairs = [_differing(rows, [dataset.subsets[i] for i in rows]) for rows in across]
        text = (
            f"{_images(len(across))} in several subsets ({', '.join(subsets)}), byte for byte: scores there will flatter. "
            f"For example {_names_of(dataset, pairs[0])}."
        )
        yield Finding("same_in_subsets", True, text, len(across), _examples(dataset, pairs))
    if at_odds:
        pairs = [_differing(rows, dataset.labels[rows].tolist()) for rows in at_odds]
        example = _labels_of(dataset, pairs[0])
        text = f"{_images(len(at_odds))} under different labels, byte for byte. For example {example}."
        yield Finding("same_with_labels", True, text, len(at_odds), _examples(dataset, pairs, _labels_of))
    if within:
        pairs = [_Pair(*rows[:2]) for rows in within]
        text = f"{_images(len(within))} more than once, byte for byte. For example {_names_of(dataset, pairs[0])}."
        yield Finding("same_twice", True, text, len(within), _examples(dataset, pairs))


def _looks(dataset: ImageDataset, thumbnails: Sequence[bytes]) -> Iterator[Finding]:
    """What looks nearly the same, and what shows nothing."""
    if len(dataset) > MOST:
        text = f"Images that look alike weren't searched for: there are more than {MOST:,}."
        yield Finding("not_compared", False, text, len(dataset))
        return
    small = np.frombuffer(b"".join(thumbnails), np.uint8).reshape(len(thumbnails), -1)
    labels, subsets = dataset.labels, np.array(dataset.subsets)
    pairs = near_duplicates(small, np.array(dataset.digests))
    across = subsets[pairs[:, 0]] != subsets[pairs[:, 1]]
    at_odds = labels[pairs[:, 0]] != labels[pairs[:, 1]]
    chosen = [_Pair(*pair) for pair in pairs[across].tolist()]
    if chosen:
        names = ", ".join(sorted({dataset.subsets[i] or "train" for pair in chosen for i in (pair.a, pair.b)}))
        text = (
            f"{_pairs(len(chosen))} nearly the same, in several subsets ({names}): scores there will flatter. "
            f"For example {_names_of(dataset, chosen[0])}."
        )
        serious = len(chosen) >= WORTH_A_WORD * sum(subset in ("validation", "test") for subset in dataset.subsets)
        yield Finding("alike_in_subsets", serious, text, len(chosen), _examples(dataset, chosen))
    chosen = [_Pair(*pair) for pair in pairs[at_odds].tolist()]
    if chosen:
        text = (
            f"{_pairs(len(chosen))} nearly the same, under different labels. "
            f"For example {_labels_of(dataset, chosen[0])}."
        )
        serious = len(chosen) >= WORTH_A_WORD * len(dataset)
        yield Finding("alike_with_labels", serious, text, len(chosen), _examples(dataset, chosen, _labels_of))
    chosen = [_Pair(*pair) for pair in pairs[~across & ~at_odds].tolist()]
    if chosen:
        text = (
            f"{_pairs(len(chosen))} nearly the same, in one subset and class. A column group in a manifest keeps such "
            "images in one subset."
        )
        yield Finding("alike", False, text, len(chosen), _examples(dataset, chosen))
    plain = np.flatnonzero(is_plain(small)).tolist()
    if plain:
        text = f"{len(plain):,} {'image shows' if len(plain) == 1 else 'images show'} one colour, or nearly."
        yield Finding("plain", False, text, len(plain), tuple(str(dataset.paths[i]) for i in plain[:EXAMPLES]))


def _groups_in_several_subsets(dataset: ImageDataset) -> Iterator[Finding]:
    subsets: dict[str, set[Subset]] = defaultdict(set)
    for group, subset in zip(dataset.groups, dataset.subsets, strict=True):
        if group:
            subsets[group].add(subset)
    torn = [group for group, where in subsets.items() if len(where) > 1]
    if torn:
        where = ", ".join(sorted(subset or "train" for subset in subsets[torn[0]]))
        text = f"{len(torn):,} of the groups lie in several subsets, {torn[0]!r} in {where}: scores there will flatter."
        yield Finding("torn_groups", True, text, len(torn), tuple(torn[:EXAMPLES]))


# --- words


def _differing(rows: Sequence[int], of: Sequence[object]) -> _Pair:
    """The first, and the first that differs from it."""
    return _Pair(rows[0], next(row for row, value in zip(rows, of, strict=True) if value != of[0]))


def _names_of(dataset: ImageDataset, pair: _Pair) -> str:
    return f"{dataset.paths[pair.a]} and {dataset.paths[pair.b]}"


def _labels_of(dataset: ImageDataset, pair: _Pair) -> str:
    a, b = (dataset.classes[dataset.labels[i]] for i in (pair.a, pair.b))
    return f"{dataset.paths[pair.a]} is {a!r} and {dataset.paths[pair.b]} {b!r}"


def _examples(
    dataset: ImageDataset, pairs: Sequence[_Pair], words: Callable[[ImageDataset, _Pair], str] = _names_of
) -> tuple[str, ...]:
    return tuple(words(dataset, pair) for pair in pairs[:EXAMPLES])


def _images(count: int) -> str:
    return "1 image is there" if count == 1 else f"{count:,} images are there"


def _pairs(count: int) -> str:
    return "1 pair of images looks" if count == 1 else f"{count:,} pairs of images look"


def _few(names: Sequence[str], most: int = EXAMPLES) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
