"""Files that are written whole or not at all: a killed process never leaves half of one under its name. POSIX only."""

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from autotl.errors import AutotlError

__all__ = [
    "DiskFull",
    "as_disk_full",
    "format_bytes",
    "read_json",
    "read_sealed",
    "refuse_links_out",
    "replaced_folder",
    "same_disk",
    "write_atomically",
    "write_json",
    "write_sealed",
]

DISK_FULL_ERRNOS = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


class DiskFull(AutotlError):
    """A disk has no room left. `path` is the file that was being written."""

    def __init__(self, text: str, path: Path):
        super().__init__(text)
        self.path = path

    def __reduce__(self) -> Any:
        return type(self), (str(self), self.path)


def as_disk_full(error: BaseException, path: Path | str, needed: int | None = None) -> DiskFull | None:
    """Convert an exception raised while writing `path` to DiskFull; None if it has another cause.

    Args:
        needed: number of bytes that were to be written, if known.
    """
    if isinstance(error, DiskFull):
        return error
    if not isinstance(error, OSError) or error.errno not in DISK_FULL_ERRNOS:
        return None
    path = Path(path)
    try:
        free = f"{format_bytes(shutil.disk_usage(_existing_folder(path)).free)} are free there"
    except OSError:
        free = "the free space there is unknown"
    detail = f"it needs {format_bytes(needed)} more, and {free}" if needed else free
    return DiskFull(f"There is no room on the disk for {path}: {detail} ({error.strerror}).", path)


def format_bytes(num_bytes: float) -> str:
    """`1.5 GB`, in the units of --cache-size: powers of 1,000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(num_bytes) < 1000:
            return f"{num_bytes:,.0f} {unit}" if unit == "bytes" else f"{num_bytes:,.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} TB"


def same_disk(one: Path, other: Path) -> bool:
    """Whether two paths, which need not exist, lie on the same file system."""
    return os.stat(_existing_folder(one)).st_dev == os.stat(_existing_folder(other)).st_dev  # noqa: PTH116


def _existing_folder(path: Path) -> Path:
    return next(p for p in (path, *path.absolute().parents) if p.is_dir())


def write_atomically(path: Path | str, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file beside `path` and move it there in one step; an existing file stays unchanged until the move.

    Missing parent folders are created.

    Args:
        content: the bytes, or a function that writes them to the open file. If it raises, `path` stays unchanged.

    Raises:
        DiskFull: no room.
        OSError: any other failure to write.
    """
    path = Path(path)
    # not tempfile: its files are readable by their owner only
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("xb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())  # otherwise a power cut can leave the new name on an empty file
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        full = as_disk_full(error, path, None if callable(content) else len(content))
        if full is None:
            if error.filename is not None:
                error.filename, error.filename2 = str(path), None  # not the partial one, which nobody knows
            raise
        raise full from error
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: Path | str, max_bytes: int = 64 << 20) -> Any:
    """Parse a JSON file.

    Raises:
        ValueError: not JSON, nested too deep, or more than `max_bytes` bytes.
        OSError: unreadable.
    """
    path = Path(path)
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"it has more than {format_bytes(max_bytes)}")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def refuse_links_out(folder: Path | str) -> None:
    """Check a folder from an untrusted source, before anything in it is read or written.

    Raises:
        AutotlError: a link leads out of the folder, or it contains something that is neither a file nor a folder, or
            folders without end.
    """
    try:
        _refuse_links_out(Path(folder))
    except RecursionError:  # os.walk is recursive before Python 3.12
        raise AutotlError(f"{folder} holds folders that are nested too deep. Remove them.") from None


def _refuse_links_out(folder: Path) -> None:
    root = os.path.realpath(folder)
    for here, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(here) / name
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                target = os.path.realpath(path)
                if not target.startswith(os.path.join(root, "")):  # noqa: PTH118 - text throughout
                    raise AutotlError(
                        f"{path} is a link that leads out of {folder}, to {target}. Put the file itself there."
                    )
            elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise AutotlError(f"{path} is neither a file nor a folder. Remove it.")


@contextmanager
def replaced_folder(folder: Path | str) -> Iterator[Path]:
    """Yield a draft folder that takes the place of `folder` at the end of the block; the old folder is deleted then.

    If the block raises, the draft is deleted and `folder` stays. Drafts of processes that were killed are deleted, and
    an old folder is moved back if its process was killed between the two moves.
    """
    folder = Path(folder)
    for leftover in (*folder.parent.glob(f".{folder.name}.*.old"), *folder.parent.glob(f".{folder.name}.*.partial")):
        process = leftover.name.split(".")[-2]
        if process.isdigit() and not _is_running(int(process)):
            if leftover.suffix == ".old" and not folder.exists():  # killed between the two moves below
                leftover.rename(folder)
            shutil.rmtree(leftover, ignore_errors=True)
    draft, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("partial", "old"))
    shutil.rmtree(draft, ignore_errors=True)
    try:
        yield draft
        if folder.exists():
            folder.rename(old)
        draft.rename(folder)
        _sync_folder(folder.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _is_running(process: int) -> bool:
    """Whether a process of this number exists; True if that is unknown."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it exists and belongs to another user
        return True
    return True


def write_json(path: Path | str, data: Any) -> None:
    """Write `data` as indented JSON with `write_atomically`.

    Raises:
        TypeError: `data` holds something that JSON lacks.
        ValueError: `data` holds NaN or an infinity, which most JSON readers refuse.
    """
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        content = text.encode()
    except UnicodeEncodeError:  # the name of a file that isn't UTF-8: as escape sequences
        content = json.dumps(data, indent=2, allow_nan=False).encode()
    write_atomically(path, content + b"\n")


def write_sealed(path: Path | str, data: Any) -> None:
    """Write `data` as JSON together with a checksum of it, for `read_sealed`."""
    write_json(path, {"data": data, "sha256": _checksum(data)})


def read_sealed(path: Path | str) -> Any:
    """What `write_sealed` wrote.

    Raises:
        ValueError: the file has other bytes than were written.
        OSError: unreadable.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("sha256") != _checksum(content.get("data")):
        raise ValueError("its checksum is wrong")
    return content["data"]


def _checksum(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make a move in the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
