"""Sources of images inside of files: Parquet with image bytes (the layout of Hugging Face `datasets`), and WebDataset's
tar archives. The images are read where they are; no copy is made."""

import hashlib
import json
import os
import re
import tarfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from autotl.atomic_io import read_json, write_json
from autotl.config import claimed_cache
from autotl.data.dataset import DatasetSource, LabelledImage, Subset, join_names
from autotl.data.manifest_columns import NAMES
from autotl.data.members import member_path
from autotl.data.subset_names import subset_of
from autotl.errors import AutotlError, DataError
from autotl.folders import expand_home

__all__ = ["ParquetSource", "TarSource"]

LABEL_FILES = (".cls", ".txt", ".json")
"""What a sample of a tar archive keeps its label in, the preferred first."""
INDEX_FORMAT = 2


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
            name = _class_of(value, names)
            if not name:
                unlabelled += 1
                continue
            where = member_path(file, f"{place}.{number}.{row}", path or f"row-{row}")
            of_row = subset_named[of_split] if subset_named else subset
            yield LabelledImage(where, name, of_row, "" if of_group is None else str(of_group))
    if unlabelled:
        rows = f"{unlabelled:,} rows without a label are" if unlabelled > 1 else "1 row without a label is"
        warnings.warn(f"{file}: {rows} left out.", stacklevel=5)


def _class_of(value: Any, names: Sequence[str] | None) -> str:
    """The class that a label means; "" for a missing one."""
    if value is None or value != value or value == -1:  # NaN; -1: the test images of a competition
        return ""
    if names and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return str(value).strip()


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
    label = named("label", others) or (others[0] if len(others) == 1 else None)
    if label is None:
        raise DataError(
            f"{file} has no column called label. Its columns: {join_names(schema.names, 12)}. Rename the one that is."
        )
    rest = [name for name in others if name != label]
    return named("path", images) or images[0], label, named("group", rest), named("split", rest)


def _class_names(schema: Any, label: str) -> list[str] | None:
    """The names of the classes by their numbers, from the metadata of `datasets`."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


class TarSource(DatasetSource):
    """A tar archive, or a folder of them (shards), as WebDataset writes them: the files of a sample share a name up to
    its first dot (`000017.jpg`, `000017.cls`). Without label files, the folder inside of the archive is the class."""

    name = "tar"

    def matches(self, location: str) -> bool:
        return bool(_files(location, ".tar"))

    def images(self, location: str) -> list[LabelledImage]:
        files = _files(location, ".tar")
        images: list[LabelledImage] = []
        unlabelled = 0
        for file in files:
            subset = _subset_of_file(file, files)
            for name, offset, size, label in _index(file):
                if label:
                    images.append(LabelledImage(member_path(file, f"{offset}+{size}", name), label, subset))
                else:
                    unlabelled += 1
        if unlabelled:
            warnings.warn(f"{location}: {unlabelled:,} images without a label are left out.", stacklevel=2)
        return images


def _index(file: Path) -> list[tuple[str, int, int, str]]:
    """Name, offset, size and label of each image in an archive. Kept in the cache: an archive is indexed once."""
    status = file.stat()
    key = [INDEX_FORMAT, os.path.abspath(file), status.st_size, status.st_mtime_ns, status.st_ctime_ns]  # noqa: PTH100
    text = json.dumps(key, ensure_ascii=True)
    kept: Path | None = None
    try:
        kept = claimed_cache() / "archives" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
        content = read_json(kept)
        if content["key"] == key:
            return [(str(n), int(o), int(s), str(label)) for n, o, s, label in content["images"]]
    except (AutotlError, OSError, ValueError, KeyError, TypeError):
        pass  # no cache, not kept yet, or damaged
    images = _read_index(file)
    if kept is not None:
        with suppress(AutotlError, OSError):  # the next search indexes it again
            write_json(kept, {"key": key, "images": images})
    return images


def _read_index(file: Path) -> list[tuple[str, int, int, str]]:
    extensions = set(Image.registered_extensions())
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, str] = {}
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                if not member.isfile() or member.issparse():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, rest = name.partition(".")
                key, suffix = f"{folder}/{stem}", f".{rest.rpartition('.')[2].lower()}"
                if suffix in extensions:
                    images[key] = (member.name, member.offset_data, member.size)
                elif suffix in LABEL_FILES and member.size < 1 << 16:
                    content = archive.extractfile(member)
                    if (
                        content
                        and (suffix == ".cls" or key not in labels)
                        and (label := _label(suffix, content.read()))
                    ):
                        labels[key] = label
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"{file} can't be read as a tar archive: {error}. A compressed one can't be read in place: unpack it."
        ) from error
    by_folder = not labels
    return [
        (name, offset, size, labels.get(key, key.rpartition("/")[0].rpartition("/")[2] if by_folder else ""))
        for key, (name, offset, size) in images.items()
    ]


def _label(suffix: str, content: bytes) -> str:
    text = content.decode(errors="replace").strip()
    if suffix != ".json":
        return text
    try:
        values = json.loads(text)
    except ValueError:
        return ""
    found = next((values[name] for name in NAMES["label"] if name in values), "") if isinstance(values, dict) else ""
    return "" if found is None or found != found else str(found).strip()
