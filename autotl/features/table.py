"""Recorded rows of one kind on disk: one row an image, found by the image's digest, shared by processes.

A folder holds `rows.bin` (the rows, one after another, append only) and `index.bin` (a record of 32 bytes for each
row: image digest, row number, checksum). StoredSamples are on the disk before their records are written, a record carries a
seal, and a row is checked against its checksum before a process first uses it. So whoever is killed, and whenever,
leaves nothing that a reader could take for whole: a torn record is passed over, and the next writer cuts it off.
"""

import os
import re
import secrets
import sys
import threading
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock
from filelock import Timeout as Held

from autotl.atomic_io import as_disk_full
from autotl.errors import AutotlError

__all__ = ["RECORD", "TableIndex", "FeatureTable", "StoreFull", "StoreUnavailable", "live_markers", "to_stored_dtype"]

RECORD = np.dtype([("digest", "u1", 16), ("row", "<u8"), ("crc", "<u4"), ("seal", "<u4")])
SEAL = 0x4C544F41  # so that a record of zeros, which a lost write can leave, isn't a sound one
CAST = 32_767
"""Numbers cast at a time, where rows are shorter: they stay in the chip's cache, and PyTorch casts so few without
waking its other threads, which costs milliseconds where other processes use the cores."""


class StoreUnavailable(AutotlError):
    """The store's folder can't be written or is gone."""


class StoreFull(AutotlError):
    """What living processes use fills the store's size limit."""


def to_stored_dtype(rows: np.ndarray, dtype: str) -> np.ndarray:
    """`rows` in the dtype that is stored. What float16 can't hold becomes its largest value, not infinity."""
    if rows.dtype == np.dtype(dtype):
        return rows
    if np.dtype(dtype).kind == "f":
        largest = np.finfo(dtype).max
        rows = np.clip(rows, -largest, largest)
    return rows.astype(dtype, casting="same_kind")


class TableIndex:
    """What a process knows of a folder's rows. It outlives a use of the folder: the next one reads on from here, and
    checks no row twice."""

    def __init__(self) -> None:
        self.thread = threading.RLock()
        self.row_of: dict[str, int] = {}
        self.unchecked: dict[str, int] = {}  # digests of rows that this process hasn't used yet, to their checksums
        self.read_to = 0  # bytes of the index that are in the dictionaries
        self.next_row = 0
        self.n_rows = 0  # that the file of rows holds, as far as the dictionaries know


class FeatureTable:
    """What is recorded under one spec. Use it from any thread; `FeatureStore.open` makes it.

    It marks the folder as in use until it is closed, collected, or its process ends in whatever way. Image digests
    are 32 hex digits.
    """

    n_buckets = 32
    """Work is shared out between processes by buckets of image digests (see `autotl.features.store.record`)."""

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, ...],
        dtype: str,
        make_room: Callable[[int], None] = lambda n_bytes: None,
        known: TableIndex | None = None,
    ):
        self.folder, self.shape, self.dtype = folder, tuple(shape), np.dtype(dtype)
        self.row_bytes = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        self._make_room = make_room
        self._rows_file, self._index_file = folder / "rows.bin", folder / "index.bin"
        self._known = known or TableIndex()
        self._map = np.empty((0, *self.shape), self.dtype)
        marker = FileLock(folder / f"used-by-{os.getpid()}-{secrets.token_hex(4)}.lock", thread_local=False)
        marker.acquire()
        self.close = weakref.finalize(self, _leave, marker, folder, os.getpid())
        """Ends the use of this folder: from now on it may be pruned."""
        for path in (self._rows_file, self._index_file):
            path.touch()

    def __len__(self) -> int:
        """How many images have a row."""
        with self._known.thread:
            self._refresh()
            return len(self._known.row_of)

    def missing(self, digests: Sequence[str]) -> list[str]:
        """Those of `digests` that have no sound row, each once, in their order."""
        with self._known.thread:
            self._refresh()
            wanted = dict.fromkeys(digests)
            self._drop_damaged(wanted)
            return [d for d in wanted if d not in self._known.row_of]

    def read(self, digests: Sequence[str], dtype: str | None = None, columns: slice = slice(None)) -> np.ndarray:
        """The rows [n, *shape] of `digests` in this order, as stored or cast to `dtype`; of each the `columns` alone
        (of its first axis).

        Raises KeyError for digests that aren't recorded: `autotl.features.store.record` them first.
        """
        with self._known.thread:
            if missing := self.missing(digests):
                raise KeyError(f"{len(missing)} of {len(digests)} images have no row here, the first is {missing[0]}")
            rows = np.fromiter((self._known.row_of[d] for d in digests), np.int64, len(digests))
            source = self._mapped()[:, columns]
        if dtype is None or np.dtype(dtype) == self.dtype:
            run = len(rows) and bool((np.diff(rows) == 1).all())
            return source[rows[0] : rows[-1] + 1].copy() if run else source[rows]
        out = np.empty((len(rows), *source.shape[1:]), dtype)
        step = max(1, CAST // max(1, int(np.prod(source.shape[1:]))))
        for start in range(0, len(rows), step):
            _cast(source[rows[start : start + step]], out[start : start + step])
        return out

    def append(self, digests: Sequence[str], rows: np.ndarray) -> int:
        """Record `rows` [n, *shape] and return how many were new: an image that has its row keeps it.

        Raises StoreFull where the size limit leaves no room, DiskFull where the disk has none, and StoreUnavailable
        where the folder is gone.
        """
        rows = to_stored_dtype(np.asarray(rows), self.dtype.str)
        if rows.shape != (len(digests), *self.shape):
            raise ValueError(f"rows must have shape {(len(digests), *self.shape)}, got {rows.shape}")
        if bad := [d for d in digests if not re.fullmatch("[0-9a-f]{32}", d)]:
            raise ValueError(f"an image digest has 32 hex digits: {bad[0]!r}")
        try:
            with FileLock(self.folder / "write.lock", thread_local=False), self._known.thread:
                self._cut_torn_record()
                position = {d: i for i, d in enumerate(digests)}
                fresh = [position[d] for d in self.missing(digests)]
                if fresh:
                    self._make_room(len(fresh) * (self.row_bytes + RECORD.itemsize))
                    self._write([digests[i] for i in fresh], np.ascontiguousarray(rows[fresh]))
                    self._refresh()
                    for i in fresh:  # what this process has just written it needn't read again
                        self._known.unchecked.pop(digests[i], None)
        except OSError as error:
            raise self._trouble(error, len(digests)) from error
        return len(fresh)

    @contextmanager
    def claim(self, bucket: int, block: bool = False) -> Iterator[bool]:
        """Hold a bucket while computing what is missing in it: True where it is ours until the `with` ends.

        The claim is a lock on a file, so it ends with the process that holds it. Look again at what is missing once
        it is yours. With `block` it waits for its turn.
        """
        lock = FileLock(self.folder / f"bucket-{bucket:02}.lock", thread_local=False)
        try:
            lock.acquire(blocking=block)
        except Held:
            yield False
            return
        except OSError as error:
            raise self._trouble(error, 0) from error
        try:
            yield True
        finally:
            lock.release()

    def bucket(self, digest: str) -> int:
        return int(digest[-2:], 16) % self.n_buckets  # the last digits: they differ also where digests are counted up

    def drop_damaged(self) -> list[str]:
        """Check every row, make the index forget those that aren't as they were written, and return their digests."""
        with FileLock(self.folder / "write.lock", thread_local=False), self._known.thread:
            self._known.row_of, self._known.unchecked, self._known.read_to = {}, {}, 0
            self._refresh()
            listed = list(self._known.row_of)
            damaged = self.missing(listed)
            if damaged:
                records = np.fromfile(self._index_file, RECORD)
                forget = {bytes.fromhex(d) for d in damaged}
                records["seal"][[r.tobytes() in forget for r in records["digest"]]] = 0
                with self._index_file.open("r+b") as file:
                    file.write(records.tobytes())
            return damaged

    def _write(self, digests: list[str], rows: np.ndarray) -> None:
        records = np.zeros(len(digests), RECORD)
        records["digest"] = np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(-1, 16)
        records["row"] = np.arange(self._known.next_row, self._known.next_row + len(digests))
        records["crc"] = [zlib.crc32(row) for row in rows]
        records["seal"] = _seals(records)
        with self._rows_file.open("r+b") as file:
            # over what a killed writer may have left: rows that no record names
            file.seek(self._known.next_row * self.row_bytes)
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
        """Take in the records that were written since the last look."""
        try:
            n_new = (self._index_file.stat().st_size - self._known.read_to) // RECORD.itemsize
            if n_new <= 0:
                return
            records = np.fromfile(self._index_file, RECORD, n_new, offset=self._known.read_to)
            n_rows = self._rows_file.stat().st_size // self.row_bytes
        except OSError as error:
            raise self._trouble(error, 0) from error
        sealed = np.flatnonzero(records["seal"] == _seals(records))
        if not len(sealed):
            return
        # a broken last record may be one that is being written: look at it again next time
        self._known.read_to += int(sealed[-1] + 1) * RECORD.itemsize
        records = records[sealed]
        self._known.next_row = max(self._known.next_row, int(records["row"].max()) + 1)
        self._known.n_rows = n_rows
        records = records[records["row"] < n_rows]  # a crash of the machine can lose the end of the rows
        digits = records["digest"].tobytes().hex()
        digests = [digits[i : i + 32] for i in range(0, len(digits), 32)]
        self._known.row_of.update(zip(digests, records["row"].tolist(), strict=True))
        self._known.unchecked.update(zip(digests, records["crc"].tolist(), strict=True))

    def _mapped(self) -> np.ndarray:
        """All rows that there are; any of them may be a torn one, which no record names."""
        if len(self._map) < self._known.n_rows:
            shape = (self._known.n_rows, *self.shape)
            self._map = np.asarray(np.memmap(self._rows_file, self.dtype, "r", shape=shape))
        return self._map

    def _drop_damaged(self, digests: dict[str, None]) -> None:
        """Before rows are used for the first time here: those that fail their checksum count as missing."""
        if not self._known.unchecked:
            return
        for digest in digests:  # in their order, which is near that of the rows on the disk
            crc = self._known.unchecked.pop(digest, None)
            if crc is not None and zlib.crc32(self._mapped()[self._known.row_of[digest]]) != crc:
                del self._known.row_of[digest]

    def _trouble(self, error: OSError, n_rows: int) -> AutotlError:
        if full := as_disk_full(error, self.folder.parent, n_rows * (self.row_bytes + RECORD.itemsize)):
            return full
        return StoreUnavailable(
            f"The feature store {str(self.folder.parent)!r} can't be used any more: {error.strerror or error}. "
            "Was it removed, or its disk unmounted?"
        )


def _cast(rows: np.ndarray, out: np.ndarray) -> None:
    """NumPy casts float16 one number at a time; PyTorch, where the process has it anyway, five times as fast."""
    torch = sys.modules.get("torch")
    if torch and (rows.dtype, out.dtype) == (np.float16, np.float32):
        torch.from_numpy(out).copy_(torch.from_numpy(rows))
    else:
        out[:] = rows


def _seals(records: np.ndarray) -> np.ndarray:
    words = records.view("<u4").reshape(len(records), -1)
    return np.bitwise_xor.reduce(words[:, :-1], axis=1) ^ np.uint32(SEAL)


def live_markers(folder: Path, tidy: bool = False) -> list[Path]:
    """The markers of living users. A dead one's can be locked; with `tidy` it is removed (under the store's lock)."""
    held = []
    for path in folder.glob("used-by-*.lock"):
        try:
            with FileLock(path, thread_local=False, blocking=False):
                pass
            if tidy:
                path.unlink(missing_ok=True)
        except Held:
            held.append(path)
    return held


def _leave(marker: FileLock, folder: Path, owner: int) -> None:
    """Note the last use, and give the folder free."""
    if os.getpid() != owner:  # a forked child ends: its parent goes on
        return
    try:
        os.utime(folder / "spec.json")
        marker.release()
        Path(marker.lock_file).unlink(missing_ok=True)
    except OSError:
        marker.release()  # the folder went away before us
