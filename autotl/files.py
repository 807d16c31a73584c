"""Files that are there whole or not at all: what a killed process was writing is never seen under its name."""

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["write_atomically", "write_json"]


def write_atomically(path: Path | str, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write bytes, or what `content(file)` writes, beside `path`, and move it there in one step.

    Folders on the way are made. A file that was there stays as it was until the move, also where `content` raises.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # not tempfile, whose files only their owner may read
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())  # or a power cut leaves the new name on an empty file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


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
