"""Which files of a folder are images: one rule for every command, and one way to say what it leaves out."""

import os
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeAlias

from autotl.data.dataset import join_names
from autotl.errors import DataError
from autotl.folders import MARKER

__all__ = [
    "FileListing",
    "Parents",
    "common_extensions",
    "describe_left_out",
    "format_counts",
    "has_image_extension",
    "is_ignored_name",
]

SYSTEM_NAMES = {
    *("__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information", "#recycle", "thumbs.db"),
    *("desktop.ini", "icon\r", "__pycache__", "ehthumbs.db"),
}
"""Names of what operating systems, file servers and tools put beside a user's files, in lower case."""
SIDECAR_EXTENSIONS = {
    *(".txt", ".json", ".xml", ".csv", ".tsv", ".md", ".html", ".yaml", ".yml", ".toml", ".pdf", ".zip", ".gz", ".tar"),
    *(".py", ".ipynb", ".npy", ".npz", ".mat", ".db", ".ini", ".log", ".pkl", ".h5", ".parquet", ".mp4", ".mov"),
    *(".avi", ".wav", ".cr2", ".nef", ".arw", ".dng", ".svg"),
}
"""Extensions of files that are no images to autotl, so that their content isn't looked at. (Photographs in a camera's
raw format begin as a TIFF does, but all that Pillow reads of one is a small preview.)"""
MAX_DEPTH = 100
"""Folders in folders that are read."""
HEIC = (".heic", ".heif", ".hif")
"""Extensions of photographs of phones that Pillow doesn't read."""
CONTENT_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
"""Formats that are recognised by a file's first bytes where its extension says nothing."""


def is_ignored_name(name: str) -> bool:
    """Whether a file or folder is hidden (`.git`, `._photo.jpg`) or a system's own (`__MACOSX`, `Thumbs.db`)."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


@cache
def _image_extensions() -> frozenset[str]:
    from PIL import Image

    return frozenset(suffix for suffix, format in Image.registered_extensions().items() if format in Image.OPEN)


def has_image_extension(name: str) -> bool:
    """Whether a file's name ends as those of a format that Pillow reads."""
    return os.path.splitext(name)[1].lower() in _image_extensions()  # noqa: PTH122 - called for every image


def common_extensions() -> list[str]:
    """The extensions of the most common formats that Pillow reads here."""
    common = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif"}
    return sorted(_image_extensions() & common)


Parents: TypeAlias = tuple[tuple[int, int], ...]
"""Device and inode numbers of a folder and all that it lies in, so that a link back to one of them isn't followed."""


class FileListing:
    """Lists folders and counts what is left out.

    An image is a file with the extension of a format that Pillow reads, or a file without extension, or with an unknown
    one, whose first bytes are those of an image. Hidden files and folders, and those of systems, are ignored. Links are
    followed; a broken link with an image's extension is listed, and fails later with that reason.
    """

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        """Number of files that are no images, by extension."""
        self.by_content: Counter[str] = Counter()
        """Number of images that were recognised by their content, by extension."""
        self.unreadable: list[str] = []
        """Folders that are left out, with the reason."""

    def entries(self, folder: Path) -> tuple[list[str], list[str]]:
        """The names of the images in a folder, and those of its folders, both sorted. Raises DataError."""
        images, folders = [], []
        try:
            with os.scandir(folder) as found:
                entries = sorted((e for e in found if not is_ignored_name(e.name)), key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"{folder} can't be listed: {error.strerror}.") from error
        for entry in entries:
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:  # a link that leads back to itself
                is_folder = is_file = False
            if is_folder:
                folders.append(entry.name)
            elif self._is_image(entry, is_file=is_file):
                images.append(entry.name)
        return images, folders

    def visit(self, folder: Path, parents: Parents = ()) -> tuple[list[str], list[str], Parents]:
        """As `entries`, and the parents of what lies in the folder. Nothing lies in a link to one of the `parents`, nor
        in a folder that can't be listed, is too deep, or is autotl's own: it is noted, and raises DataError where it
        has no parents."""
        try:
            inode = _inode(folder)
            if inode in parents:
                return [], [], parents
            if len(parents) > MAX_DEPTH:
                raise DataError(f"{folder} is more than {MAX_DEPTH} folders deep.")
            if parents and (folder / MARKER).is_file():  # the pictures of an earlier search are no class
                raise DataError(f"{folder} is a study or a cache of autotl.")
            return *self.entries(folder), (*parents, inode)
        except DataError as error:
            if not parents:
                raise
            self.unreadable.append(str(error))
            return [], [], parents

    def walk(self, folder: Path, parents: Parents = ()) -> Iterator[Path]:
        """Yield all images below a folder, sorted by name within each, one folder after the other. Raises DataError if
        `folder` itself can't be listed."""
        images, folders, parents = self.visit(folder, parents)
        inner = set(folders)
        for name in sorted([*images, *folders]):
            if name in inner:
                yield from self.walk(folder / name, parents)
            else:
                yield folder / name

    def notes(self, place: object) -> list[str]:
        """Sentences for users: which files at `place` were left out, and which are images by their content only."""
        notes = []
        if self.by_content:
            counts = format_counts(self.by_content)
            notes.append(f"Read as images in {place} for their content, whatever their extension: {counts}.")
        if self.left_out:
            notes.append(describe_left_out(place, self.left_out))
        if self.unreadable:
            notes.append(f"Left out: {join_names(self.unreadable)}")
        return notes

    def _is_image(self, entry: "os.DirEntry[str]", *, is_file: bool) -> bool:
        extension = _extension(entry.name)
        if extension in _image_extensions() and (is_file or entry.is_symlink()):
            return True
        kind = extension or "no extension"
        if is_file and extension not in SIDECAR_EXTENSIONS and _begins_as_image(entry.path):
            self.by_content[kind] += 1
            return True
        self.left_out[kind if is_file or entry.is_symlink() else "pipes, sockets and devices"] += 1
        return False


def _inode(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        raise DataError(f"{folder} can't be listed: {error.strerror}.") from error
    return status.st_dev, status.st_ino


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - called for each file; ten times as fast as Path.suffix


def _begins_as_image(path: str) -> bool:
    from PIL import Image

    _image_extensions()  # registers the formats
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - called for many files
            prefix = file.read(16)
    except OSError:
        return False
    accepts = (Image.OPEN[name][1] for name in CONTENT_FORMATS if name in Image.OPEN)
    return len(prefix) == 16 and any(accept is not None and accept(prefix) is True for accept in accepts)


def describe_left_out(place: object, kinds: Counter[str]) -> str:
    """A sentence for users: how many files at `place` are no images, by extension."""
    remedy = " Save HEIC photographs as JPEG." if any(kind in HEIC for kind in kinds) else ""
    return f"Left out in {place}, because they are not images: {format_counts(kinds)}.{remedy}"


def format_counts(counter: Counter[str]) -> str:
    """`.txt (12), no extension (3)`: at most eight of them, the most frequent first."""
    return ", ".join(f"{name} ({count:,})" for name, count in counter.most_common(8))
