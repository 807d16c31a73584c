"""The cache of converted networks: a folder for each, whose files are checked before an engine reads them.

A damaged network computes numbers all the same, and features of noise would be recorded under the right key.
"""

import hashlib
import shutil
from pathlib import Path

from autotl.atomic_io import read_sealed

__all__ = ["CHECKSUMS", "checksums", "drop_damaged", "require_intact"]

CHECKSUMS = "checksums.json"


def checksums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file in a folder, by name, except for `CHECKSUMS` itself."""
    return {file.name: _sha256(file) for file in sorted(folder.iterdir()) if file.name != CHECKSUMS}


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def require_intact(folder: Path) -> None:
    """Compare the files of a converted network with their checksums.

    Raises:
        ValueError: a file is missing, was added, or has other bytes.
        OSError: a file can't be read.
    """
    if read_sealed(folder / CHECKSUMS) != checksums(folder):
        raise ValueError(f"{folder} is damaged")


def drop_damaged(root: Path) -> tuple[int, list[Path]]:
    """Check everything that engines and backbones keep in a cache's folder, and remove what is damaged.

    Returns:
        The number of checked networks and files, and what was removed: it is made again when it is needed.
    """
    checked, removed = 0, []
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        try:
            if path.is_dir() and path.name.startswith("openvino-"):
                require_intact(path)
            elif path.suffix == ".json":
                read_sealed(path)
            else:
                continue
        except (OSError, ValueError):
            removed.append(path)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        checked += 1
    return checked, removed
