"""From a location, as the user typed it, to an image dataset: list, read every file once, say what is odd."""

import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from autotl.data.audit import look_at
from autotl.data.dataset import DatasetSource, Finding, ImageDataset, LabelledImage, Skipped
from autotl.data.sources import SUBSET_NAMES
from autotl.data.verification import check_files
from autotl.errors import DataError, nearest

__all__ = ["load_dataset"]


def load_dataset(
    location: str,
    sources: Mapping[str, DatasetSource],
    *,
    test: str | None = None,
    classes: Sequence[str] | None = None,
    strict: bool = False,
    threads: int = 2,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    tolerate: Callable[[Finding], None] | None = None,
) -> ImageDataset:
    """The labelled images at a location, each file read and decoded once.

    Args:
        location: what one of the sources matches: a folder, a manifest, a name. The last source that matches is taken.
        sources: by name, as plugins registered them.
        test: another location; all of its images become the subset "test".
        classes: the only classes there may be, in this order (a model's). Otherwise they are those of the images to
            train on, numbers in the order of their values, names in natural order.
        strict: whether a file that can't be decoded is a DataError instead of one of `skipped`.
        threads: files read at the same time.
        cache: a folder that remembers digests and verdicts of files that don't change. It may be shared.
        progress: called with files checked and files in all.
        tolerate: told of what would be an error and leaves something to look at, instead of raising it: a single class,
            images of classes that aren't trained on (they are left out), a class without a sound image.

    Raises:
        DataError: where the location isn't as it should be, or what is there can't make a classifier.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        rows = _listed(location, sources)
        if test is not None:
            if any(row.subset == "test" for row in rows):
                raise DataError(f"{location} has test images of its own: leave out the other ones, {test}.")
            rows += [LabelledImage(r.path, r.label, "test", r.group) for r in _listed(test, sources)]
    refuse = tolerate or _refuse
    order = tuple(classes) if classes is not None else _classes(rows, location, refuse)
    rows = _of_known_classes(rows, order, location, test, refuse)

    checks = check_files([row.path for row in rows], threads, cache, progress)
    skipped = tuple(Skipped(row.path, c.reason) for row, c in zip(rows, checks, strict=True) if c.reason)
    if skipped and strict:
        raise DataError(
            f"{_images(skipped)} can't be decoded: {_first(skipped)}. Mend or remove them (--strict-images)."
        )
    thumbnails = [check.thumbnail for check in checks if not check.reason]
    sound = [(row, check.digest) for row, check in zip(rows, checks, strict=True) if not check.reason]
    if not sound:
        raise DataError(f"No image of {location} can be decoded: {_first(skipped)}.")
    if classes is None:
        _check_every_class_is_left(sound, order, skipped, refuse)

    index = {label: i for i, label in enumerate(order)}
    dataset = ImageDataset(
        name=_name(location),
        classes=order,
        paths=tuple(Path(os.path.abspath(row.path)) for row, _ in sound),  # noqa: PTH100 - links stay links
        labels=np.array([index[row.label] for row, _ in sound], dtype=np.int64),
        digests=tuple(digest for _, digest in sound),
        subsets=tuple(row.subset for row, _ in sound),
        groups=tuple(row.group for row, _ in sound),
        skipped=skipped,
    )
    listing = dict.fromkeys(str(warning.message) for warning in said if issubclass(warning.category, UserWarning))
    findings = look_at(dataset, thumbnails if classes is None else None, to_train=classes is None)
    serious = [finding.text for finding in findings if finding.serious]
    said_first = tuple(Finding("left_out", False, text, 1) for text in listing)
    return replace(dataset, findings=(*findings, *said_first), warnings=(*listing, *serious))


def _refuse(finding: Finding) -> None:
    raise DataError(finding.text)


def _listed(location: str, sources: Mapping[str, DatasetSource]) -> list[LabelledImage]:
    matching = [source for source in sources.values() if source.matches(location)]
    if not matching:
        known = sorted(set(sources) - {"folder", "manifest"})
        names = f", or a dataset by name: {', '.join(known)}" if known else ""
        raise DataError(
            f"{location!r} holds no dataset.{nearest(location, known)} "
            f"Give a folder of class folders, a CSV manifest (path,label){names}."
        )
    source = matching[-1]
    if len(matching) > 1 and location == source.name:
        warnings.warn(f"{location!r} is the dataset of that name. For the folder type ./{location}", stacklevel=2)
    rows = source.images(location)
    if not rows:
        raise DataError(f"{location!r} lists no images.")
    return rows


def _classes(rows: Iterable[LabelledImage], location: str, refuse: Callable[[Finding], None]) -> tuple[str, ...]:
    """Of the images to train on, in natural order."""
    names = {row.label for row in rows if row.subset in ("", "train")}
    if not names:
        raise DataError(f"{location} has no images to train on, only validation or test ones.")
    if len(names) == 1:
        (name,) = names
        inner = Path(location).expanduser() / name
        below = f" If {inner} holds class folders, name it instead." if inner.is_dir() else ""
        text = f"All images of {location} are of one class, {name!r}; it takes two to tell apart.{below}"
        refuse(Finding("one_class", True, text, 1, (name,)))
    if all(re.fullmatch(r"[+-]?\d+(\.\d+)?", name) for name in names):
        return tuple(sorted(names, key=lambda name: (float(name), name)))
    return tuple(sorted(names, key=_natural))


def _natural(name: str) -> tuple[list[str | int], str]:
    """Sorts `page 2` before `page 10`. Text and numbers take turns, so that like is compared with like."""
    return [int(subset) if i % 2 else subset for i, subset in enumerate(re.split(r"(\d+)", name))], name


def _of_known_classes(
    rows: list[LabelledImage],
    order: tuple[str, ...],
    location: str,
    test: str | None,
    refuse: Callable[[Finding], None],
) -> list[LabelledImage]:
    known = set(order)
    strangers: dict[tuple[str, str, str], list[LabelledImage]] = {}
    for row in rows:
        if row.label not in known:
            place = test if test is not None and row.subset == "test" else location
            strangers.setdefault((place, row.subset, row.label), []).append(row)
    for (place, subset, label), some in strangers.items():
        text = (
            f"{place} has {subset + ' ' if subset else ''}images of {label!r}, a class that isn't among those to train on."
            f"{nearest(label, order)} Known classes: {_few(order)}."
        )
        refuse(Finding("unknown_class", True, text, len(some), tuple(str(row.path) for row in some[:5])))
    return [row for row in rows if row.label in known] if strangers else rows


def _check_every_class_is_left(
    sound: Iterable[tuple[LabelledImage, str]],
    order: tuple[str, ...],
    skipped: tuple[Skipped, ...],
    refuse: Callable[[Finding], None],
) -> None:
    left = {row.label for row, _ in sound if row.subset in ("", "train")}
    gone = [name for name in order if name not in left]
    if gone:
        text = (
            f"No image to train on of {_few([repr(name) for name in gone])} can be decoded. "
            f"Of {_images(skipped)} left out: {_first(skipped)}."
        )
        refuse(Finding("class_without_images", True, text, len(gone), tuple(gone[:5])))


def _name(location: str) -> str:
    """What people would call it: the folder or file, or what holds the folder where that is called train."""
    path = Path(os.path.abspath(Path(location).expanduser()))  # noqa: PTH100 - a link's own name
    if not path.exists():
        return location
    if path.is_dir() and path.name.lower() in SUBSET_NAMES and path.parent.name:
        return path.parent.name
    return path.name if path.is_dir() else path.stem


def _images(skipped: Sequence[Skipped]) -> str:
    return f"{len(skipped):,} image{'s' if len(skipped) > 1 else ''}"


def _first(skipped: Sequence[Skipped], most: int = 3) -> str:
    more = f"; and {len(skipped) - most:,} more" if len(skipped) > most else ""
    return "; ".join(f"{s.path} ({s.reason})" for s in skipped[:most]) + more


def _few(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
