"""The built-in dataset sources: a folder of class folders, and a CSV manifest.

A source calls `warnings.warn` for anything that it leaves out; `load_dataset` shows these warnings to the user.
"""

import csv
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from autotl.data.dataset import DatasetSource, LabelledImage, Subset, join_names
from autotl.errors import DataError, nearest

if TYPE_CHECKING:
    from autotl.registration import Register

__all__ = ["SUBSET_NAMES", "FolderSource", "ManifestSource"]

SUBSET_NAMES: dict[str, Subset] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""Subsets by the names that folders and manifests use for them."""


class FolderSource(DatasetSource):
    """Class folders, side by side or under train/, val/ (valid/, validation/) and test/. The images in subfolders of a
    class folder belong to the class; hidden files are ignored."""

    name = "folder"

    def matches(self, location: str) -> bool:
        return Path(location).expanduser().is_dir()

    def images(self, location: str) -> list[LabelledImage]:
        root = Path(location).expanduser()
        ignored: Counter[str] = Counter()
        if subsets := _subset_folders(root):
            images = [
                image for subset, folder in subsets.items() for image in _labelled_images(folder, subset, ignored)
            ]
        else:
            images = _labelled_images(root, "", ignored)
        if not images and ignored:
            raise DataError(
                f"No file in {root} has the extension of an image; there are {_format_counts(ignored)}. "
                f"Every format that Pillow reads can be used: {', '.join(sorted(_common_extensions()))} …"
            )
        if not images:
            raise DataError(f"{root} has no images. Put them into one folder for each class: {root / 'CLASS'}/….jpg")
        if ignored:
            warnings.warn(
                f"Ignored files in {root}, whose extensions are not those of images: {_format_counts(ignored)}.",
                stacklevel=2,
            )
        return images


class ManifestSource(DatasetSource):
    """A CSV file with the header `path,label[,split,group]`. Paths are relative to its folder and stay inside it."""

    name = "manifest"

    def matches(self, location: str) -> bool:
        path = Path(location).expanduser()
        return path.suffix.lower() == ".csv" and not path.is_dir()

    def images(self, location: str) -> list[LabelledImage]:
        manifest = Path(location).expanduser()
        columns, rows = _read_rows(manifest)
        for column in ("path", "label"):
            empty = [line for line, row in rows if not row[column]]
            if empty:
                raise DataError(f"{manifest}: no {column} in {_format_lines(empty)}. Fill it in or delete the row.")
        subsets = [_subset(manifest, line, row["split"]) if "split" in columns else "" for line, row in rows]
        if any(subsets) and not all(subsets):
            missing = [line for (line, _), subset in zip(rows, subsets, strict=True) if not subset]
            raise DataError(
                f"{manifest}: some rows have a split, but not {_format_lines(missing)}. Fill in all or none."
            )
        real_folder = cache(os.path.realpath)  # thousands of images share a folder: resolve it once
        return [
            LabelledImage(
                _image_path(manifest, line, row["path"], real_folder), row["label"], subset, row.get("group", "")
            )
            for (line, row), subset in zip(rows, subsets, strict=True)
        ]


def autotl_register_datasets(register: "Register[DatasetSource]") -> None:
    register(FolderSource())
    register(ManifestSource())


# --- folders


def _folders(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_dir()]


def _entries(folder: Path) -> list[Path]:
    """Files and folders that aren't hidden, sorted by name."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} can't be listed: {error.strerror}.") from error


def _files(folder: Path, parents: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    """All files below `folder`. Follows symbolic links, except to one of the `parents` (device and inode numbers).

    Broken links are included: the check of the file reports them later, with the reason.
    """
    status = folder.stat()
    inode = (status.st_dev, status.st_ino)
    if inode in parents:
        return
    for path in _entries(folder):
        if path.is_dir():
            yield from _files(path, (*parents, inode))
        elif path.is_file() or (path.is_symlink() and not path.exists()):
            yield path


@cache
def _known_extensions() -> frozenset[str]:
    from PIL import Image

    return frozenset(suffix for suffix, format in Image.registered_extensions().items() if format in Image.OPEN)


def _common_extensions() -> frozenset[str]:
    return _known_extensions() & {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif"}


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _known_extensions()


def _subset_folders(root: Path) -> dict[Subset, Path]:
    """The folders train/, val/ and test/ by subset; empty if `root` holds class folders instead.

    A class can be named "train" as well. A folder is a subset if it holds folders of images, and a class otherwise.
    """
    folders = _folders(root)
    subsets: dict[Subset, Path] = {}
    for folder in folders:
        subset = SUBSET_NAMES.get(folder.name.lower())
        if subset and subset in subsets:
            raise DataError(
                f"{root} has two folders of {subset} images, {subsets[subset].name} and {folder.name}. Remove one."
            )
        if subset:
            subsets[subset] = folder
    with_classes = [
        folder for folder in subsets.values() if any(any(map(_is_image, _files(inner))) for inner in _folders(folder))
    ]
    others = [f.name for f in folders if f not in subsets.values() and any(map(_is_image, _files(f)))]
    if subsets.get("train") in with_classes:
        if others:
            raise DataError(
                f"{root} has train/ with class folders, but also other folders with images ({join_names(others)}). "
                "Remove these folders, or move the class folders one level up."
            )
        return subsets
    if subsets and not others:
        if with_classes:
            raise DataError(
                f"{root} has {join_names([f.name for f in with_classes])} but no train/ with class folders. "
                f"Add it, or give a folder of class folders: {with_classes[0]}"
            )
        folder = subsets.get("train") or next(iter(subsets.values()))
        raise DataError(
            f"{folder} has no class folders with images. Put them into one folder for each class: "
            f"{folder / 'CLASS'}/….jpg"
        )
    return {}


def _labelled_images(folder: Path, subset: Subset, ignored: Counter[str]) -> list[LabelledImage]:
    """The images in the class folders of `folder`. Adds the other files to `ignored`, counted by extension."""
    images: list[LabelledImage] = []
    for class_folder in _folders(folder):
        images_before, ignored_before = len(images), ignored.total()
        for path in _files(class_folder):
            if _is_image(path):
                images.append(LabelledImage(path, class_folder.name, subset))
            else:
                ignored[path.suffix.lower() or "no extension"] += 1
        if len(images) == images_before and ignored.total() == ignored_before:
            warnings.warn(f"{class_folder} is empty and not used as a class.", stacklevel=3)
    loose = [path.name for path in _entries(folder) if not path.is_dir() and _is_image(path)]
    if loose and not images:
        hint = f" To ignore them, give the training folder alone: {folder.parent / 'train'}"
        raise DataError(
            f"{folder} has images but no class folders. Put them into one folder for each class, "
            f"{folder / 'CLASS' / loose[0]}, or list them in a CSV file with the columns path,label."
            f"{hint if subset in ('validation', 'test') else ''}"
        )
    if loose:
        warnings.warn(f"Ignored images in {folder} that are not in a class folder: {join_names(loose)}.", stacklevel=3)
    return images


# --- manifests


def _read_rows(manifest: Path) -> tuple[set[str], list[tuple[int, dict[str, str]]]]:
    """The columns, and the rows with their line numbers. Values are stripped of white space."""
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            _check_header(manifest, header)
            rows = []
            for values in reader:
                if len(values) > len(header):
                    raise DataError(
                        f"{manifest}, line {reader.line_num}: {len(values)} values for {len(header)} columns. "
                        'Quote values that contain a comma: "a, b"'
                    )
                if any(map(str.strip, values)):
                    padded = [*map(str.strip, values), *[""] * (len(header) - len(values))]
                    rows.append((reader.line_num, dict(zip(header, padded, strict=True))))
    except FileNotFoundError as error:
        raise DataError(f"There is no file {manifest}.") from error
    except OSError as error:
        raise DataError(f"{manifest} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{manifest} isn't UTF-8 (byte {error.start}). Save it as UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{manifest}, line {reader.line_num}: invalid CSV: {error}.") from error
    if not rows:
        raise DataError(f"{manifest} lists no images. Add a row path,label for each image.")
    return set(header), rows


def _check_header(manifest: Path, header: list[str]) -> None:
    columns = ("path", "label", "split", "group")
    for column in ("path", "label"):
        if column not in header:
            close = nearest(column, header).replace("Did you mean", "Is it")
            commas = " Separate the columns with commas." if len(header) == 1 else ""
            raise DataError(
                f"{manifest} has no column {column!r}; its header is {','.join(header) or 'empty'}.{close}{commas} "
                "The header must have path,label and may have split,group."
            )
    for column in columns:
        if header.count(column) > 1:
            raise DataError(f"{manifest} has the column {column!r} twice. Remove one.")
    for extra in set(header) - set(columns):
        close = nearest(extra, [c for c in columns if c not in header])
        if close:
            warnings.warn(f"The column {extra!r} of {manifest} is ignored.{close}", stacklevel=4)


def _subset(manifest: Path, line: int, name: str) -> Subset:
    if not name:
        return ""
    if name.lower() not in SUBSET_NAMES:
        raise DataError(
            f"{manifest}, line {line}: the split {name!r} is unknown.{nearest(name.lower(), SUBSET_NAMES)} "
            f"Known: {', '.join(SUBSET_NAMES)}."
        )
    return SUBSET_NAMES[name.lower()]


def _image_path(manifest: Path, line: int, relative: str, real_folder: Callable[[Path], str]) -> Path:
    """The path of a row. Rejects paths that lead out of the manifest's folder, so that a manifest from an untrusted
    source can't read private files."""
    place = f"{manifest}, line {line}"
    folder = real_folder(manifest.parent)
    if PurePosixPath(relative).is_absolute() or PureWindowsPath(relative).drive or relative.startswith("\\"):
        raise DataError(f"{place}: {relative} is absolute. Paths are relative to the manifest's folder, {folder}")
    path = manifest.parent / relative
    try:
        if "\0" in relative:
            raise ValueError("it contains a NUL character")
        if path.name == ".." or path.is_symlink():
            real = os.path.realpath(path)
        else:
            real = os.path.join(real_folder(path.parent), path.name)  # noqa: PTH118 - str is faster than Path
    except (OSError, ValueError) as error:
        raise DataError(f"{place}: {relative!r} is not a path: {error}.") from error
    if not real.startswith(os.path.join(folder, "")):  # noqa: PTH118 - str is faster than Path
        raise DataError(f"{place}: {relative} leaves the manifest's folder, {folder}. Move the manifest or the image.")
    return path


# --- messages


def _format_lines(numbers: list[int]) -> str:
    return ("line " if len(numbers) == 1 else "lines ") + join_names([str(n) for n in numbers])


def _format_counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in counter.most_common(8))
