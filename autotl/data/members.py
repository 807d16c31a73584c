"""Image files and images inside of other files: a tar archive, a Parquet file, or what the coordinator serves.

The path of an image inside of a file is `FILE/@PLACE/NAME`. FILE has the suffix of such files and is no folder, so that
the path is nobody else's.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["containing_file", "is_image_file", "is_member", "member_path", "read_image", "register_reader"]

PLACE = re.compile(r"/@([\d+.]+)/")
OPEN_FILES = 64
"""Tar archives and Parquet files that a thread keeps open."""

Reader = Callable[[Path, str], bytes]


def member_path(file: Path, place: str, name: str) -> Path:
    """The path of the image called `name` at `place` in `file`."""
    plain = name.replace("/", "_")[-100:]
    return Path(f"{file}/@{place}/{plain if plain.strip('.') else 'image'}")  # pathlib drops a name that is a dot


def is_member(path: str | Path) -> bool:
    """Whether a path leads into a file."""
    return _container(str(path)) is not None


def containing_file(path: Path) -> Path:
    """The file that an image is inside of; the path itself for an image file."""
    found = _container(str(path))
    return found[0] if found else path


def is_image_file(path: Path) -> bool:
    """Whether there is a file, so that reading an image waits for nobody. Raises OSError."""
    return containing_file(path).is_file()


def read_image(path: Path) -> bytes:
    """The bytes of an image file, or of one inside of another file. Raises OSError."""
    found = _container(str(path))
    if found is None:
        with path.open("rb", buffering=0) as file:  # a third of the time of `read_bytes`
            return file.readall()
    container, place = found
    return _readers[container.suffix.lower()](container, place)


def _container(path: str) -> tuple[Path, str] | None:
    """The file that a path leads into, and the place there; None for a path of a file. A folder may be called @1."""
    for match in PLACE.finditer(path) if "/@" in path else ():
        file = Path(path[: match.start()])
        if file.suffix.lower() in _readers and not file.is_dir():
            return file, match[1]
    return None


def register_reader(suffix: str, reader: Reader) -> None:
    """Let `reader(file, place)` read images inside of files with a suffix. It raises OSError where it can't."""
    _readers[suffix] = reader


_open = threading.local()


def _opened(file: Path, opener: Callable[[Path], Any]) -> Any:
    """What `opener` returns for a file. Each thread keeps its own, the most recently used last."""
    files: OrderedDict[Path, Any] = _open.__dict__.setdefault("files", OrderedDict())
    if file not in files:
        files[file] = opener(file)
        if len(files) > OPEN_FILES:
            files.popitem(last=False)
    files.move_to_end(file)
    return files[file]


def _read_tar(file: Path, place: str) -> bytes:
    """`place` is OFFSET+SIZE in bytes."""
    offset, _, size = place.partition("+")
    stream = _opened(file, lambda path: path.open("rb"))
    stream.seek(int(offset))
    content = stream.read(int(size))
    if len(content) < int(size):
        raise OSError(5, "the archive is shorter than it was", str(file))
    return content


class _ParquetImages:
    """A Parquet file, with the images of the row group that was read last: rows are best read in order."""

    def __init__(self, path: Path):
        import pyarrow.parquet as pq

        self.file = pq.ParquetFile(path, memory_map=True)
        self.group = -1
        self.images: Any = None

    def read(self, column: int, group: int, row: int) -> bytes:
        import pyarrow as pa

        if group != self.group:
            name = self.file.schema_arrow.names[column]
            values = self.file.read_row_group(group, columns=[name]).column(0).combine_chunks()
            values = values.chunk(0) if isinstance(values, pa.ChunkedArray) else values
            self.images = values.field("bytes") if pa.types.is_struct(values.type) else values
            self.group = group
        return self.images[row].as_py()


def _read_parquet(file: Path, place: str) -> bytes:
    """`place` is COLUMN.GROUP.ROW."""
    try:
        content = _opened(file, _ParquetImages).read(*map(int, place.split(".")))
    except OSError:
        raise
    except Exception as error:  # pyarrow's own exceptions, for a file that was replaced
        raise OSError(5, f"{type(error).__name__}: {error}", str(file)) from error
    if not isinstance(content, bytes):
        raise OSError(5, "there is no image in this row", str(file))
    return content


_readers: dict[str, Reader] = {".tar": _read_tar, ".parquet": _read_parquet}
