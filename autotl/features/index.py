"""A process's copy of a feature table's index: which row an image has, in sorted arrays of 29 bytes an image."""

import threading
from collections.abc import Callable

import numpy as np

from autotl.data.columns import DigestColumn, DigestLookup

__all__ = ["RECORD", "TableIndex"]

RECORD = np.dtype([("digest", "u1", 16), ("row", "<u8"), ("crc", "<u4"), ("seal", "<u4")])
SMALL_RUN = 4096
"""Records that are kept apart until there are more, or a quarter of the others: a merge copies everything."""
DAMAGED = -1
"""Row of an image whose row has a wrong checksum."""


class _Run:
    """Records, sorted by digest. Of equal digests the last one counts."""

    def __init__(self, digests: DigestColumn, rows: np.ndarray, crcs: np.ndarray, unchecked: np.ndarray):
        self.lookup = DigestLookup(digests)
        order = self.lookup.order
        self.rows, self.crcs, self.unchecked = rows[order], crcs[order], unchecked[order]
        self.lookup.forget_order()

    def __len__(self) -> int:
        return len(self.rows)


class TableIndex:
    """It outlives a use of the folder: the next use reads only the records that were added since, and checks no row
    twice. Callers hold its lock."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.bytes_read = 0
        """Bytes of the index file that are here."""
        self.next_row = 0
        self.num_rows = 0
        """Rows in `rows.bin` at the last refresh."""
        self._runs: list[_Run] = []

    def clear(self) -> None:
        """Forget all records."""
        self._runs, self.bytes_read = [], 0

    def add(self, records: np.ndarray) -> None:
        """Add RECORDs. An image that is here already gets its new row."""
        digests = DigestColumn(records["digest"])
        unchecked = np.ones(len(records), bool)
        self._runs.append(_Run(digests, records["row"].astype(np.int64), records["crc"].copy(), unchecked))
        if sum(map(len, self._runs[1:])) > max(SMALL_RUN, len(self._runs[0]) // 4):
            self._merge()

    def _merge(self) -> None:
        runs = self._runs
        digests = np.concatenate([run.lookup.digests().bytes for run in runs])
        columns = [np.concatenate([getattr(run, n) for run in runs]) for n in ("rows", "crcs", "unchecked")]
        _, last = np.unique(digests[::-1].view("V16").ravel(), return_index=True)
        kept = np.sort(len(digests) - 1 - last)
        self._runs = [_Run(DigestColumn(digests[kept]), *(column[kept] for column in columns))]

    def rows_of(self, digests: DigestColumn, is_sound: Callable[[int, int], bool] | None = None) -> np.ndarray:
        """int64 [n]: the row of each image, -1 where it has none.

        Args:
            is_sound: whether a row has a checksum. Called once for each row; one that hasn't counts as none.
        """
        rows = np.full(len(digests), -1)
        unknown = np.ones(len(digests), bool)
        for run in reversed(self._runs):
            place = run.lookup.find_sorted(digests)
            here = unknown & (place >= 0)
            if is_sound:
                for i in np.flatnonzero(here & run.unchecked[place]):  # in the order asked for, close to that on disk
                    j = place[i]
                    if run.unchecked[j] and not is_sound(int(run.rows[j]), int(run.crcs[j])):
                        run.rows[j] = DAMAGED
                    run.unchecked[j] = False
            rows[here] = run.rows[place[here]]
            unknown &= ~here
        return rows

    def mark_sound(self, digests: DigestColumn) -> None:
        """Note that these images' rows need no check: this process has just written them."""
        for run in self._runs:
            place = run.lookup.find_sorted(digests)
            run.unchecked[place[place >= 0]] = False

    def digests(self) -> DigestColumn:
        """All images that have a row."""
        if len(self._runs) > 1:
            self._merge()
        if not self._runs:
            return DigestColumn([])
        (run,) = self._runs
        return run.lookup.digests().take(run.rows != DAMAGED)
