"""Manifests: text files with a row for each image, as spreadsheets, scripts and other tools write them."""

import csv
import io
import math
import os
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath

from autotl.data.dataset import DatasetSource, LabelledImage, Subset, join_names
from autotl.data.file_listing import has_image_extension
from autotl.data.manifest_columns import BOOLEANS, Row, find_columns, with_label_column
from autotl.data.subset_names import SUBSET_WORDS, class_name, subset_of
from autotl.errors import DataError, nearest

__all__ = ["ManifestSource"]

EXTENSIONS = (".csv", ".tsv", ".txt", ".psv")
SEPARATORS = ",;\t|"
MISSING_LABELS = ("", "nan", "<na>")
"""Labels, in lower case, that tools write for a missing one."""


class ManifestSource(DatasetSource):
    """A CSV file with a header and the columns `path,label[,split,group,time]`, also under other common names (see
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
        header, rows = with_label_column(manifest, *_read_rows(manifest))
        columns = find_columns(manifest, header, rows)
        for note in columns.notes:
            warnings.warn(note, stacklevel=2)
        _refuse_empty(manifest, "path", [row for row in rows if not row.values[columns.path]])
        subsets = _subsets(manifest, columns.split, columns.flags, rows)
        rows, subsets = _labelled(manifest, columns.label, rows, subsets)
        times = _times(manifest, columns.time, rows)
        locate = _Locator(manifest, confined=confined)
        return [
            LabelledImage(
                path := locate.image(row.line, row.values[columns.path]),
                _label(manifest, row, row.values[columns.label], path),
                subset,
                "" if columns.group is None else class_name(row.values[columns.group]),
                time,
            )
            for row, subset, time in zip(rows, subsets, times, strict=True)
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


def _labelled(manifest: Path, column: int, rows: list[Row], subsets: list[Subset]) -> tuple[list[Row], list[Subset]]:
    """The rows with a label, and their subsets. Test images may have none, as those of a contest: they can't be
    scored, and are left out with a warning. Raises DataError for others."""
    labelled = [
        (row, s) for row, s in zip(rows, subsets, strict=True) if row.values[column].lower() not in MISSING_LABELS
    ]
    if len(labelled) == len(rows):
        return rows, subsets
    kept = {row.line for row, _ in labelled}
    missing = [(row, subset) for row, subset in zip(rows, subsets, strict=True) if row.line not in kept]
    _refuse_empty(manifest, "label", [row for row, subset in missing if subset != "test"])
    warnings.warn(
        f"{manifest}: {len(missing):,} test image{'s have' if len(missing) > 1 else ' has'} no label and "
        f"{'are' if len(missing) > 1 else 'is'} left out ({_format_lines([row.line for row, _ in missing])}).",
        stacklevel=3,
    )
    return [row for row, _ in labelled], [subset for _, subset in labelled]


def _refuse_empty(manifest: Path, role: str, rows: list[Row]) -> None:
    if rows:
        lines = _format_lines([row.line for row in rows])
        raise DataError(f"{manifest}: no {role} in {lines}. Fill it in or delete the row.")


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


# --- times


def _times(manifest: Path, column: int | None, rows: list[Row]) -> list[float | None]:
    """The time of each row: a number, or the seconds since 1970 of a date in ISO 8601, of UTC where it names no zone.
    None where it is empty. Raises DataError for others, and where some are numbers and some dates."""
    if column is None:
        return [None] * len(rows)
    texts = [row.values[column] for row in rows]
    are_numbers = all(_is_number(text) for text in texts if text)
    times = []
    for row, text in zip(rows, texts, strict=True):
        try:
            times.append(None if not text else float(text) if are_numbers else _seconds(text))
        except (ValueError, OverflowError) as error:
            raise DataError(
                f"{manifest}, line {row.line}: the time {text!r} is not a date. Write dates such as 2024-05-31 or "
                "2024-05-31T12:30:00, or numbers in all rows; or rename the column."
            ) from error
    return times


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _seconds(text: str) -> float:
    date = datetime.fromisoformat(text)
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


# --- paths


@dataclass
class _Locator:
    """Finds the image of each row."""

    manifest: Path
    confined: bool

    def __post_init__(self) -> None:
        # thousands of images share a folder: resolve and list it once
        self._real_folder: Callable[[Path], str] = cache(os.path.realpath)
        self._names_by_stem: Callable[[Path], dict[str, list[str]]] = cache(_names_by_stem)

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


def _names_by_stem(folder: Path) -> dict[str, list[str]]:
    """The names of the files in a folder that have an image's extension, by their names without it."""
    names: dict[str, list[str]] = {}
    with suppress(OSError):  # the images are missing, and are reported as such
        for name in sorted(os.listdir(folder)):  # noqa: PTH208 - names are all that is needed
            if has_image_extension(name):
                names.setdefault(name.rpartition(".")[0], []).append(name)
    return names


def _format_lines(numbers: list[int]) -> str:
    return ("line " if len(numbers) == 1 else "lines ") + join_names([str(n) for n in numbers])
