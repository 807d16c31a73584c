"""Which column of a manifest is the path, the label, the split, the group and the time, by its name and its values."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autotl.data.dataset import Subset, join_names
from autotl.data.subset_names import SUBSET_WORDS, subset_of
from autotl.errors import DataError, nearest

__all__ = ["BOOLEANS", "Columns", "Row", "find_columns", "with_label_column"]

NAMES: dict[str, tuple[str, ...]] = {
    "path": (
        *("path", "filepath", "imagepath", "imgpath", "filename", "imagefilename", "file", "imagefile", "files"),
        *("image", "images", "img", "imagename", "fname", "photo", "picture", "paths", "filepaths", "imagepaths"),
        *("filenames", "imagenames", "imagefilepath", "imageid", "imgid", "imageindex", "imageids", "id"),
    ),
    "label": (
        *("label", "labels", "class", "classes", "classname", "labelname", "target", "targets", "category"),
        *("species", "diagnosis", "dx", "breed", "y", "findinglabels"),
    ),
    "split": (
        *("split", "subset", "set", "partition", "fold", "dataset", "datasplit", "setname", "splitset", "usage"),
        *("phase", "stage", "traintest", "trainvaltest"),
    ),
    "group": (
        *("group", "groups", "groupid", "patient", "patientid", "subject", "subjectid", "case", "caseid"),
        *("lesionid", "individual", "individualid"),
    ),
    "time": ("time", "timestamp", "datetime"),
}
"""Names of columns by role, without spaces, hyphens and underscores. An earlier name goes before a later one."""
LABEL_NUMBERS = ("classid", "labelid", "classindex", "labelindex", "classidx", "labelidx", "categoryid", "targetid")
"""Names of columns with the numbers of classes, beside which there often is one with their names."""
BOOLEANS = {"1": True, "0": False, "true": True, "false": False, "yes": True, "no": False, "": False}
BOOLEANS |= {"1.0": True, "0.0": False, "t": True, "f": False}
"""Values of columns like is_valid, in lower case."""


@dataclass(frozen=True)
class Row:
    """The values of a row, one for each column, and its line in the file."""

    line: int
    values: list[str]


@dataclass(frozen=True)
class Columns:
    """Indices of the columns."""

    path: int
    label: int
    split: int | None
    group: int | None
    time: int | None
    flags: dict[int, Subset]
    """Columns like is_valid, which say for each image whether it is in that subset."""
    notes: list[str]
    """Sentences for users: how columns are read, and which are ignored although their names or values suggest a use."""


def with_label_column(manifest: Path, header: list[str], rows: list[Row]) -> tuple[list[str], list[Row]]:
    """The same manifest, or for one with a column of 0 and 1 for each class (one-hot) one with a column `label`.

    A row without a 1 has no label. Warns of how the columns are read.

    Raises:
        DataError: a row has several classes.
    """
    names = [_plain(name) for name in header]
    if any(name in (*NAMES["label"], *LABEL_NUMBERS) for name in names):
        return header, rows
    roles = {name for of_role in NAMES.values() for name in of_role}
    values = {i: {row.values[i].lower() for row in rows} for i, name in enumerate(names) if name not in roles}
    boolean = {i: found for i, found in values.items() if found - {""} and found <= BOOLEANS.keys()}
    classes = [i for i in boolean if i not in _flags(header, {i: boolean[i] - {""}})]
    if len(classes) < 2:
        return header, rows
    labelled = []
    for row in rows:
        found = [header[i] for i in classes if BOOLEANS[row.values[i].lower()]]
        if len(found) > 1:
            raise DataError(
                f"{manifest}, line {row.line}: the image is of {len(found)} classes, {join_names(found)}. A classifier "
                "gives one class to each image: write it into a column 'label'."
            )
        labelled.append(Row(row.line, [*row.values, *(found or [""])]))
    columns = join_names([header[i] for i in classes])
    warnings.warn(f"Columns of {manifest} are read as the classes that they are 1 for: {columns}.", stacklevel=3)
    return [*header, "label"], labelled


def _plain(name: str) -> str:
    """The name of a column without spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", name.casefold())


def find_columns(manifest: Path, header: Sequence[str], rows: Sequence[Row]) -> Columns:
    """Find the columns of a manifest.

    A column that holds words such as train and test is the split whatever its name, or a note says why it isn't.

    Raises:
        DataError: no column for the path or the label, or two; or no rows.
    """
    names = [_plain(name) for name in header]
    path, label = (_required(manifest, header, names, role) for role in ("path", "label"))
    if not rows:
        raise DataError(f"{manifest} lists no images. Add a row path,label for each image.")
    group, time = (_named(manifest, header, names, role) for role in ("group", "time"))
    others = [i for i in range(len(header)) if i not in (path, label, group, time)]
    values = {i: {row.values[i] for row in rows} - {""} for i in others}
    split = _split(manifest, header, names, values)
    flags = {} if split is not None else _flags(header, values)
    unused = [i for i in others if i != split and i not in flags]
    used = {"path": path, "label": label, "split": split, "group": group, "time": time}
    renamed = [f"{header[i]} ({role})" for role, i in used.items() if i is not None and names[i] != role]
    renamed += [f"{header[i]} ({subset} images)" for i, subset in flags.items()]
    notes = [f"Columns of {manifest} are read by other names: {join_names(renamed)}."] if renamed else []
    for i in unused:
        if note := _why_unused(manifest, header, names, i, values[i], used):
            notes.append(note)
    return Columns(path, label, split, group, time, flags, notes)


def _required(manifest: Path, header: Sequence[str], names: Sequence[str], role: str) -> int:
    found = _named(manifest, header, names, role)
    if found is not None:
        return found
    close = nearest(role, names).replace("Did you mean", "Is it")
    raise DataError(
        f"{manifest} has no column {role!r}; its header is {','.join(header) or 'empty'}.{close} "
        "The first line must be the header path,label and may have split,group,time."
    )


def _named(manifest: Path, header: Sequence[str], names: Sequence[str], role: str) -> int | None:
    """The column of a role by its name. The exact name goes before others, of which there may be one."""
    if (exact := _exact(manifest, names, role)) is not None:
        return exact
    known = NAMES[role]
    if role == "label" and not set(names) & set(known):
        known = LABEL_NUMBERS
    found = sorted((known.index(name), i) for i, name in enumerate(names) if name in known)
    if len(found) > 1 and role != "path":
        columns = " and ".join(repr(header[i]) for _, i in found)
        raise DataError(f"{manifest}: {columns} can each be the {role}. Rename one to {role!r}, or remove one.")
    return found[0][1] if found else None


def _exact(manifest: Path, names: Sequence[str], role: str) -> int | None:
    """The column that is called as its role."""
    if names.count(role) > 1:
        raise DataError(f"{manifest} has the column {role!r} twice. Remove one.")
    return names.index(role) if role in names else None


def _split(manifest: Path, header: Sequence[str], names: Sequence[str], values: dict[int, set[str]]) -> int | None:
    """The column `split`; else the one column all of whose values name subsets, or that has a split's name and some
    such values."""
    if (exact := _exact(manifest, names, "split")) is not None:
        return exact
    whole = [i for i, found in values.items() if found and all(map(subset_of, found))]
    partly = [i for i, found in values.items() if names[i] in NAMES["split"] and any(map(subset_of, found))]
    found = sorted({*whole, *partly})
    if len(found) > 1:
        columns = " and ".join(repr(header[i]) for i in found)
        raise DataError(f"{manifest}: {columns} each name subsets. Rename one to 'split', or remove one.")
    return found[0] if found else None


def _flags(header: Sequence[str], values: dict[int, set[str]]) -> dict[int, Subset]:
    flags: dict[int, Subset] = {}
    for i, found in values.items():
        words = re.findall(r"[a-z]+", header[i].casefold().replace("_", " "))
        subset = SUBSET_WORDS.get(words[-1]) if words and words[:-1] in ([], ["is"]) else None
        if subset and found and all(value.lower() in BOOLEANS for value in found):
            flags[i] = subset
    return flags


def _why_unused(
    manifest: Path,
    header: Sequence[str],
    names: Sequence[str],
    column: int,
    values: set[str],
    used: dict[str, int | None],
) -> str:
    """A sentence if the column's name or values suggest that it has a role; else ""."""
    subsets = sorted(value for value in values if subset_of(value))
    shown = f"The column {header[column]!r} of {manifest} is ignored."
    split = used["split"]
    if subsets:
        reason = f" Subsets are read from {header[split]!r}." if split is not None else ""
        remedy = "" if reason else " For subsets, put only train, val and test into a column 'split'."
        return f"{shown} It holds {join_names([repr(value) for value in subsets])}.{reason}{remedy}"
    if split is None and (names[column] in NAMES["split"] or subset_of(header[column], loosely=True)):
        listed = join_names([repr(value) for value in sorted(values)], 3) or "nothing"
        return f"{shown} It holds {listed}, and no names of subsets (train, val, test)."
    # too many short names resemble "time"
    if close := nearest(header[column].lower(), [role for role, i in used.items() if i is None and role != "time"]):
        return f"{shown}{close}"
    return ""
