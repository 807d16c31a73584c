"""The feature store: rows recorded on disk, one folder for each spec, shared by trials, studies and processes."""

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
from filelock import FileLock

from autotl.atomic_io import as_disk_full, format_bytes, write_atomically
from autotl.features.table import (
    RECORD,
    TableIndex,
    FeatureTable,
    StoreFull,
    StoreUnavailable,
    live_markers,
    to_stored_dtype,
)

__all__ = [
    "FeatureStore",
    "StoredTable",
    "FeatureTable",
    "StoreFull",
    "StoreUnavailable",
    "to_stored_dtype",
]

# of the files, of what views draw, of how images are resized, of what levels are computed in and of their order; part of
# the key: another version's rows are never misread
FORMAT = 5
REMOVED = ".removed-"
BIRTH = "birth"  # of a folder: a random word, that tells it from one of the same name before it
REMEMBERED = 64  # specs whose rows a process knows without reading their index again
LABEL = "label.txt"


@dataclass(frozen=True)
class StoredTable:
    """One spec's folder, as `autotl cache` lists it."""

    folder: Path
    spec: dict[str, Any] | None
    """None where `spec.json` can't be read: such a folder serves nobody and can be cleared."""
    label: str
    """What the rows are, in words; "" where nobody said."""
    n_bytes: int
    rows: int
    last_used: float
    """Seconds since the epoch."""
    in_use: bool


class FeatureStore:
    """Recorded rows under `root`. With a `size_limit` in bytes the least recently used specs make room for new rows.

    Raises StoreUnavailable where `root` can't be written.
    """

    def __init__(self, root: Path, size_limit: int | None = None):
        self.root, self.size_limit = Path(root), size_limit
        self._known: dict[tuple[Path, bytes], TableIndex] = {}  # the latest used last
        with self._alone():
            pass

    def open(self, spec: dict[str, Any], shape: tuple[int, ...], dtype: str, label: str = "") -> FeatureTable:
        """The rows of `spec`: everything that they are made of, as JSON values. One row has `shape` and `dtype`;
        `label` says in words what it is, for people who look at the store.

        Two callers with an equal spec share the rows, whichever processes they are in. While the result is open (see
        `FeatureTable.close`) its folder isn't pruned. Raises StoreUnavailable.
        """
        content = {"spec": spec, "shape": list(shape), "dtype": np.dtype(dtype).str, "format": FORMAT}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        folder = self.root / hashlib.sha256(text.encode()).hexdigest()
        with self._alone():
            folder.mkdir(exist_ok=True)
            page = folder / "spec.json"
            if not page.exists() or page.read_bytes() != text.encode():
                write_atomically(page, text.encode())
            if label and not (folder / LABEL).exists():
                write_atomically(folder / LABEL, label.encode())
            os.utime(page)  # its time is the time of the last use
            return FeatureTable(folder, shape, dtype, self._make_room, self._contents(folder))

    def _contents(self, folder: Path) -> TableIndex:
        """What this process knows of a folder from an earlier use. Call it with the store's lock."""
        try:
            birth = (folder / BIRTH).read_bytes()
        except FileNotFoundError:
            birth = secrets.token_bytes(16)
            write_atomically(folder / BIRTH, birth)
        known = self._known.pop((folder, birth), None) or TableIndex()
        self._known[folder, birth] = known
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return known

    def usage(self) -> list[StoredTable]:
        """Every spec's folder, the least recently used first."""
        kept = []
        for folder in self._folders():
            content = _content(folder)
            last_used = content["used"] if content else 0.0
            n_bytes, index = _sizes(folder)
            spec = content["spec"] if content else None
            rows = index // RECORD.itemsize
            in_use = bool(live_markers(folder))
            kept.append(StoredTable(folder, spec, _label(folder), n_bytes + index, rows, last_used, in_use))
        return sorted(kept, key=lambda k: k.last_used)

    def verify(self) -> dict[Path, list[str]]:
        """Check every row of every spec; a damaged one is dropped, to be computed again. Returns the image digests
        of damaged rows by folder, with every folder that was checked (one without a readable spec serves nobody)."""
        found = {}
        self._known.clear()  # what it drops must not be remembered
        for folder in self._folders():
            with self._alone():
                content = _content(folder)
                if content is None or content["format"] != FORMAT:
                    continue
                used = content["used"]
                recorded = FeatureTable(folder, tuple(content["shape"]), content["dtype"])
            with closing(recorded):
                found[folder] = recorded.drop_damaged()
            with suppress(FileNotFoundError):  # pruned since
                os.utime(folder / "spec.json", (used, used))  # to check isn't to use
        return found

    def prune(self, limit: int) -> list[StoredTable]:
        """Remove the least recently used specs until at most `limit` bytes are left; what a living process has open
        stays, whatever it is worth. Returns what was removed."""
        removed: list[StoredTable] = []
        with self._alone():  # nobody opens a folder while we look whether it is in use
            usage = self.usage()
            total = sum(k.n_bytes for k in usage)
            for kept in usage:
                if total <= limit and kept.spec is not None:
                    continue
                if not live_markers(kept.folder, tidy=True):
                    kept.folder.rename(self.root / f"{REMOVED}{secrets.token_hex(4)}")
                    removed.append(kept)
                    total -= kept.n_bytes
        for folder in self.root.glob(f"{REMOVED}*"):
            shutil.rmtree(folder, ignore_errors=True)
        return removed

    def clear(self) -> list[StoredTable]:
        """Remove everything but what a living process has open."""
        return self.prune(-1)

    def room(self) -> float:
        """Bytes that could be recorded now: of the disk and of the size limit, less what living processes use."""
        usage = self.usage()
        unused = sum(k.n_bytes for k in usage if not k.in_use)
        free = shutil.disk_usage(self.root).free + unused
        if self.size_limit is None:
            return free
        return max(0, min(free, self.size_limit - sum(k.n_bytes for k in usage if k.in_use)))

    def _make_room(self, n_bytes: int) -> None:
        """Before a writer appends: keep within the size limit, by pruning, or raise StoreFull."""
        if self.size_limit is None or self._total() + n_bytes <= self.size_limit:
            return
        self.prune(self.size_limit - n_bytes)
        if (total := self._total()) + n_bytes > self.size_limit:
            raise StoreFull(
                f"The feature store {str(self.root)!r} may hold {format_bytes(self.size_limit)}: {format_bytes(total)} are "
                f"in use by running searches, and the next rows need {format_bytes(n_bytes)}. Give it more: --cache-size "
                f"{math.ceil((total + n_bytes) * 2 / 10**9)}GB"
            )

    def freeable_bytes(self) -> int:
        """Bytes that `clear` would free now."""
        return sum(kept.n_bytes for kept in self.usage() if not kept.in_use)

    def _total(self) -> int:
        return sum(sum(_sizes(folder)) for folder in self._folders())

    def _folders(self) -> list[Path]:
        try:
            return [p for p in self.root.iterdir() if len(p.name) == 64 and p.is_dir()]
        except OSError as error:
            raise self._unavailable(error) from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
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


def _content(folder: Path) -> dict[str, Any] | None:
    """What `spec.json` says, with the time of its last use; None where it can't be read."""
    page = folder / "spec.json"
    try:
        content = json.loads(page.read_text()) | {"used": page.stat().st_mtime}
    except (OSError, ValueError, TypeError):
        return None
    return content if {"spec", "shape", "dtype", "format"} <= content.keys() else None


def _label(folder: Path) -> str:
    try:
        return (folder / LABEL).read_text(errors="replace")
    except OSError:
        return ""


def _sizes(folder: Path) -> tuple[int, int]:
    """Bytes of rows and of index."""

    def size(path: Path) -> int:
        try:
            return path.stat().st_size
        except FileNotFoundError:  # not written yet, or pruned by another process since we looked
            return 0

    return size(folder / "rows.bin"), size(folder / "index.bin")
