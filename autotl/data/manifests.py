"""Manifests: text files with a row for each image, as spreadsheets, scripts and other tools write them."""

import csv
import io
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath

from autotl.data.dataset import DatasetSource, LabelledImage, Subset, join_names
from autotl.data.manifest_columns import BOOLEANS, Row, find_columns
from autotl.data.subset_names import SUBSET_WORDS, class_name, subset_of
from autotl.errors import DataError, nearest

__all__ = ["ManifestSource"]

EXTENSIONS = (".csv", ".tsv", ".txt", ".psv")
SEPARATORS = ",;\t|"
MISSING_LABELS = ("", "nan", "<na>")
"""Labels, in lower case, that tools write for a missing one."""


class ManifestSource(DatasetSource):
    """A CSV file with a header and the columns `path,label[,split,group]`, also under other common names (see
    `autotl.data.manifest_columns`). Columns may be separated by commas, semicolons, tabs or bars. Relative paths start
    at its folder."""

    name = "manifest"

    def matches(self, location: str) -> bool:
        path = Path(location).expanduser()
        return path.suffix.lower() in EXTENSIONS and not path.is_dir()

    def images(self, location: str, *, confined: bool = False) -> list[LabelledImage]:
        """List the images of a manifest.

        Args:
            location: the manifest.
            confined: refuse paths that lead out of the manifest's folder, also by links. For a manifest that a
                stranger's study names: it must not read private files.

        Raises:
            DataError: an invalid manifest, with the line.
        """
        manifest = Path(location).expanduser()
        header, rows = _read_rows(manifest)
        columns = find_columns(manifest, header, rows)
        for note in columns.notes:
            warnings.warn(note, stacklevel=2)
        for role, column, missing in (("path", columns.path, ("",)), ("label", columns.label, MISSING_LABELS)):
            empty = [row.line for row in rows if row.values[column].lower() in missing]
            if empty:
                raise DataError(f"{manifest}: no {role} in {_format_lines(empty)}. Fill it in or delete the row.")
        subsets = _subsets(manifest, columns.split, columns.flags, rows)
        locate = _Locator(manifest, confined=confined)
        return [
            LabelledImage(
                path := locate.image(row.line, row.values[columns.path]),
                _label(manifest, row, row.values[columns.label], path),
                subset,
                "" if columns.group is None else class_name(row.values[columns.group]),
            )
            for row, subset in zip(rows, subsets, strict=True)
        ]


# --- text


def _read_rows(manifest: Path) -> tuple[list[str], list[Row]]:
    """The header, and the rows that aren't empty. Values are stripped of white space."""
    text = _read_text(manifest)
    first_line = 0
    if declared := re.match(r"sep=(.)\r?\n", text):  # as Excel writes and reads it
        text, first_line = text[declared.end() :], 1
    separator = declared[1] if declared else _separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    rows = []
    try:
        header = [name.strip() for name in next((values for values in reader if any(map(str.strip, values))), [])]
        width = len(header)
        while header and not header[-1]:  # lines that end in a separator
            header.pop()
        for values in reader:
            line = reader.line_num + first_line
            values = [value.strip() for value in values]
            if len(values) > width or any(values[len(header) :]):
                raise DataError(
                    f"{manifest}, line {line}: {len(values)} values for {len(header)} columns. "
                    f'Quote values that contain the separator: "a{separator} b"'
                )
            if any(values):
                rows.append(Row(line, [*values, *[""] * (len(header) - len(values))]))
    except csv.Error as error:
        raise DataError(f"{manifest}, line {reader.line_num + first_line}: invalid CSV: {error}.") from error
    return header, rows


def _read_text(manifest: Path) -> str:
    """The text of a file in UTF-8 or UTF-16. Bytes that aren't UTF-8 become surrogates: names of files may hold any."""
    try:
        content = manifest.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"There is no file {manifest}.") from error
    except OSError as error:
        raise DataError(f"{manifest} can't be read: {error.strerror}.") from error
    try:
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            return content.decode("utf-16")
        if content[1:400:2].count(0) > len(content[1:400:2]) // 2:  # UTF-16 of a tool that writes no mark
            return content.decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise DataError(f"{manifest} isn't UTF-16 (byte {error.start}). Save it as UTF-8.") from error
    return content.decode("utf-8-sig", errors="surrogateescape")


def _separator(text: str) -> str:
    """The separator that occurs most in the header, outside of quotes."""
    header = re.sub(r'"[^"]*"', "", text.lstrip().partition("\n")[0])
    return max(SEPARATORS, key=header.count)


def _label(manifest: Path, row: Row, label: str, path: Path) -> str:
    """The label as a class. Bytes that aren't UTF-8 are right if the image has such a name too; else the manifest has
    another encoding."""
    if not any(_has_raw_bytes(value) for value in row.values):
        return label
    if not _has_raw_bytes(str(path)) or not os.path.lexists(path):
        raise DataError(f"{manifest} isn't UTF-8 (line {row.line}). Save it as UTF-8.")
    return class_name(label)


def _has_raw_bytes(text: str) -> bool:
    return not text.isascii() and any("\udc80" <= character <= "\udcff" for character in text)


# --- subsets


def _subsets(manifest: Path, split: int | None, flags: dict[int, Subset], rows: list[Row]) -> list[Subset]:
    if split is None:
        return [_flagged(manifest, row, flags) for row in rows] if flags else [""] * len(rows)
    subsets = [_subset(manifest, row.line, row.values[split]) for row in rows]
    if any(subsets) and not all(subsets):
        missing = [row.line for row, subset in zip(rows, subsets, strict=True) if not subset]
        raise DataError(f"{manifest}: some rows have a split, but not {_format_lines(missing)}. Fill in all or none.")
    return subsets


def _subset(manifest: Path, line: int, name: str) -> Subset:
    if not name:
        return ""
    subset = subset_of(name)
    if subset is None:
        words = ("train", "val", "valid", "validation", "test")
        raise DataError(
            f"{manifest}, line {line}: the split {name!r} is unknown.{nearest(name.lower(), SUBSET_WORDS)} "
            f"Known: {', '.join(words)}."
        )
    return subset


def _flagged(manifest: Path, row: Row, flags: dict[int, Subset]) -> Subset:
    """The subset of a row by columns like is_valid: the one that is true, else the subset that has no column."""
    raised = [subset for column, subset in flags.items() if BOOLEANS[row.values[column].lower()]]
    if len(raised) > 1:
        raise DataError(f"{manifest}, line {row.line}: the image is in two subsets, {' and '.join(raised)}.")
    rest: Subset = "test" if "train" in flags.values() else "train"
    return raised[0] if raised else rest


# --- paths


@dataclass
class _Locator:
    """Finds the image of each row."""

    manifest: Path
    confined: bool

    def __post_init__(self) -> None:
        # thousands of images share a folder: resolve and list it once
        self._real_folder: Callable[[Path], str] = cache(os.path.realpath)

    def image(self, line: int, typed: str) -> Path:
        """The path of an image.

        Raises:
            DataError: not a path of this system; or, if confined, it leads out of the manifest's folder.
        """
        place = f"{self.manifest}, line {line}"
        if "\0" in typed:
            raise DataError(f"{place}: {typed!r} is not a path: it contains a NUL character.")
        if PureWindowsPath(typed).drive or typed.startswith("\\"):
            raise DataError(
                f"{place}: {typed} is absolute on Windows. Write paths that are relative to the manifest's folder, "
                f"{self._real_folder(self.manifest.parent)}"
            )
        if "\\" in typed and not os.path.lexists(self.manifest.parent / typed):  # a manifest from Windows
            typed = typed.replace("\\", "/")
        if self.confined:
            self._refuse_outside(place, typed)
        path = Path(typed).expanduser() if typed.startswith("~/") and not self.confined else Path(typed)
        return self.manifest.parent / path  # an absolute path replaces the folder

    def _refuse_outside(self, place: str, typed: str) -> None:
        folder = self._real_folder(self.manifest.parent)
        remedy = (
            "A study file or a study names this manifest, and either can come from an untrusted source. If you trust "
            f"it, type the manifest's own location: --data {self.manifest}"
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


def _format_lines(numbers: list[int]) -> str:
    return ("line " if len(numbers) == 1 else "lines ") + join_names([str(n) for n in numbers])
