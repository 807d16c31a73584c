"""Files that are there whole or not at all: what a killed process was writing is never seen under its name."""

import errno
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
    "escape",
    "format_bytes",
    "read_json",
    "refuse_links_out",
    "replaced_folder",
    "same_disk",
    "write_atomically",
    "write_json",
]

FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class DiskFull(AutotlError):
    """No room on a disk: says what was being written and how much it needed. `path` is where."""

    def __init__(self, text: str, path: Path):
        super().__init__(text)
        self.path = path

    def __reduce__(self) -> Any:
        return type(self), (str(self), self.path)


def as_disk_full(error: BaseException, path: Path | str, needed: int | None = None) -> DiskFull | None:
    """`error`, met while writing `path`, as a full disk in words; None where it is something else.

    Args:
        path: what was written, where `error` doesn't know it.
        needed: bytes that were to be written, where that is known.
    """
    if isinstance(error, DiskFull):
        return error
    if not isinstance(error, OSError) or error.errno not in FULL:
        return None
    path = Path(path)
    try:
        free = f"{format_bytes(shutil.disk_usage(_nearest_folder(path)).free)} are free there"
    except OSError:
        free = "nobody can say how much is free there"
    what = f"it needs {format_bytes(needed)} more, and {free}" if needed else free
    return DiskFull(f"There is no room on the disk for {path}: {what} ({error.strerror}).", path)


def format_bytes(n_bytes: float) -> str:
    """`1.5 GB`, in the units of --cache-size: powers of 1,000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(n_bytes) < 1000:
            return f"{n_bytes:,.0f} {unit}" if unit == "bytes" else f"{n_bytes:,.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.1f} TB"


def escape(name: object) -> str:
    """A file's name, or words with one, for a terminal: line breaks, control characters (which could steer it) and
    bytes that are no text become escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(name))


def same_disk(one: Path, other: Path) -> bool:
    """Whether what is written to the two takes room from the same disk. Neither needs to be there yet."""
    return os.stat(_nearest_folder(one)).st_dev == os.stat(_nearest_folder(other)).st_dev  # noqa: PTH116


def _nearest_folder(path: Path) -> Path:
    return next(p for p in (path, *path.absolute().parents) if p.is_dir())


def write_atomically(path: Path | str, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write bytes, or what `content(file)` writes, beside `path`, and move it there in one step.

    Folders on the way are made. A file that was there stays as it was until the move, also where `content` raises.

    Raises DiskFull where there is no room, and OSError for whatever else the disk came up with.
    """
    path = Path(path)
    # not tempfile, whose files only their owner may read
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("xb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())  # or a power cut leaves the new name on an empty file
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        full = as_disk_full(error, path, None if callable(content) else len(content))
        if full is None:
            raise
        raise full from error
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: Path | str, most: int = 64 << 20) -> Any:
    """What a JSON file says. Raises ValueError where it is none, is nested too deep, or has more than `most` bytes."""
    path = Path(path)
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {format_bytes(most)}")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def refuse_links_out(folder: Path | str) -> None:
    """Raises AutotlError for a link in a folder that leads out of it, and for what is neither file nor folder there.

    For a folder that may come from somebody else, before anything in it is read or written.
    """
    folder = Path(folder)
    root = os.path.realpath(folder)
    for here, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(here) / name
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                to = os.path.realpath(path)
                if not to.startswith(os.path.join(root, "")):  # noqa: PTH118 - text throughout
                    raise AutotlError(
                        f"{path} is a link that leads out of {folder}, to {to}. Put the file itself there."
                    )
            elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise AutotlError(f"{path} is neither a file nor a folder. Remove it.")


@contextmanager
def replaced_folder(folder: Path | str) -> Iterator[Path]:
    """A draft of a folder, beside it, which takes its place at the end of the `with`, whole; what was there goes then.

    Where the block raises, the draft goes. What a process that was killed left beside the folder goes too.
    """
    folder = Path(folder)
    for left in (*folder.parent.glob(f".{folder.name}.*.old"), *folder.parent.glob(f".{folder.name}.*.partial")):
        process = left.name.split(".")[-2]
        if process.isdigit() and not _lives(int(process)):
            if left.suffix == ".old" and not folder.exists():  # it ended between the two moves below
                left.rename(folder)
            shutil.rmtree(left, ignore_errors=True)
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


def _lives(process: int) -> bool:
    """Whether there is such a process; yes where nobody can say."""
    if os.name != "posix":  # elsewhere the question itself would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def write_json(path: Path | str, data: Any) -> None:
    """Write `data` as indented JSON, whole or not at all.

    Raises TypeError for what JSON can't say, ValueError for NaN and infinities, which few readers take.
    """
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode())


def _sync_folder(folder: Path) -> None:
    """Make the move itself durable, where the system lets a folder be opened (Windows doesn't)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
