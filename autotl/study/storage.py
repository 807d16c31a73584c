"""A study's journal: Optuna's operations as JSON lines in a file that stays readable when a writer is killed.

Optuna's own lock is a symbolic link: a killed process leaves it behind, and all others wait 30 s for it. The journal
here takes an OS file lock. A line that a killed process has torn is cut before the next one is appended to it.

A journal backend may also keep pickled snapshots (Redis does): then everybody who can write to it can run code in every
process that opens the study. A file keeps none, and backends with snapshots are refused.
"""

import json
import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.storages.journal._base import BaseJournalSnapshot  # noqa: PLC2701 (not exported)
from optuna.storages.journal._storage import JournalOperation  # noqa: PLC2701 (not exported)

from autotl.atomic_io import as_disk_full, write_atomically
from autotl.errors import AutotlError
from autotl.escaping import escape
from autotl.locks import FileLock, NoLocks
from autotl.study.kept_database import kept_database

__all__ = ["Journal", "open_storage", "storage_on"]

SYNCED_OPERATIONS = {
    JournalOperation.CREATE_STUDY,
    JournalOperation.SET_STUDY_USER_ATTR,
    JournalOperation.CREATE_TRIAL,
    JournalOperation.SET_TRIAL_STATE_VALUES,
}
"""Operations after which the file is synced to disk, so that they and all earlier ones survive a power cut."""


class Journal(JournalFileBackend):
    """The file `journal.log` in a study's folder.

    All writers must use this class: it takes an OS file lock, which is released when a process dies.
    """

    def __init__(self, folder: Path):
        self.file = folder / "journal.log"
        self.lock = FileLock(folder / ".journal.lock", poll_interval=0.002)
        self._begins = array("Q", [0])
        """Where each line that `read_lines` has seen begins in the file, and the next."""
        super().__init__(str(self.file))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with self.lock:
                yield
        except NoLocks as error:
            raise AutotlError(
                f"{self.file} can't be locked: {error.strerror}. Move the study to another disk."
            ) from error

    def repair(self) -> bool:
        """Cut a torn last line, and keep a copy of the journal as it was. Returns whether there was such a line."""
        with self._locked():
            return self._cut_torn_line()

    def _cut_torn_line(self) -> bool:
        with self.file.open("r+b") as file:
            if not file.seek(0, os.SEEK_END):
                return False
            file.seek(-1, os.SEEK_END)
            if file.read(1) == b"\n":
                return False
            file.seek(0)
            content = file.read()
            write_atomically(_unused_path(self.file.with_name("journal.log.torn")), content)
            file.truncate(content.rfind(b"\n") + 1)
            os.fsync(file.fileno())
        return True

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append operations. Raises DiskFull where there is no room; the journal is then unchanged."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        try:
            with self._locked():
                self._cut_torn_line()
                with self.file.open("ab", buffering=0) as file:
                    before = file.tell()
                    try:
                        _write_all(file, lines)
                        if any(log["op_code"] in SYNCED_OPERATIONS for log in logs):
                            os.fsync(file.fileno())
                    except OSError:
                        file.truncate(before)  # at once: the next writer's repair would need room for a copy
                        raise
        except OSError as error:
            if full := as_disk_full(error, self.file, len(lines)):
                raise full from error
            raise

    def read_lines(self, first: int) -> str:
        """The logs from number `first` on as they are written, a line each, but for a torn last line. Many processes
        read the same ones, so they are not parsed."""
        with self.file.open("rb") as file:
            file.seek(self._begins[-1])
            for line in file:
                if line.endswith(b"\n"):
                    self._begins.append(self._begins[-1] + len(line))
            if first >= len(self._begins):
                return ""
            file.seek(self._begins[first])
            return file.read(self._begins[-1] - self._begins[first]).decode()


def _write_all(file: RawIOBase, content: bytes) -> None:
    left = memoryview(content)
    while left:  # on a disk that is nearly full, `write` may write a part only
        left = left[file.write(left) or 0 :]


def _unused_path(path: Path) -> Path:
    """`path`, or the first of `path-2`, `path-3`, … that does not exist."""
    number, unused = 1, path
    while unused.exists():
        number += 1
        unused = path.with_name(f"{path.name}-{number}")
    return unused


def storage_on(backend: BaseJournalBackend) -> JournalStorage:
    """Optuna's storage on a journal. Raises AutotlError for a backend with pickled snapshots: opening it could run
    foreign code."""
    if isinstance(backend, BaseJournalSnapshot):
        raise AutotlError(
            f"{type(backend).__name__} keeps pickled snapshots: everybody who can write them can run code in every "
            "process that opens the study. Keep the study in its folder's journal.log."
        )
    return JournalStorage(backend)


def open_storage(folder: Path, *, wait: bool = False, copy: Path | None = None) -> BaseStorage:
    """The storage of the study in `folder`. Raises AutotlError where its journal or its database can't be read.

    Args:
        wait: for a database that can't be reached now.
        copy: the folder of a journal to be read instead.
    """
    if copy is None and (database := kept_database(folder)):
        from autotl.study.database import open_database

        return open_database(database[0], wait=wait)
    journal = Journal(copy or folder)
    try:
        return storage_on(journal)
    except (OSError, AutotlError):
        raise
    except Exception as error:  # a forged line can make Optuna raise nearly any exception
        raise AutotlError(
            f"{journal.file} is not a journal that Optuna can read ({type(error).__name__}: {escape(error)[:300]}). "
            "Give the search another --name, or put the journal back as it was."
        ) from error
