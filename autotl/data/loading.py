"""Loads an image dataset: lists the images at a location, verifies each file once and audits the result."""

import os
import re
import unicodedata
import warnings
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from autotl.data.audit import OVERLOOKED, audit_dataset, folded
from autotl.data.columns import DigestColumn, NumberColumn, PathColumn
from autotl.data.dataset import DatasetSource, Finding, ImageDataset, LabelledImage, Skipped, join_names
from autotl.data.digests import DIGEST_BYTES
from autotl.data.file_listing import is_ignored_name
from autotl.data.manifests import ManifestSource, manifest_beside
from autotl.data.near_duplicates import connected, near_duplicates
from autotl.data.subset_names import subset_of
from autotl.data.verification import verify_files
from autotl.errors import DataError, nearest
from autotl.folders import expand_home

__all__ = ["list_images", "load_dataset", "require_source"]

PACKED = {".zip", ".rar", ".7z", ".gz", ".tgz", ".bz2", ".xz"}
SPREADSHEETS = {".xlsx", ".xls", ".ods", ".json", ".jsonl"}
"""Extensions of what people give as a dataset."""
MAX_CLASS_NAMES = 12
"""Class names that a message lists."""


def load_dataset(
    location: str,
    sources: Mapping[str, DatasetSource],
    *,
    images: list[LabelledImage] | None = None,
    test: str | None = None,
    classes: Sequence[str] | None = None,
    strict: bool = False,
    threads: int = 2,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    on_problem: Callable[[Finding], None] | None = None,
    choose: Callable[[list[LabelledImage]], list[LabelledImage]] | None = None,
    confined: Container[str] = (),
) -> ImageDataset:
    """The labelled images at a location. Each file is read and decoded once.

    Args:
        location: a folder, a manifest, or the name of a dataset. Of several matching sources the last one is used.
        sources: dataset sources by name, in the order of their registration.
        images: the labelled images themselves, where `location` is only a name for them.
        test: another location, all of whose images become the subset "test".
        classes: the allowed classes in the order of their indices (those of a model). By default they are the classes
            of the training images: numbers ordered by value, names in natural order.
        strict: raise DataError for a file that can't be decoded, instead of adding it to `skipped`.
        threads: how many files are read at the same time.
        cache: a folder for the results of verification; unchanged files are not read again. Processes may share it.
        progress: called with the number of files checked and the number of all files.
        on_problem: called with a finding in place of raising DataError, where loading can continue: a single class;
            images of a class without training images, which are left out; a class without a decodable image.
        choose: takes the listed images and returns those to load.
        confined: the locations that a stranger may have named. A manifest there lists no files outside its folder.

    Raises:
        DataError: the location is invalid, or a classifier can't be trained on its images.
    """
    with warnings.catch_warnings(record=True) as source_warnings:
        warnings.simplefilter("always")
        if images is None:
            images = list_images(location, sources, confined=location in confined)
        if test is not None:
            if any(image.subset == "test" for image in images):
                raise DataError(
                    f"{location} already has test images. Remove the other location of test images, {test}."
                )
            test_images = list_images(test, sources, confined=test in confined)
            images = [*images, *(replace(image, subset="test") for image in test_images)]
        on_problem = on_problem or _raise
        images = choose(images) if choose else images
        class_names = tuple(classes) if classes is not None else _training_classes(images, location, on_problem)
        images = _in_one_unicode_form(images, class_names)
    images = _of_known_classes(images, class_names, location, test, on_problem, of_model=classes is not None)

    verifications = verify_files([image.path for image in images], threads, cache, progress)
    skipped = tuple(Skipped(i.path, v.reason) for i, v in zip(images, verifications, strict=True) if v.reason)
    if skipped and strict:
        raise DataError(
            f"{_count_images(skipped)} can't be decoded: {_first_reasons(skipped)}. "
            "Repair or remove these files, or omit --strict-images."
        )
    if len(skipped) == len(images):
        raise DataError(f"No image of {location} can be decoded: {_first_reasons(skipped)}.")
    images = [image for image, v in zip(images, verifications, strict=True) if not v.reason]
    verifications = [v for v in verifications if not v.reason]
    if classes is None:
        _check_classes_have_images(images, class_names, skipped, on_problem)

    index = {label: i for i, label in enumerate(class_names)}
    digests = DigestColumn(v.digest for v in verifications)
    dataset = ImageDataset(
        name=_dataset_name(location),
        classes=class_names,
        paths=PathColumn(os.path.abspath(image.path) for image in images),  # noqa: PTH100 - symbolic links are kept
        labels=np.array([index[image.label] for image in images], dtype=np.int64),
        digests=digests,
        subsets=tuple(image.subset for image in images),
        groups=tuple(image.group for image in images),
        times=tuple(image.time for image in images) if any(image.time is not None for image in images) else (),
        skipped=skipped,
    )
    if classes is None:
        thumbnails = np.frombuffer(b"".join(v.thumbnail for v in verifications), np.uint8).reshape(len(images), -1)
        del images, verifications  # tens of megabytes
        pairs = near_duplicates(thumbnails, digests.bytes.view(f"S{DIGEST_BYTES}")[:, 0], threads)
        dataset = replace(dataset, lookalikes=NumberColumn(connected(len(dataset), pairs)))
        findings = audit_dataset(dataset, thumbnails, pairs)
    else:
        findings = audit_dataset(dataset, for_training=False)
    serious = [finding.line() for finding in findings if finding.serious]
    # a dict removes repeated warnings and keeps their order
    texts = dict.fromkeys(str(w.message) for w in source_warnings if issubclass(w.category, UserWarning))
    from_source = tuple(Finding("source_warning", text, 1, serious=False) for text in texts)
    return replace(dataset, findings=(*findings, *from_source), warnings=(*texts, *serious))


def _raise(finding: Finding) -> None:
    raise DataError(finding.line())


def list_images(location: str, sources: Mapping[str, DatasetSource], *, confined: bool = False) -> list[LabelledImage]:
    """The labelled images at a location, as its source lists them: no file is read.

    Args:
        confined: the location comes from a stranger. See `load_dataset`.
    """
    matching = _matching(location, sources)
    source = matching[-1]
    if len(matching) > 1 and location == source.name:
        warnings.warn(
            f"{location!r} is read as the dataset of that name. For the folder type ./{location}", stacklevel=2
        )
    if isinstance(source, ManifestSource):
        images = source.images(location, confined=confined)
    else:
        images = source.images(location)
    if not images:
        raise DataError(f"{location!r} has no images.")
    return images


def require_source(location: str, sources: Mapping[str, DatasetSource]) -> None:
    """Raise DataError unless there is something at a location that images can be listed of."""
    _matching(location, sources)


def _matching(location: str, sources: Mapping[str, DatasetSource]) -> list[DatasetSource]:
    if not location.strip():  # of a variable of the shell that isn't set
        raise DataError("The location of the images is empty. Give a folder of class folders; the current one is `.`")
    matching = [source for source in sources.values() if source.matches(location)]
    if not matching:
        raise DataError(
            _not_a_dataset(location, sorted(set(sources) - {"folder", "manifest", "parquet", "tar", "remote"}))
        )
    return matching


def _not_a_dataset(location: str, known: Sequence[str]) -> str:
    path = expand_home(location)
    try:
        exists = path.exists()
        beside = [p.name for p in path.parent.iterdir()] if not exists and path.parent.is_dir() else []
    except (OSError, ValueError):  # not the name of a file
        exists, beside = False, []
    names = f", or the name of a dataset: {', '.join(known)}" if known else ""
    what = (
        f"{location!r} is neither a folder nor a manifest."
        if exists
        else f"{location!r} is not a dataset: there is no folder, no file and no dataset of that name."
    )
    if exists:
        suffix = path.suffix.lower()
        what += " Unpack it first." * (suffix in PACKED) + " Save the table as CSV." * (suffix in SPREADSHEETS)
    close = nearest(location, known) or nearest(path.name, beside)
    return f"{what}{close} Give a folder of class folders, a CSV manifest (path,label){names}."


def _training_classes(
    images: Iterable[LabelledImage], location: str, on_problem: Callable[[Finding], None]
) -> tuple[str, ...]:
    """The classes of the training images, in natural order."""
    names = {image.label for image in images if image.subset in ("", "train")}
    if not names:
        raise DataError(f"{location} has no training images, only validation or test images.")
    if len(names) == 1:
        (name,) = names
        folder = expand_home(location)
        inner = _first_with_folders(folder / name)
        hint = f" If {inner} holds class folders, give that folder instead." if inner else ""
        hint = (manifest_beside(folder) if folder.is_dir() else "") or hint
        text = f"All images of {location} belong to one class, {name!r}; a classifier needs at least two.{hint}"
        on_problem(Finding("one_class", text, 1, (name,), serious=True))
    if all(re.fullmatch(r"[+-]?\d+(\.\d+)?", name) for name in names):
        return tuple(sorted(names, key=lambda name: (float(name), name)))
    return tuple(sorted(names, key=_natural_order))


def _first_with_folders(folder: Path) -> Path | None:
    """The folder, or the first one inside that has several folders: archives often wrap theirs in others."""
    while folder.is_dir():
        inner = [path for path in folder.iterdir() if path.is_dir() and not is_ignored_name(path.name)]
        if len(inner) != 1 or inner[0].is_symlink():
            return folder if inner else None
        folder = inner[0]
    return None


def _natural_order(name: str) -> tuple[list[str | int], str]:
    """Sort key by which `page 2` precedes `page 10`. Texts and numbers alternate, so that only equal types meet."""
    return [int(piece) if i % 2 else piece for i, piece in enumerate(re.split(r"(\d+)", name))], name


def _in_one_unicode_form(images: list[LabelledImage], classes: tuple[str, ...]) -> list[LabelledImage]:
    """The images, with labels that differ from one class in nothing but their Unicode form replaced by that class.

    macOS writes `é` in names of files as two characters and Linux as one; nobody sees the difference.
    """
    known = set(classes)
    forms: dict[str, list[str]] = {}
    for name in classes:
        forms.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    same = {}
    for label in {image.label for image in images} - known:
        names = forms.get(unicodedata.normalize("NFC", label), [])
        if len(names) == 1:
            same[label] = names[0]
    if not same:
        return images
    warnings.warn(
        f"Labels that differ from a class only in their Unicode form are read as that class: "
        f"{join_names(sorted(map(repr, same.values())))}.",
        stacklevel=2,
    )
    return [replace(image, label=same[image.label]) if image.label in same else image for image in images]


def _of_known_classes(
    images: list[LabelledImage],
    classes: tuple[str, ...],
    location: str,
    test: str | None,
    on_problem: Callable[[Finding], None],
    *,
    of_model: bool,
) -> list[LabelledImage]:
    """The images whose class is among `classes`; one problem for each unknown class of a subset.

    `of_model`: the classes are a model's, and subsets don't matter.

    Raises:
        DataError: no image is of one of these classes.
    """
    known = set(classes)
    unknown: dict[tuple[str, str, str], list[LabelledImage]] = {}
    for image in images:
        if image.label not in known:
            source = test if test is not None and image.subset == "test" else location
            unknown.setdefault((source, "" if of_model else image.subset, image.label), []).append(image)
    owner = "model" if of_model else "training images"
    for (source, subset, label), of_class in unknown.items():
        text = (
            f"{source} has {subset + ' ' if subset else ''}images of {label!r}, which is not a class of the {owner}."
            f"{_similar(label, classes)} Known classes: {join_names(classes, MAX_CLASS_NAMES)}."
        )
        paths = tuple(str(image.path) for image in of_class[:5])
        on_problem(Finding("unknown_class", text, len(of_class), paths, serious=True))
    left = [image for image in images if image.label in known] if unknown else images
    if not left:
        raise DataError(f"No image of {location} is of a class of the {owner}: {join_names(classes, MAX_CLASS_NAMES)}.")
    return left


def _similar(label: str, classes: Sequence[str]) -> str:
    same = [name for name in classes if folded(name) == folded(label)]
    if same:
        return f" It differs from {same[0]!r} only in {OVERLOOKED}: use one name."
    return nearest(label, classes)


def _check_classes_have_images(
    decodable: Iterable[LabelledImage],
    classes: tuple[str, ...],
    skipped: tuple[Skipped, ...],
    on_problem: Callable[[Finding], None],
) -> None:
    present = {image.label for image in decodable if image.subset in ("", "train")}
    missing = [name for name in classes if name not in present]
    if missing:
        text = (
            f"No training image of {join_names([repr(name) for name in missing], MAX_CLASS_NAMES)} can be decoded. "
            f"{_count_images(skipped)} left out: {_first_reasons(skipped)}."
        )
        on_problem(Finding("class_without_images", text, len(missing), tuple(missing[:5]), serious=True))


def _dataset_name(location: str) -> str:
    """The name of the folder or file, or of the parent folder if the folder is called train, val or test."""
    path = Path(os.path.abspath(expand_home(location)))  # noqa: PTH100 - the name of a link, not of its target
    if not path.exists():
        return location
    if path.is_dir() and subset_of(path.name) and path.parent.name:
        return path.parent.name
    return path.name if path.is_dir() else path.stem


def _count_images(skipped: Sequence[Skipped]) -> str:
    return f"{len(skipped):,} image{'s' if len(skipped) > 1 else ''}"


def _first_reasons(skipped: Sequence[Skipped], limit: int = 3) -> str:
    others = f"; and {len(skipped) - limit:,} more" if len(skipped) > limit else ""
    return "; ".join(f"{s.path} ({s.reason})" for s in skipped[:limit]) + others
