"""Folders that autotl writes into carry a marker file, so that no other folder is written into, replaced or cleared."""

import os
from collections.abc import Callable
from pathlib import Path

from autotl.atomic_io import as_disk_full, write_atomically
from autotl.errors import AutotlError

__all__ = ["MARKER", "claim_cache", "claim_study", "expand_home", "is_cache", "is_marked", "is_study", "require_cache"]

MARKER = ".autotl"
"""Name of the marker. It holds what the folder is: `study` or `cache`."""
OTHER_CACHE = "Name the cache folder with --cache."


def expand_home(path: Path | str) -> Path:
    """A path whose first part `~` is the user's home folder. `~name` of a user who doesn't exist stays as it is, and is
    found missing as other paths are: `Path.expanduser` raises RuntimeError."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def claim_study(folder: Path) -> None:
    """Make `folder` a study's, or check that it is one.

    Raises:
        AutotlError: it exists and is no study, or it can't be written.
    """
    _claim(folder, "study", is_study, "Give the search another --name or --output.")


def claim_cache(folder: Path) -> None:
    """Make `folder` a cache, or check that it is one. Does nothing where it can't be written: a search then keeps its
    features in the study's folder.

    Raises:
        AutotlError: it exists and is no cache.
    """
    _claim(folder, "cache", _holds_features, OTHER_CACHE, needed=False)


def require_cache(folder: Path) -> None:
    """Check a folder before it is listed or cleared.

    Raises:
        AutotlError: it exists, and is neither empty nor a cache.
    """
    if not folder.is_dir():
        if folder.exists():
            raise AutotlError(f"{folder} is not a folder. {OTHER_CACHE}")
    elif any(folder.iterdir()) and not is_cache(folder):
        raise AutotlError(f"{folder} is not a cache of autotl. {OTHER_CACHE}")


def _claim(folder: Path, kind: str, is_older: Callable[[Path], bool], remedy: str, *, needed: bool = True) -> None:
    """Create `folder` with the marker of `kind`, or check that an existing one has it.

    Args:
        is_older: whether a folder without a marker is of this kind, from before there were markers.
        remedy: what the user can do about a folder of somebody else.
        needed: whether a folder that can't be written is an error.

    Raises:
        AutotlError: the folder holds other files, or it can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if is_marked(folder, kind):
            return
        # another process may be writing the marker
        own = (MARKER, f".{MARKER}.", ".lock")
        content = sorted(path.name for path in folder.iterdir() if not path.name.startswith(own))
        if is_marked(folder, kind):
            return
        if (content or (folder / MARKER).exists()) and not is_older(folder):
            listing = ", ".join(content[:3]) + (f" and {len(content) - 3} more" if len(content) > 3 else "")
            raise AutotlError(f"{folder} exists and is not a {kind} of autotl: it holds {listing or MARKER}. {remedy}")
        write_atomically(folder / MARKER, f"{kind}\n".encode())
    except OSError as error:
        if not needed and (folder.is_dir() or not os.path.lexists(folder)):
            return
        full = as_disk_full(error, folder)
        raise full or AutotlError(f"{folder} can't be written: {error.strerror or error}. {remedy}") from error


def is_marked(folder: Path, kind: str) -> bool:
    """Whether `folder` carries the marker of `kind`."""
    try:
        with (folder / MARKER).open("rb") as file:
            return file.read(100).decode(errors="replace").strip() == kind
    except OSError:
        return False


def is_study(folder: Path) -> bool:
    """Whether `folder` is a study's: it carries the marker, or, from before there were markers, it holds a study's
    configuration and an Optuna journal."""
    return is_marked(folder, "study") or (
        (folder / "study.json").is_file() and _starts_with(folder / "journal.log", b'{"op_code"')
    )


def is_cache(folder: Path) -> bool:
    """Whether `folder` is a cache: it carries the marker, or, from before there were markers, it holds features."""
    return is_marked(folder, "cache") or _holds_features(folder)


def _holds_features(folder: Path) -> bool:
    """Whether a folder holds a feature store, converted networks, or the database of checked images."""
    return (
        (folder / "features" / "store.lock").is_file()
        or any((folder / "engines").glob("openvino-*"))
        or any(_starts_with(path, b"SQLite format 3") for path in (folder / "digests").glob("*"))
    )


def _starts_with(file: Path, content: bytes) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(content)) == content
    except OSError:
        return False
