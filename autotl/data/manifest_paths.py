"""Where the images of a manifest are: beside it as a row says, or below its folder where no row says it right."""

import os
import re
import shlex
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

from autotl.data.dataset import join_names
from autotl.data.file_listing import has_image_extension, is_ignored_name
from autotl.data.manifest_columns import Row
from autotl.errors import DataError
from autotl.folders import MARKER, expand_home

__all__ = ["Locator"]

MAX_DEPTH = 4
"""Folders below a manifest's own that images are looked for in."""
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass
class Locator:
    """Finds the image of each row."""

    manifest: Path
    confined: bool

    def __post_init__(self) -> None:
        # thousands of images share a folder: resolve and list it once
        self._real_folder: Callable[[Path], str] = cache(os.path.realpath)
        self._names_by_stem: Callable[[Path], dict[str, list[str]]] = cache(_names_by_stem)

    def images(self, rows: Sequence[Row], column: int) -> list[Path]:
        """The path of each row's image: beside the manifest, as the row says. Where none of them is there, as with a
        table beside the folder of its images, or one of another machine: the image of that name below the manifest's
        folder, with a warning.

        Raises:
            DataError: not a path of this system; or, if confined, it leads out of the manifest's folder; or an image
                that is looked for below can be one of several. Links are not followed below a confined manifest.
        """
        paths = [self._as_typed(row.line, row.values[column]) for row in rows]
        if any(os.path.lexists(path) for path in paths):
            return paths
        below: dict[str, list[PurePosixPath]] = {}
        for inner in _below(self.manifest.parent, follow=not self.confined):
            for name in {inner.name, inner.stem}:
                below.setdefault(name, []).append(inner)
        found = [self._best(row.line, path, below) for row, path in zip(rows, paths, strict=True)]
        folders = sorted({str(inner.parent) for inner in found if inner is not None})
        if folders:
            warnings.warn(
                f"No image is where {self.manifest} says. Images of these names in folders below it are used: "
                f"{join_names(folders)}.",
                stacklevel=3,
            )
        return [
            path if inner is None else self.manifest.parent / inner for path, inner in zip(paths, found, strict=True)
        ]

    def _best(self, line: int, path: Path, below: dict[str, list[PurePosixPath]]) -> PurePosixPath | None:
        """The image below the manifest's folder whose path ends most like this one. Raises DataError for several."""
        found = below.get(path.name, [])
        most = max((_common_ending(inner, path) for inner in found), default=0)
        best = [inner for inner in found if _common_ending(inner, path) == most]
        place = f"{self.manifest}, line {line}"
        if len(best) > 1:
            raise DataError(
                f"{place}: there is no {path}, and {path.name} can be {join_names([str(inner) for inner in best])}. "
                "Write the folder, too."
            )
        return best[0] if best else None

    def _as_typed(self, line: int, typed: str) -> Path:
        place = f"{self.manifest}, line {line}"
        if ADDRESS.match(typed):
            raise DataError(f"{place}: {typed} is an address. Download the images, and write the paths of their files.")
        if PureWindowsPath(typed).drive or typed.startswith("\\"):
            raise DataError(
                f"{place}: {typed} is absolute on Windows. Write paths that are relative to the manifest's folder, "
                f"{self._real_folder(self.manifest.parent)}"
            )
        if "\\" in typed and not os.path.lexists(self.manifest.parent / typed):  # a manifest from Windows
            typed = typed.replace("\\", "/")
        if self.confined:
            self._refuse_outside(place, typed)
        path = expand_home(typed) if typed.startswith("~/") and not self.confined else Path(typed)
        path = self.manifest.parent / path  # an absolute path replaces the folder
        if not has_image_extension(path.name):
            return self._with_extension(place, path)
        return path

    def _with_extension(self, place: str, path: Path) -> Path:
        """The image that a path without an extension means: the one file of that name; the path itself if there is
        none. Raises DataError if there are several."""
        if os.path.lexists(path):
            return path
        names = self._names_by_stem(path.parent).get(path.name, [])
        if len(names) > 1:
            raise DataError(f"{place}: {path.name} can be {join_names(names)}. Write the extension, too.")
        if not names:
            return path
        found = path.with_name(names[0])
        if self.confined:
            self._refuse_outside(place, str(found.relative_to(self.manifest.parent)))
        return found

    def _refuse_outside(self, place: str, typed: str) -> None:
        folder = self._real_folder(self.manifest.parent)
        remedy = (
            "A study file or a study names this manifest, and either can come from an untrusted source. If you trust "
            f"it, type the manifest's own location: --data {shlex.quote(str(self.manifest))}"
        )
        if PurePosixPath(typed).is_absolute():
            raise DataError(f"{place}: {typed} is absolute. {remedy}")
        path = self.manifest.parent / typed
        try:
            if path.name == ".." or path.is_symlink():
                real = os.path.realpath(path)
            else:
                real = os.path.join(self._real_folder(path.parent), path.name)  # noqa: PTH118 - str is faster than Path
        except (OSError, ValueError) as error:
            raise DataError(f"{place}: {typed!r} is not a path: {error}.") from error
        if not real.startswith(os.path.join(folder, "")):  # noqa: PTH118 - str is faster than Path
            raise DataError(f"{place}: {typed} leaves the manifest's folder, {folder}. {remedy}")


def _common_ending(one: PurePath, other: PurePath) -> int:
    """How many folders, counted from the last one, two paths have in common."""
    pairs = zip(one.parent.parts[::-1], other.parent.parts[::-1], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _below(folder: Path, *, follow: bool) -> Iterator[PurePosixPath]:
    """The images in the folders of a folder, relative to it; those behind links only if asked to `follow` them."""
    for here, folders, files in os.walk(folder, followlinks=follow):
        inner = PurePosixPath(Path(here).relative_to(folder))
        if len(inner.parts) >= MAX_DEPTH or MARKER in files:
            folders.clear()
        folders[:] = sorted(name for name in folders if not is_ignored_name(name))
        if not inner.parts or MARKER in files:
            continue
        for name in sorted(files):
            if (
                has_image_extension(name)
                and not is_ignored_name(name)
                and (follow or not Path(here, name).is_symlink())
            ):
                yield inner / name


def _names_by_stem(folder: Path) -> dict[str, list[str]]:
    """The names of the files in a folder that have an image's extension, by their names without it."""
    names: dict[str, list[str]] = {}
    with suppress(OSError):  # the images are missing, and are reported as such
        for name in sorted(os.listdir(folder)):  # noqa: PTH208 - names are all that is needed
            if has_image_extension(name):
                names.setdefault(name.rpartition(".")[0], []).append(name)
    return names
