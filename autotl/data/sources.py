"""The built-in places that labelled images come from: a folder of class folders, and a CSV manifest.

What a source leaves out it says with `warnings.warn`; `load_dataset` carries that to the user.
"""

import csv
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from autotl.data.dataset import DatasetSource, LabelledImage, Subset
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
"""What people call the subsets, in folder names and manifests."""


class FolderSource(DatasetSource):
    """Class folders, side by side or under train/, val/ (valid/, validation/) and test/. Folders inside a class folder
    belong to it; hidden files don't count."""

    name = "folder"

    def matches(self, location: str) -> bool:
        return Path(location).expanduser().is_dir()

    def images(self, location: str) -> list[LabelledImage]:
        root = Path(location).expanduser()
        left_out: Counter[str] = Counter()
        if subsets := _subset_folders(root):
            rows = [row for subset, folder in subsets.items() for row in _class_folders(folder, subset, left_out)]
        else:
            rows = _class_folders(root, "", left_out)
        if not rows and left_out:
            raise DataError(
                f"No file in {root} is an image by its extension; there are {_counts(left_out)}. "
                f"What Pillow reads works: {', '.join(sorted(_common_extensions()))} …"
            )
        if not rows:
            raise DataError(f"{root} holds no images. Put them into one folder for each class: {root / 'CLASS'}/….jpg")
        if left_out:
            warnings.warn(f"Left out by their extension, in {root}: {_counts(left_out)}.", stacklevel=2)
        return rows


class ManifestSource(DatasetSource):
    """A CSV file with a header, `path,label[,split,group]`; paths are relative to its folder and stay inside it."""

    name = "manifest"

    def matches(self, location: str) -> bool:
        path = Path(location).expanduser()
        return path.suffix.lower() == ".csv" and not path.is_dir()

    def images(self, location: str) -> list[LabelledImage]:
        manifest = Path(location).expanduser()
        columns, rows = _read(manifest)
        for column in ("path", "label"):
            unnamed = [line for line, row in rows if not row[column]]
            if unnamed:
                raise DataError(f"{manifest}: no {column} in {_lines(unnamed)}. Fill it in or delete the row.")
        subsets = [_subset(manifest, line, row["split"]) if "split" in columns else "" for line, row in rows]
        if any(subsets) and not all(subsets):
            missing = [line for (line, _), subset in zip(rows, subsets, strict=True) if not subset]
            raise DataError(
                f"{manifest}: some rows have a split, but {_lines(missing)} have none. Fill in all or none."
            )
        real_folder = cache(os.path.realpath)  # thousands of images share a folder
        return [
            LabelledImage(_inside(manifest, line, row["path"], real_folder), row["label"], subset, row.get("group", ""))
            for (line, row), subset in zip(rows, subsets, strict=True)
        ]


def autotl_register_datasets(register: "Register[DatasetSource]") -> None:
    register(FolderSource())
    register(ManifestSource())


# --- folders


def _folders(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_dir()]


def _entries(folder: Path) -> list[Path]:
    """What isn't hidden, by name."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} can't be listed: {error.strerror}.") from error


def _files(folder: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    """Every file below `folder`, links followed, except where they lead back up. Broken links are files too: whoever
    reads them gives the reason."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for path in _entries(folder):
        if path.is_dir():
            yield from _files(path, (*above, here))
        elif path.is_file() or (path.is_symlink() and not path.exists()):
            yield path


@cache
def _known_extensions() -> frozenset[str]:
    from PIL import Image

    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def _common_extensions() -> frozenset[str]:
    return _known_extensions() & {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif"}


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _known_extensions()


def _subset_folders(root: Path) -> dict[Subset, Path]:
    """train/ and its siblings where the folder is laid out so, nothing where it holds class folders.

    A class may be called "train" too: what tells them apart is whether that folder holds folders of images.
    """
    folders = _folders(root)
    subsets: dict[Subset, Path] = {}
    for folder in folders:
        subset = SUBSET_NAMES.get(folder.name.lower())
        if subset and subset in subsets:
            raise DataError(
                f"{root} has two folders of {subset} images, {subsets[subset].name} and {folder.name}: keep one."
            )
        if subset:
            subsets[subset] = folder
    by_class = [
        folder for folder in subsets.values() if any(any(map(_is_image, _files(inner))) for inner in _folders(folder))
    ]
    others = [f.name for f in folders if f not in subsets.values() and any(map(_is_image, _files(f)))]
    if subsets.get("train") in by_class:
        if others:
            raise DataError(
                f"{root} has train/ with class folders, and beside it other folders with images ({_few(others)}). "
                "Move them away, or the class folders one level up."
            )
        return subsets
    if subsets and not others:
        if by_class:
            raise DataError(
                f"{root} has {_few([f.name for f in by_class])} but no train/ with class folders. "
                f"Add it, or name a folder of class folders: {by_class[0]}"
            )
        folder = subsets.get("train") or next(iter(subsets.values()))
        raise DataError(
            f"{folder} has no class folders with images. Put them into one folder for each class: "
            f"{folder / 'CLASS'}/….jpg"
        )
    return {}


def _class_folders(folder: Path, subset: Subset, left_out: Counter[str]) -> list[LabelledImage]:
    """The images in the class folders of `folder`; counts files of other extensions into `left_out`."""
    rows: list[LabelledImage] = []
    for class_folder in _folders(folder):
        before, others = len(rows), left_out.total()
        for path in _files(class_folder):
            if _is_image(path):
                rows.append(LabelledImage(path, class_folder.name, subset))
            else:
                left_out[path.suffix.lower() or "no extension"] += 1
        if len(rows) == before and left_out.total() == others:
            warnings.warn(f"{class_folder} is empty and makes no class.", stacklevel=3)
    loose = [path.name for path in _entries(folder) if not path.is_dir() and _is_image(path)]
    if loose and not rows:
        without = f" To do without them, name the training folder alone: {folder.parent / 'train'}"
        raise DataError(
            f"{folder} holds images but no class folders. Put them into one folder for each class, "
            f"{folder / 'CLASS' / loose[0]}, or list them in a CSV file with the columns path,label."
            f"{without if subset in ('validation', 'test') else ''}"
        )
    if loose:
        warnings.warn(f"Left out of {folder}, because they lie in no class folder: {_few(loose)}.", stacklevel=3)
    return rows


# --- manifests


def _read(manifest: Path) -> tuple[set[str], list[tuple[int, dict[str, str]]]]:
    """Its columns, and its rows with their line numbers; all words stripped."""
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
                        'Put quotes around a value that has a comma: "a, b"'
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
        raise DataError(f"{manifest}, line {reader.line_num}: not CSV: {error}.") from error
    if not rows:
        raise DataError(f"{manifest} lists no images. It wants a row for each, path,label, under that header.")
    return set(header), rows


def _check_header(manifest: Path, header: list[str]) -> None:
    columns = ("path", "label", "split", "group")
    for column in ("path", "label"):
        if column not in header:
            close = nearest(column, header).replace("Did you mean", "Is it")
            commas = " Separate the columns with commas." if len(header) == 1 else ""
            raise DataError(
                f"{manifest} has no column {column!r}; its header is {','.join(header) or 'empty'}.{close}{commas} "
                "It must be path,label and may have split,group."
            )
    for column in columns:
        if header.count(column) > 1:
            raise DataError(f"{manifest} has the column {column!r} twice: keep one.")
    for extra in set(header) - set(columns):
        close = nearest(extra, [c for c in columns if c not in header])
        if close:
            warnings.warn(f"The column {extra!r} of {manifest} isn't read.{close}", stacklevel=4)


def _subset(manifest: Path, line: int, word: str) -> Subset:
    if not word:
        return ""
    if word.lower() not in SUBSET_NAMES:
        raise DataError(
            f"{manifest}, line {line}: the split {word!r} is unknown.{nearest(word.lower(), SUBSET_NAMES)} "
            f"Known: {', '.join(SUBSET_NAMES)}."
        )
    return SUBSET_NAMES[word.lower()]


def _inside(manifest: Path, line: int, written: str, real_folder: Callable[[Path], str]) -> Path:
    """The path of a row, if it stays in the manifest's folder: a manifest from elsewhere names no private files."""
    place = f"{manifest}, line {line}"
    folder = real_folder(manifest.parent)
    if PurePosixPath(written).is_absolute() or PureWindowsPath(written).drive or written.startswith("\\"):
        raise DataError(f"{place}: {written} is absolute. Paths are relative to the manifest's folder, {folder}")
    path = manifest.parent / written
    try:
        if "\0" in written:
            raise ValueError("it has a NUL in it")
        if path.name == ".." or path.is_symlink():
            real = os.path.realpath(path)
        else:
            real = os.path.join(real_folder(path.parent), path.name)  # noqa: PTH118 - text throughout, for speed
    except (OSError, ValueError) as error:
        raise DataError(f"{place}: {written!r} is no path: {error}.") from error
    if not real.startswith(os.path.join(folder, "")):  # noqa: PTH118 - the same
        raise DataError(f"{place}: {written} leaves the manifest's folder, {folder}. Move the manifest or the image.")
    return path


# --- words


def _lines(numbers: list[int]) -> str:
    return ("line " if len(numbers) == 1 else "lines ") + _few([str(n) for n in numbers])


def _few(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in counter.most_common(8))
