"""Sources of images inside of files: Parquet with image bytes (the layout of Hugging Face `datasets`), and WebDataset's
tar archives. The images are read where they are; no copy is made."""

import hashlib
import json
import os
import re
import tarfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autotl.atomic_io import read_json, write_json
from autotl.config import claimed_cache
from autotl.data.dataset import DatasetSource, LabelledImage, Subset, join_names
from autotl.data.file_listing import describe_left_out, has_image_extension, is_ignored_name
from autotl.data.layouts import Folder, labelled_images
from autotl.data.manifest_columns import NAMES
from autotl.data.members import member_path
from autotl.data.subset_names import subset_of
from autotl.errors import AutotlError, DataError
from autotl.folders import expand_home

__all__ = ["ParquetSource", "TarSource"]

LABEL_FILES = (".cls", ".txt", ".json")
"""What a sample of a tar archive keeps its label in, the preferred first."""
INDEX_FORMAT = 3


def _files(location: str, suffix: str) -> list[Path]:
    """The files with a suffix at a location: one file, or those of a folder, or of the folder `data` in it."""
    path = expand_home(location)
    if path.suffix.lower() == suffix and path.is_file():
        return [path]
    for folder in (path, path / "data"):
        if folder.is_dir() and (found := sorted(p for p in folder.iterdir() if p.suffix.lower() == suffix)):
            return found
    return []


def _subset_of_file(file: Path, files: Sequence[Path]) -> Subset:
    """`train` for `train-00000-of-00012.parquet`; "" for one that names no subset, or where there is one file."""
    words = re.split(r"[-_.]", file.stem)
    named = next((subset for word in words[:2] if (subset := subset_of(word))), None)
    return named or "" if len(files) > 1 else ""


class ParquetSource(DatasetSource):
    """A Parquet file, or a folder of them, with a column of images (bytes, or a struct with `bytes`) and one of labels.

    Subsets come from the files' names (`train-00000-of-00002.parquet`) or a column such as `split`, class names from
    the metadata that `datasets` writes.
    """

    name = "parquet"

    def matches(self, location: str) -> bool:
        return bool(_files(location, ".parquet"))

    def images(self, location: str) -> list[LabelledImage]:
        files = _files(location, ".parquet")
        return [image for file in files for image in self._images(file, _subset_of_file(file, files))]

    def _images(self, file: Path, subset: Subset) -> Iterator[LabelledImage]:
        try:
            import pyarrow.parquet as pq
        except ImportError:
            raise DataError(f"{file} is a Parquet file, which needs pyarrow: pip install 'autotl[data]'") from None
        try:
            with pq.ParquetFile(file, memory_map=True) as opened:
                yield from _rows_of(file, opened, subset)
        except OSError as error:
            raise DataError(f"{file} can't be read: {error}") from error
        except ValueError as error:  # pyarrow's ArrowInvalid
            raise DataError(f"{file} is not a Parquet file: {error}") from error


def _rows_of(file: Path, opened: Any, subset: Subset) -> Iterator[LabelledImage]:
    schema = opened.schema_arrow
    if twice := [name for name, count in Counter(schema.names).items() if count > 1]:
        raise DataError(f"{file} has several columns called {join_names(twice)}. Rename or remove all but one.")
    image, label, group, split = _find_columns(file, schema)
    names = _class_names(schema, label)
    has_path = _is_struct(schema.field(image).type) and any(f.name == "path" for f in schema.field(image).type)
    columns = [label, *filter(None, (group, split)), *([f"{image}.path"] if has_path else [])]
    place, unlabelled = schema.names.index(image), 0
    subset_named = None if split is None or subset else _subsets_by_value(file, opened, split)
    for number in range(opened.num_row_groups):
        table = opened.read_row_group(number, columns=columns)
        labels = table.column(label).to_pylist()
        groups = table.column(group).to_pylist() if group else [""] * len(labels)
        splits = table.column(split).to_pylist() if split and subset_named else [""] * len(labels)
        paths = [p and p["path"] for p in table.column(image).to_pylist()] if has_path else [None] * len(labels)
        for row, (value, of_group, of_split, path) in enumerate(zip(labels, groups, splits, paths, strict=True)):
            name = _class_of(file, value, names)
            if not name:
                unlabelled += 1
                continue
            where = member_path(file, f"{place}.{number}.{row}", path or f"row-{row}")
            of_row = subset_named[of_split] if subset_named else subset
            yield LabelledImage(where, name, of_row, "" if of_group is None else str(of_group))
    if unlabelled:
        rows = f"{unlabelled:,} rows without a label are" if unlabelled > 1 else "1 row without a label is"
        warnings.warn(f"{file}: {rows} left out.", stacklevel=5)


def _class_of(file: Path, value: Any, names: Sequence[str] | None) -> str:
    """The class that a label means; "" for a missing one. Raises DataError for a list and the like."""
    if isinstance(value, list | dict):
        raise DataError(f"{file} has the label {value!r}. A classifier gives one class to each image: write its name.")
    # -1 among numbers of named classes: the test images of a competition
    if value is None or value != value or (names and value == -1):
        return ""
    if names and isinstance(value, int | float) and value in range(len(names)):
        return names[int(value)]
    text = value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
    return _without_nul(file, text).strip()


def _without_nul(file: Path, label: str) -> str:
    """The label. Raises DataError where it has a NUL character, which NumPy drops at the end of a text."""
    if "\0" in label:
        raise DataError(f"{file} has the label {label!r}, with a NUL character. Remove it.")
    return label


def _subsets_by_value(file: Path, opened: Any, column: str) -> dict[Any, Subset] | None:
    """The subset that each value of a column means; None, with a warning, where it holds something else."""
    values = set(opened.read(columns=[column]).column(0).unique().to_pylist())
    subsets = {value: subset_of(str(value)) for value in values}
    if not all(subsets.values()):
        listed = join_names([repr(value) for value in sorted(values, key=str)], 3)
        warnings.warn(
            f"The column {column!r} of {file} is ignored. It holds {listed}, and not only names of subsets (train, "
            "val, test).",
            stacklevel=6,
        )
        return None
    warnings.warn(f"Subsets are read from the column {column!r} of {file}.", stacklevel=6)
    return {value: subset for value, subset in subsets.items() if subset}


def _is_struct(type_: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_struct(type_))


def _find_columns(file: Path, schema: Any) -> tuple[str, str, str | None, str | None]:
    """The names of the columns of images, labels, groups and subsets."""
    import pyarrow as pa

    def holds_bytes(kind: Any) -> bool:
        # polars writes large binaries, or views of them
        return any(is_kind(kind) for is_kind in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))

    def holds_images(field: Any) -> bool:
        if pa.types.is_struct(field.type):
            return any(inner.name == "bytes" and holds_bytes(inner.type) for inner in field.type)
        return holds_bytes(field.type)

    def named(role: str, names: Sequence[str]) -> str | None:
        plain = {re.sub(r"[\s_-]", "", name).lower(): name for name in reversed(names)}
        return next((plain[known] for known in NAMES[role] if known in plain), None)

    images = [field.name for field in schema if holds_images(field)]
    others = [name for name in schema.names if name not in images]
    if not images:
        raise DataError(f"{file} has no column of image bytes. Its columns: {join_names(schema.names, 12)}.")
    label = named("label", others) or named("label", images)  # as bytes: of programs that don't mark text as such
    label = label or (others[0] if len(others) == 1 else None)
    if label is None:
        raise DataError(
            f"{file} has no column called label. Its columns: {join_names(schema.names, 12)}. Rename the one that is."
        )
    images = [name for name in images if name != label]
    if not images:
        raise DataError(f"{file} has no column of image bytes. Its columns: {join_names(schema.names, 12)}.")
    rest = [name for name in others if name != label]
    return named("path", images) or images[0], label, named("group", rest), named("split", rest)


def _class_names(schema: Any, label: str) -> list[str] | None:
    """The names of the classes by their numbers, from the metadata of `datasets`."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, RecursionError, TypeError, ValueError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


class TarSource(DatasetSource):
    """A tar archive, or a folder of them (shards), as WebDataset writes them: the files of a sample share a name up to
    its first dot (`000017.jpg`, `000017.cls`). Without label files, the folders inside of the archives are classes and
    subsets as those on a disk are."""

    name = "tar"

    def matches(self, location: str) -> bool:
        return bool(_files(location, ".tar"))

    def images(self, location: str) -> list[LabelledImage]:
        files = _files(location, ".tar")
        images: list[LabelledImage] = []
        in_folders: dict[Subset, list[tuple[str, Path]]] = {}
        unlabelled, left_out = 0, Counter[str]()
        for file in files:
            subset, archive = _subset_of_file(file, files), _index(file)
            left_out += Counter(archive.left_out)
            for name, offset, size in archive.images:
                path = member_path(file, f"{offset}+{size}", name)
                if not archive.labels:
                    in_folders.setdefault(subset, []).append((name, path))
                elif label := archive.labels.get(_sample(name)):
                    images.append(LabelledImage(path, label, subset))
                else:
                    unlabelled += 1
        if unlabelled:
            warnings.warn(f"{location}: {unlabelled:,} images without a label are left out.", stacklevel=2)
        if left_out:
            warnings.warn(describe_left_out(location, left_out), stacklevel=2)
        for subset, members in in_folders.items():
            images += _of_folders(location, members, subset)
        return images


def _of_folders(location: str, members: Sequence[tuple[str, Path]], subset: Subset) -> list[LabelledImage]:
    """The images with the labels and subsets that the folders inside of archives mean.

    Args:
        members: the name in its archive, and the path, of each image.
        subset: of all images, where the names of the archives say it.
    """
    root = Folder(expand_home(location), "")
    folders: dict[tuple[str, ...], Folder] = {(): root}
    path_of: dict[Path, Path] = {}
    for name, path in members:
        *above, last = [part for part in name.split("/") if part not in ("", ".", "..")]
        for depth in range(1, len(above) + 1):
            here, parent = tuple(above[:depth]), folders[tuple(above[: depth - 1])]
            if here not in folders:
                folders[here] = Folder(parent.path / here[-1], here[-1])
                parent.folders.append(folders[here])
        folder, number = folders[tuple(above)], 1
        while (place := folder.path / (last if number == 1 else f"{number}-{last}")) in path_of:
            number += 1  # another archive has an image of this name
        path_of[place] = path
        folder.images.append(place.name)
    # archives often wrap everything in a folder
    while not root.images and len(root.classes) == 1 and root.classes[0].classes:
        if subset_of(root.classes[0].name, loosely=True) and not subset:
            break
        root = root.classes[0]
    return [replace(i, path=path_of[i.path], subset=subset or i.subset) for i in labelled_images(root)]


@dataclass(frozen=True)
class _Archive:
    """What is in a tar archive."""

    images: list[tuple[str, int, int]]
    """Name, offset and size of each."""
    labels: dict[str, str]
    """By sample."""
    left_out: dict[str, int]
    """Number of files that are no images, by extension."""


def _sample(name: str) -> str:
    """What the names of a sample's files have in common."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.partition('.')[0]}"


def _index(file: Path) -> _Archive:
    """What is in an archive. Kept in the cache: an archive is indexed once."""
    status = file.stat()
    key = [INDEX_FORMAT, os.path.abspath(file), status.st_size, status.st_mtime_ns, status.st_ctime_ns]  # noqa: PTH100
    text = json.dumps(key, ensure_ascii=True)
    kept: Path | None = None
    try:
        kept = claimed_cache() / "archives" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
        content = read_json(kept)
        if content["key"] == key:
            return _Archive(
                [(str(name), int(offset), int(size)) for name, offset, size in content["images"]],
                {str(sample): str(label) for sample, label in content["labels"].items()},
                {str(kind): int(count) for kind, count in content["left_out"].items()},
            )
    except (AutotlError, OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # no cache, not kept yet, or damaged
    archive = _read_index(file)
    if kept is not None:
        with suppress(AutotlError, OSError):  # the next search indexes it again
            write_json(kept, {"key": key, **asdict(archive)})
    return archive


def _read_index(file: Path) -> _Archive:
    images: dict[str, tuple[int, int]] = {}
    links: dict[str, str] = {}
    labels: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                name = member.name
                if any(map(is_ignored_name, (part for part in name.split("/") if part not in (".", "..")))):
                    continue
                suffix = f".{name.rpartition('/')[2].rpartition('.')[2].lower()}"
                if member.islnk() and has_image_extension(name):
                    links[name] = member.linkname
                elif not member.isfile() or member.issparse():
                    continue
                elif has_image_extension(name):
                    images[name] = (member.offset_data, member.size)
                elif suffix in LABEL_FILES and member.size < 1 << 16:
                    content, sample = archive.extractfile(member), _sample(name)
                    if (
                        content
                        and (suffix == ".cls" or sample not in labels)
                        and (label := _label(suffix, content.read()))
                    ):
                        labels[sample] = _without_nul(file, label)
                else:
                    left_out[suffix if "." in name.rpartition("/")[2] else "no extension"] += 1
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"{file} can't be read as a tar archive: {error}. A compressed one can't be read in place: unpack it."
        ) from error
    images |= {name: images[target] for name, target in links.items() if target in images}
    return _Archive([(name, *place) for name, place in images.items()], labels, dict(left_out))


def _label(suffix: str, content: bytes) -> str:
    text = content.decode(errors="replace").strip()
    if suffix != ".json":
        return text
    try:
        values = json.loads(text)
    except (RecursionError, ValueError):
        return ""
    found = next((values[name] for name in NAMES["label"] if name in values), "") if isinstance(values, dict) else ""
    return "" if found is None or found != found else str(found).strip()
