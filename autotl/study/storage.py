"""A study's journal: Optuna's log of operations, one a line, in a file that survives whoever dies while writing it.

Optuna's own lock is a link that a killed process leaves behind, and everybody waits 30 s for it; ours goes with its
process. A line that such a process has torn is cut off before the next is written, which would merge with it.

Optuna's journal can also keep pickled snapshots, where its backend (Redis is one) offers a place for them: whoever may
write there runs code in every process that opens the study. A file keeps none, and a backend that does is refused.
"""

import json
import os
from io import RawIOBase
from pathlib import Path
from typing import Any

from filelock import FileLock
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.storages.journal._base import BaseJournalSnapshot
from optuna.storages.journal._storage import JournalOperation

from autotl.atomic_io import disk_full, write_atomically
from autotl.errors import AutotlError

__all__ = ["Journal", "open_storage", "storage_on"]

LASTING = {
    JournalOperation.CREATE_STUDY,
    JournalOperation.SET_STUDY_USER_ATTR,
    JournalOperation.CREATE_TRIAL,
    JournalOperation.SET_TRIAL_STATE_VALUES,
}
"""What has to survive a power cut as it is written; it takes along what was written before it."""


class Journal(JournalFileBackend):
    """The file `journal.log` in a study's folder. Whoever writes to it comes through here, for the lock's sake: the
    system takes that back when its process ends, however it ends."""

    def __init__(self, folder: Path):
        self.file = folder / "journal.log"
        self.lock = FileLock(folder / ".journal.lock", poll_interval=0.002)
        super().__init__(str(self.file))

    def repair(self) -> bool:
        """Cut a torn last line; the journal as it was stays beside it. Returns whether there was something to cut."""
        with self.lock:
            return self._repair()

    def _repair(self) -> bool:
        with self.file.open("r+b") as file:
            if not file.seek(0, os.SEEK_END):
                return False
            file.seek(-1, os.SEEK_END)
            if file.read(1) == b"\n":
                return False
            file.seek(0)
            content = file.read()
            write_atomically(_unused(self.file.with_name("journal.log.torn")), content)
            file.truncate(content.rfind(b"\n") + 1)
            os.fsync(file.fileno())
        return True

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Raises DiskFull where there is no room; the journal is then as it was."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        try:
            with self.lock:
                self._repair()
                with self.file.open("ab", buffering=0) as file:
                    before = file.tell()
                    try:
                        _write_all(file, lines)
                        if any(log["op_code"] in LASTING for log in logs):
                            os.fsync(file.fileno())
                    except OSError:
                        file.truncate(before)  # now, since the next writer's repair would want room for a copy
                        raise
        except OSError as error:
            if full := disk_full(error, self.file, len(lines)):
                raise full from error
            raise


def _write_all(file: RawIOBase, content: bytes) -> None:
    left = memoryview(content)
    while left:  # a disk that is nearly full takes a part and says how much
        left = left[file.write(left) or 0 :]


def _unused(path: Path) -> Path:
    """`path`, or the first of `path-2`, `path-3`, … that isn't there."""
    number, found = 1, path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found


def storage_on(backend: BaseJournalBackend) -> JournalStorage:
    """Optuna's storage on a journal. Raises AutotlError where opening it could run code of somebody else's."""
    if isinstance(backend, BaseJournalSnapshot):
        raise AutotlError(
            f"{type(backend).__name__} keeps pickled snapshots: whoever can write them runs code in every process that "
            "opens the study. Keep the study in its folder's journal.log."
        )
    return JournalStorage(backend)


def open_storage(folder: Path) -> JournalStorage:
    """The storage of the study in `folder`. Raises AutotlError where its journal can't be read."""
    journal = Journal(folder)
    try:
        return storage_on(journal)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, AssertionError) as error:
        raise AutotlError(
            f"{journal.file} is no journal that Optuna can read ({type(error).__name__}: {error}). "
            "Give the search another --name, or put the journal back as it was."
        ) from error
