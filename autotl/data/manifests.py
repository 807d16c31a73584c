"""Manifests: text files with a row for each image, as spreadsheets, scripts and other tools write them."""

import csv
import io
import math
import os
import re
import shlex
import warnings
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from autotl.data.dataset import DatasetSource, LabelledImage, Subset, join_names
from autotl.data.manifest_columns import BOOLEANS, Row, find_columns, with_label_column
from autotl.data.manifest_paths import Locator
from autotl.data.subset_names import SUBSET_WORDS, class_name, subset_of
from autotl.errors import DataError, nearest
from autotl.folders import expand_home

__all__ = ["ManifestSource", "manifest_beside"]

EXTENSIONS = (".csv", ".tsv", ".txt", ".psv")
SEPARATORS = ",;\t|"
MAX_TABLES = 10
"""Files of a folder that are read to find the one with the labels of its images."""
MISSING_LABELS = ("", "nan", "<na>")
"""Labels, in lower case, that tools write for a missing one."""
DOUBTFUL_LABELS = ("NA", "N/A", "NULL", "null", "None")
"""Labels that some tools, R and databases among them, write for a missing one, and that may be the name of a class."""


class ManifestSource(DatasetSource):
    """A CSV file with a header and the columns `path,label[,split,group,time]`, also under other common names (see
    `autotl.data.manifest_columns`). Columns may be separated by commas, semicolons, tabs or bars. Relative paths start
    at its folder."""

    name = "manifest"

    def matches(self, location: str) -> bool:
        path = expand_home(location)
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
        manifest = expand_home(location)
        header, rows = with_label_column(manifest, *_read_rows(manifest))
        columns = find_columns(manifest, header, rows)
        for note in columns.notes:
            warnings.warn(note, stacklevel=2)
        _refuse_empty(manifest, "path", [row for row in rows if not row.values[columns.path]])
        subsets = _subsets(manifest, columns.split, columns.flags, rows)
        rows, subsets = _labelled(manifest, columns.label, rows, subsets)
        _warn_of_doubtful_labels(manifest, [row.values[columns.label] for row in rows])
        times = _times(manifest, columns.time, rows)
        paths = Locator(manifest, confined=confined).images(rows, columns.path)
        return [
            LabelledImage(
                path,
                _label(manifest, row, row.values[columns.label], path),
                subset,
                "" if columns.group is None else class_name(row.values[columns.group]),
                time,
            )
            for row, path, subset, time in zip(rows, paths, subsets, times, strict=True)
        ]


def manifest_beside(folder: Path) -> str:
    """A sentence that names the file in a folder of images that lists their labels; "" if there is none."""
    for path in sorted(path for path in folder.glob("*.*") if path.suffix.lower() in EXTENSIONS)[:MAX_TABLES]:
        with suppress(DataError, OSError), warnings.catch_warnings(action="ignore"):
            images = ManifestSource().images(str(path))
            # a sample submission of a contest has one label for all
            if len({image.label for image in images}) > 1 and any(image.path.is_file() for image in images):
                return f" {path.name} there lists images with labels: autotl search {shlex.quote(str(path))}"
    return ""


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
                    f"{manifest}, line {line}: {len(values)} values for {len(header)} columns "
                    f"({join_names(header)}). "
                    f'Quote values that contain the separator: "a{separator} b"'
                )
            if any(values):
                rows.append(Row(line, [*values, *[""] * (len(header) - len(values))]))
    except csv.Error as error:
        raise DataError(f"{manifest}, line {reader.line_num + first_line}: invalid CSV: {error}.") from error
    return header, rows


def _read_text(manifest: Path) -> str:
    """The text of a file in UTF-8 or UTF-16. Bytes that aren't UTF-8 become surrogates: names of files may hold any."""
    if manifest.exists() and not manifest.is_file():
        raise DataError(f"{manifest} is a pipe, a socket or a device, not a file.")  # reading would wait for a writer
    try:
        content = manifest.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"There is no file {manifest}.") from error
    except OSError as error:
        raise DataError(f"{manifest} can't be read: {error.strerror}.") from error
    try:
        encoding = _encoding(content)
        text = content.decode(encoding, errors="surrogateescape" if encoding == "utf-8-sig" else "strict")
    except UnicodeDecodeError as error:
        raise DataError(f"{manifest} isn't UTF-16 (byte {error.start}). Save it as UTF-8.") from error
    if "\0" in text:  # a spreadsheet's own format, an archive, or a torn file
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{manifest}, line {line}: a NUL character, which no text has. Save it as CSV in UTF-8.")
    return text


def _encoding(content: bytes) -> str:
    """UTF-8, or UTF-16 with a mark or where half of the bytes are zero, as those of a tool that writes no mark."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    zeros = [content[start:400:2].count(0) for start in (0, 1)]
    if max(zeros) > len(content[:400]) // 4 > min(zeros):
        return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    return "utf-8-sig"


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


def _warn_of_doubtful_labels(manifest: Path, labels: list[str]) -> None:
    for label in DOUBTFUL_LABELS:
        if count := labels.count(label):
            warnings.warn(
                f"{manifest}: {label!r} is read as the class of {count:,} image{'s' if count > 1 else ''}. If it means "
                "that the label is missing, delete these rows.",
                stacklevel=3,
            )


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


def _format_lines(numbers: list[int]) -> str:
    return ("line " if len(numbers) == 1 else "lines ") + join_names([str(n) for n in numbers])
