"""Images at an address that fsspec reads: `s3://`, `gs://`, `https://`, … They are copied into the cache once."""

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from autotl.config import claimed_cache
from autotl.data.dataset import DatasetSource, LabelledImage
from autotl.errors import DataError

__all__ = ["RemoteSource"]

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://[^\s]+")
PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "hf": "huggingface_hub",
}

NO_VERSION = {"name", "time", "atime", "last_access_time"}
"""What file systems state of a file that a copy of it changes, or that says nothing: `time` is SFTP's last access."""


class RemoteSource(DatasetSource):
    """Whatever a local location may be (class folders, a manifest, Parquet, tar archives), at an address.

    A file is copied when what its file system states of it has changed, and its copy is removed when it is gone there.
    Credentials are those that fsspec finds.

    Args:
        list_local: lists the images at a path of this machine.
    """

    name = "remote"

    def __init__(self, list_local: Callable[[str], list[LabelledImage]]):
        self._list_local = list_local

    def matches(self, location: str) -> bool:
        return ADDRESS.fullmatch(location) is not None

    def images(self, location: str) -> list[LabelledImage]:
        return self._list_local(str(fetch(location)))


def fetch(address: str) -> Path:
    """The local copy of what is at an address: a file, or a folder with everything in it.

    Raises:
        DataError: it can't be read.
    """
    kind = address.split("://")[0]
    try:
        import fsspec
    except ImportError:
        raise DataError(f"{address} needs fsspec: pip install 'autotl[data]'") from None
    target = claimed_cache() / "remote" / hashlib.sha256(address.encode()).hexdigest()[:16]
    try:
        system, root = fsspec.core.url_to_fs(address)
        is_folder = system.isdir(root)
        found = system.find(root, detail=True) if is_folder else {root: system.info(root)}
        if not found:
            raise DataError(f"There is nothing at {address}.")
        copies: set[Path] = set()
        for remote, info in sorted(found.items()):
            inner = remote[len(root) :].strip("/") if is_folder else PurePosixPath(root).name
            copy = target / _safe(inner, address)
            copies.add(copy)
            _copy(system, remote, info, copy)
        if is_folder:  # an image that moved to another class there would be of both
            _remove_others(target, copies)
    except ImportError as error:
        package = PACKAGES.get(kind)
        raise DataError(f"{address}: {error}. pip install {package or 'what it names'}") from error
    except DataError:
        raise
    except Exception as error:  # each file system has its own exceptions
        raise DataError(f"{address} can't be read: {type(error).__name__}: {error}") from error
    return target if is_folder else target / PurePosixPath(root).name


def _safe(inner: str, address: str) -> PurePosixPath:
    """A path below the copy. Raises DataError for a name that leads out of it: whoever owns a bucket chooses names."""
    path = PurePosixPath(inner)
    if path.is_absolute() or ".." in path.parts or "\0" in inner:
        raise DataError(f"{address} has a file called {inner!r}, which leads out of its folder.")
    return path


def _copy(system: Any, remote: str, info: Mapping[str, Any], local: Path) -> None:
    """Copy a file unless its copy is of the same version."""
    version = _version_of(local)
    now = repr(sorted((key, str(value)) for key, value in info.items() if key not in NO_VERSION))
    if local.exists() and version.exists() and version.read_text() == now:
        return
    local.parent.mkdir(parents=True, exist_ok=True)
    growing = local.with_name(f".{local.name}.{os.getpid()}.growing")
    system.get_file(remote, str(growing))
    growing.replace(local)
    version.write_text(now)


def _version_of(local: Path) -> Path:
    """Beside a copy, the file with what was stated of it."""
    return local.with_name(f".{local.name}.version")


def _remove_others(folder: Path, copies: set[Path]) -> None:
    kept = {*copies, *map(_version_of, copies)}
    for path in folder.rglob("*"):
        # another process may be copying now
        if path.is_file() and path not in kept and not path.name.endswith(".growing"):
            path.unlink(missing_ok=True)
