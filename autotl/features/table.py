"""Features on disk: one row for each image, found by the image's digest, shared by processes.

A folder holds `rows.bin` (the rows, one after another, append-only) and `index.bin` (a record of 32 bytes for each row:
image digest, row number, checksum). Rows are synced to disk before their records are written, each record has a seal,
and a row is checked against its checksum before a process first uses it. A process that is killed at any moment can
therefore leave no torn data that a reader takes for whole: a torn record is skipped, and the next writer cuts it off.
"""

import os
import re
import secrets
import sys
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from autotl.atomic_io import as_disk_full
from autotl.data.columns import DigestColumn
from autotl.errors import AutotlError
from autotl.features.index import RECORD, TableIndex
from autotl.locks import FileLock
from autotl.locks import Timeout as LockTimeout

__all__ = ["FeatureTable", "StoreFull", "StoreUnavailable", "live_markers", "to_stored_dtype"]

SEAL = 0x4C544F41  # makes a record of zeros, which a lost write can leave, invalid
CAST_CHUNK = 32_767
"""Numbers cast at a time: they fit in the CPU's cache, and PyTorch casts up to this many on one thread. Waking its
other threads takes milliseconds while other processes use the cores."""


class StoreUnavailable(AutotlError):
    """The store's folder can't be written, or was removed."""


class StoreFull(AutotlError):
    """The features that running processes use fill the store's size limit."""


def to_stored_dtype(rows: np.ndarray, dtype: str) -> np.ndarray:
    """Convert to the dtype that is stored. Values beyond the range of float16 are clipped to it, not made infinite."""
    if rows.dtype == np.dtype(dtype):
        return rows
    if np.dtype(dtype).kind == "f":
        largest = np.finfo(dtype).max
        rows = np.clip(rows, -largest, largest)
    return rows.astype(dtype, casting="same_kind")


class FeatureTable:
    """The rows of one spec. Thread-safe. Opened by `FeatureStore.open`.

    The folder counts as in use until the table is closed or garbage-collected, or its process ends. Image digests are
    32 hex digits.
    """

    num_buckets = 32
    """Processes share work by buckets of image digests (see `autotl.features.sharing`)."""

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, ...],
        dtype: str,
        make_room: Callable[[int], None] = lambda num_bytes: None,
        index: TableIndex | None = None,
    ):
        self.folder, self.shape, self.dtype = folder, tuple(shape), np.dtype(dtype)
        self.row_bytes = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        self._make_room = make_room
        self._rows_file, self._index_file = folder / "rows.bin", folder / "index.bin"
        self._index = index or TableIndex()
        self._map = np.empty((0, *self.shape), self.dtype)
        marker = FileLock(folder / f"used-by-{os.getpid()}-{secrets.token_hex(4)}.lock", thread_local=False)
        marker.acquire()
        self.close = weakref.finalize(self, _end_use, marker, folder, os.getpid())
        """End the use of this folder: it may then be pruned."""
        for path in (self._rows_file, self._index_file):
            path.touch()

    def __len__(self) -> int:
        """The number of images that have a row."""
        with self._index.lock:
            self._refresh()
            return len(self._index.digests())

    def missing(self, digests: Sequence[str]) -> DigestColumn:
        """The digests that have no undamaged row, without duplicates, in their order."""
        column = DigestColumn.of(digests)
        with self._index.lock:
            missing = column.take(self._rows_of(column) < 0)
        _, first = np.unique(missing.bytes.view("V16").ravel(), return_index=True)
        return missing if len(first) == len(missing) else missing.take(np.sort(first))

    def _rows_of(self, digests: DigestColumn) -> np.ndarray:
        """The row of each image, -1 where it has none. A row is checked before this process first uses it."""
        self._refresh()
        return self._index.rows_of(digests, lambda row, crc: zlib.crc32(self._mapped()[row]) == crc)

    def read(self, digests: Sequence[str], dtype: str | None = None, features: slice = slice(None)) -> np.ndarray:
        """The rows [n, *shape] of `digests`, in this order.

        Args:
            digests: of images; duplicates are allowed.
            dtype: cast to this dtype.
            features: the part of each row's first axis to read.

        Raises:
            KeyError: an image has no row. Call `extract_missing` first.
        """
        with self._index.lock:
            rows = self._rows_of(DigestColumn.of(digests))
            if missing := int((rows < 0).sum()):
                first = digests[int(np.argmax(rows < 0))]
                raise KeyError(f"{missing} of {len(digests)} images have no row here, the first is {first}")
            source = self._mapped()[:, features]
        if dtype is None or np.dtype(dtype) == self.dtype:
            contiguous = len(rows) and bool((np.diff(rows) == 1).all())
            return source[rows[0] : rows[-1] + 1].copy() if contiguous else source[rows]
        out = np.empty((len(rows), *source.shape[1:]), dtype)
        step = max(1, CAST_CHUNK // max(1, int(np.prod(source.shape[1:]))))
        for start in range(0, len(rows), step):
            _cast(source[rows[start : start + step]], out[start : start + step])
        return out

    def append(self, digests: Sequence[str], rows: np.ndarray) -> int:
        """Record `rows` [n, *shape] and return how many were new. An image that already has a row keeps it.

        Raises:
            StoreFull: the size limit leaves no room.
            DiskFull: the disk is full.
            StoreUnavailable: the folder was removed or can't be written.
        """
        rows = to_stored_dtype(np.asarray(rows), self.dtype.str)
        if rows.shape != (len(digests), *self.shape):
            raise ValueError(f"rows must have shape {(len(digests), *self.shape)}, got {rows.shape}")
        if invalid := [d for d in digests if not re.fullmatch("[0-9a-f]{32}", d)]:
            raise ValueError(f"an image digest must have 32 hex digits, got {invalid[0]!r}")
        try:
            with FileLock(self.folder / "write.lock", thread_local=False), self._index.lock:
                self._cut_torn_record()
                position = {d: i for i, d in enumerate(digests)}
                new = [position[d] for d in self.missing(digests)]
                if new:
                    self._make_room(len(new) * (self.row_bytes + RECORD.itemsize))
                    self._write([digests[i] for i in new], np.ascontiguousarray(rows[new]))
                    self._refresh()
                    self._index.mark_sound(DigestColumn([digests[i] for i in new]))
        except OSError as error:
            raise self._as_autotl_error(error, len(digests)) from error
        return len(new)

    @contextmanager
    def claim(self, bucket: int) -> Iterator[bool]:
        """Hold a bucket while extracting its missing images. Yields whether the claim succeeded.

        The claim is a file lock, so it ends with the process that holds it. Call `missing` again after the claim:
        another process may have recorded images before.
        """
        lock = FileLock(self.folder / f"bucket-{bucket:02}.lock", thread_local=False)
        try:
            lock.acquire(blocking=False)
        except LockTimeout:
            yield False
            return
        except OSError as error:
            raise self._as_autotl_error(error, 0) from error
        try:
            yield True
        finally:
            lock.release()

    def bucket(self, digest: str) -> int:
        """The bucket of an image. It depends on the last digits, which also differ where digests are consecutive."""
        return int(digest[-2:], 16) % self.num_buckets

    def drop_damaged(self) -> list[str]:
        """Check every row, remove the damaged ones from the index, and return their image digests."""
        with FileLock(self.folder / "write.lock", thread_local=False), self._index.lock:
            self._index.clear()
            self._refresh()
            damaged = list(self.missing(self._index.digests()))
            if damaged:
                records = np.fromfile(self._index_file, RECORD)
                dropped = {bytes.fromhex(d) for d in damaged}
                records["seal"][[r.tobytes() in dropped for r in records["digest"]]] = 0
                with self._index_file.open("r+b") as file:
                    file.write(records.tobytes())
            return damaged

    def _write(self, digests: list[str], rows: np.ndarray) -> None:
        records = np.zeros(len(digests), RECORD)
        records["digest"] = np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(-1, 16)
        records["row"] = np.arange(self._index.next_row, self._index.next_row + len(digests))
        records["crc"] = [zlib.crc32(row) for row in rows]
        records["seal"] = _seals(records)
        with self._rows_file.open("r+b") as file:
            # overwrites rows without records, which a killed writer may have left
            file.seek(self._index.next_row * self.row_bytes)
            file.write(rows.tobytes())
            file.flush()
            os.fsync(file.fileno())
        with self._index_file.open("ab") as file:
            file.write(records.tobytes())

    def _cut_torn_record(self) -> None:
        size = self._index_file.stat().st_size
        if torn := size % RECORD.itemsize:
            with self._index_file.open("r+b") as file:
                file.truncate(size - torn)

    def _refresh(self) -> None:
        """Read the records that were written since the last refresh."""
        try:
            num_new = (self._index_file.stat().st_size - self._index.bytes_read) // RECORD.itemsize
            if num_new <= 0:
                return
            records = np.fromfile(self._index_file, RECORD, num_new, offset=self._index.bytes_read)
            num_rows = self._rows_file.stat().st_size // self.row_bytes
        except OSError as error:
            raise self._as_autotl_error(error, 0) from error
        valid = np.flatnonzero(records["seal"] == _seals(records))
        if not len(valid):
            return
        # an invalid last record may be in the middle of being written: read it again next time
        self._index.bytes_read += int(valid[-1] + 1) * RECORD.itemsize
        records = records[valid]
        self._index.next_row = max(self._index.next_row, int(records["row"].max()) + 1)
        self._index.num_rows = num_rows
        records = records[records["row"] < num_rows]  # a power cut can lose the end of `rows.bin`
        if len(records):
            self._index.add(records)

    def _mapped(self) -> np.ndarray:
        """Memory map of all rows, including torn ones that have no record."""
        if len(self._map) < self._index.num_rows:
            shape = (self._index.num_rows, *self.shape)
            self._map = np.asarray(np.memmap(self._rows_file, self.dtype, "r", shape=shape))
        return self._map

    def _as_autotl_error(self, error: OSError, num_rows: int) -> AutotlError:
        if full := as_disk_full(error, self.folder.parent, num_rows * (self.row_bytes + RECORD.itemsize)):
            return full
        return StoreUnavailable(
            f"The feature store {str(self.folder.parent)!r} can't be used any more: {error.strerror or error}. "
            "Was it removed, or its disk unmounted?"
        )


def _cast(rows: np.ndarray, out: np.ndarray) -> None:
    """Cast `rows` into `out`. PyTorch, where it is already imported, casts float16 five times as fast as NumPy."""
    torch = sys.modules.get("torch")
    if torch and (rows.dtype, out.dtype) == (np.float16, np.float32):
        torch.from_numpy(out).copy_(torch.from_numpy(rows))
    else:
        out[:] = rows


def _seals(records: np.ndarray) -> np.ndarray:
    integers = records.view("<u4").reshape(len(records), -1)
    return np.bitwise_xor.reduce(integers[:, :-1], axis=1) ^ np.uint32(SEAL)


def live_markers(folder: Path, *, remove_dead: bool = False) -> list[Path]:
    """The markers of tables that are open. The marker of a process that died can be locked.

    Args:
        folder: of one spec.
        remove_dead: remove the markers of processes that died. Requires the store's lock.
    """
    live = []
    for path in folder.glob("used-by-*.lock"):
        try:
            with FileLock(path, thread_local=False, blocking=False):
                pass
            if remove_dead:
                path.unlink(missing_ok=True)
        except LockTimeout:
            live.append(path)
    return live


def _end_use(marker: FileLock, folder: Path, owner: int) -> None:
    """Record the time of the last use, and remove the marker."""
    if os.getpid() != owner:  # in a forked child: the parent still uses the folder
        return
    try:
        os.utime(folder / "spec.json")
        marker.release()
        Path(marker.lock_file).unlink(missing_ok=True)
    except OSError:
        marker.release()  # the folder was removed
