"""The feature store: features on disk, one folder for each spec, shared by trials, studies and processes."""

import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autotl.atomic_io import as_disk_full, format_bytes, read_json, write_atomically
from autotl.features.index import RECORD, TableIndex
from autotl.features.table import FeatureTable, StoreFull, StoreUnavailable, live_markers
from autotl.locks import FileLock

__all__ = ["FeatureStore", "FeatureTable", "StoreFull", "StoreUnavailable", "StoredTable"]

FORMAT = 6
"""Bump when any of these change: file layout, augmentation draws, resizing, level precision, level order. Part of the
cache key, so that features of another version are never read."""
REMOVED = ".removed-"
INSTANCE = "instance"
"""File with a random word that distinguishes a folder from an earlier, removed folder of the same name."""
LABEL = "label.txt"
MAX_INDEXES = 64
"""Number of specs whose index a process keeps in memory between uses."""


@dataclass(frozen=True)
class StoredTable:
    """The folder of one spec, as `autotl cache` lists it."""

    folder: Path
    spec: dict[str, Any] | None
    """None where `spec.json` can't be read: such a folder can't be used, only removed."""
    label: str
    """Name for users, such as the backbone's; "" where none was given."""
    num_bytes: int
    num_rows: int
    last_used: float
    """Seconds since the epoch."""
    in_use: bool
    """Whether a running process has the table open."""
    shape: tuple[int, ...] = ()
    """Of one row."""
    dtype: str = ""


class FeatureStore:
    """The features under a folder.

    Args:
        root: the store's folder; it is created.
        size_limit: bytes. The least recently used tables are removed to make room for new rows.

    Raises:
        StoreUnavailable: `root` can't be written.
    """

    def __init__(self, root: Path, size_limit: int | None = None):
        self.root, self.size_limit = Path(root), size_limit
        self._indexes: dict[tuple[Path, bytes], TableIndex] = {}  # the most recently used last
        with self._locked():
            pass

    def open(self, spec: dict[str, Any], shape: tuple[int, ...], dtype: str, label: str = "") -> FeatureTable:
        """Open the table of `spec`. Callers with an equal spec share it, also across processes.

        While the table is open (see `FeatureTable.close`) its folder isn't pruned.

        Args:
            spec: everything that determines a row except the image, as JSON values.
            shape: of one row.
            dtype: of the rows on disk.
            label: name of the table for users.

        Raises:
            StoreUnavailable: the store can't be written.
        """
        content = {"spec": spec, "shape": list(shape), "dtype": np.dtype(dtype).str, "format": FORMAT}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        folder = self.root / hashlib.sha256(text.encode()).hexdigest()
        with self._locked():
            folder.mkdir(exist_ok=True)
            spec_file = folder / "spec.json"
            if not spec_file.exists() or spec_file.read_bytes() != text.encode():
                write_atomically(spec_file, text.encode())
            if label and not (folder / LABEL).exists():
                write_atomically(folder / LABEL, label.encode())
            os.utime(spec_file)  # its modification time is the time of the last use
            return FeatureTable(folder, shape, dtype, self._make_room, self._index(folder))

    def _index(self, folder: Path) -> TableIndex:
        """The index of a folder from an earlier use by this process, or an empty one. Requires the store's lock."""
        try:
            instance = (folder / INSTANCE).read_bytes()
        except FileNotFoundError:
            instance = secrets.token_bytes(16)
            write_atomically(folder / INSTANCE, instance)
        index = self._indexes.pop((folder, instance), None) or TableIndex()
        self._indexes[folder, instance] = index
        if len(self._indexes) > MAX_INDEXES:
            del self._indexes[next(iter(self._indexes))]
        return index

    def usage(self) -> list[StoredTable]:
        """All tables, the least recently used first."""
        tables = []
        for folder in self._folders():
            content = _read_spec_file(folder)
            row_bytes, index_bytes = _sizes(folder)
            tables.append(
                StoredTable(
                    folder=folder,
                    spec=content["spec"] if content else None,
                    label=_label(folder),
                    num_bytes=row_bytes + index_bytes,
                    num_rows=index_bytes // RECORD.itemsize,
                    last_used=content["used"] if content else 0.0,
                    in_use=bool(live_markers(folder)),
                    shape=tuple(content["shape"]) if content else (),
                    dtype=content["dtype"] if content else "",
                )
            )
        return sorted(tables, key=lambda table: table.last_used)

    def verify(self) -> dict[Path, list[str]]:
        """Check every row of every table and drop damaged rows, so that they are extracted again.

        Returns:
            The image digests of damaged rows, by folder, for all folders that were checked. Folders without a readable
            spec, or of another format, are skipped.
        """
        damaged = {}
        self._indexes.clear()  # they may hold rows that are dropped
        for folder in self._folders():
            with self._locked():
                content = _read_spec_file(folder)
                if content is None or content["format"] != FORMAT:
                    continue
                used = content["used"]
                table = FeatureTable(folder, tuple(content["shape"]), content["dtype"])
            with closing(table):
                damaged[folder] = table.drop_damaged()
            with suppress(FileNotFoundError):  # pruned by another process
                os.utime(folder / "spec.json", (used, used))  # a check doesn't count as a use
        return damaged

    def prune(self, limit: int) -> list[StoredTable]:
        """Remove the least recently used tables until at most `limit` bytes are left; return what was removed.

        Tables that a running process has open are kept, even beyond the limit. Unreadable ones are always removed.
        """
        removed: list[StoredTable] = []
        with self._locked():  # no process can open a table between the check for markers and the removal
            usage = self.usage()
            total = sum(table.num_bytes for table in usage)
            for table in usage:
                if total <= limit and table.spec is not None:
                    continue
                if not live_markers(table.folder, remove_dead=True):
                    table.folder.rename(self.root / f"{REMOVED}{secrets.token_hex(4)}")
                    removed.append(table)
                    total -= table.num_bytes
        for folder in self.root.glob(f"{REMOVED}*"):
            shutil.rmtree(folder, ignore_errors=True)
        return removed

    def clear(self) -> list[StoredTable]:
        """Remove all tables except those that a running process has open."""
        return self.prune(-1)

    def _make_room(self, num_bytes: int) -> None:
        """Prune so that a writer can append within the size limit. Raises StoreFull where that isn't possible."""
        if self.size_limit is None or self._total_bytes() + num_bytes <= self.size_limit:
            return
        self.prune(self.size_limit - num_bytes)
        if (total := self._total_bytes()) + num_bytes > self.size_limit:
            raise StoreFull(
                f"The feature store {str(self.root)!r} is limited to {format_bytes(self.size_limit)}: "
                f"{format_bytes(total)} are in use by running searches, and the next rows need "
                f"{format_bytes(num_bytes)}. Raise the limit: --cache-size "
                f"{math.ceil((total + num_bytes) * 2 / 10**9)}GB"
            )

    def freeable_bytes(self) -> int:
        """The number of bytes that `clear` would free now."""
        return sum(table.num_bytes for table in self.usage() if not table.in_use)

    def _total_bytes(self) -> int:
        return sum(sum(_sizes(folder)) for folder in self._folders())

    def _folders(self) -> list[Path]:
        try:
            return [p for p in self.root.iterdir() if len(p.name) == 64 and p.is_dir()]
        except OSError as error:
            raise self._unavailable(error) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / "store.lock", thread_local=False):
                yield
        except OSError as error:
            raise as_disk_full(error, self.root) or self._unavailable(error) from error

    def _unavailable(self, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(
            f"The feature store {str(self.root)!r} can't be written: {error.strerror or error}. "
            "Give autotl a folder that it may write to: --cache FOLDER."
        )


def _read_spec_file(folder: Path) -> dict[str, Any] | None:
    """The content of `spec.json`, plus "used": the time of the last use. None where it can't be read."""
    spec_file = folder / "spec.json"
    try:
        content = read_json(spec_file) | {"used": spec_file.stat().st_mtime}
    except (OSError, ValueError, TypeError):
        return None
    return content if {"spec", "shape", "dtype", "format"} <= content.keys() else None


def _label(folder: Path) -> str:
    try:
        return (folder / LABEL).read_text(errors="replace")
    except OSError:
        return ""


def _sizes(folder: Path) -> tuple[int, int]:
    """The bytes of a table's rows and of its index."""

    def size(path: Path) -> int:
        try:
            return path.stat().st_size
        except FileNotFoundError:  # not written yet, or pruned by another process
            return 0

    return size(folder / "rows.bin"), size(folder / "index.bin")
