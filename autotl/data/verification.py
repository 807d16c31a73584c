"""Checks of image files: the digest of each one's bytes, and whether it decodes. Remembered between runs."""

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import PIL

from autotl.data.decoding import UndecodableImage
from autotl.data.sandbox import Readers

__all__ = ["Check", "check_files", "digest_file"]

Progress = Callable[[int, int], None]
"""Called with files done and files in all."""


@dataclass(frozen=True)
class Check:
    """`reason` says why the file doesn't decode, or is "". `digest` is of its bytes, or "" where they couldn't be read
    this time: such a check isn't remembered. `thumbnail` is what `autotl.data.decoding.verify` returns."""

    digest: str
    reason: str = ""
    thumbnail: bytes = b""


@dataclass(frozen=True)
class _State:
    """What tells that a file is still the one that was checked."""

    path: str  # absolute
    size: int
    mtime_ns: int
    ctime_ns: int
    """Tells where a tool put other bytes there and set the time of change back."""


def digest_file(path: str | os.PathLike[str]) -> str:
    """BLAKE2b of a file's bytes: 32 hex digits. Raises OSError."""
    digest = hashlib.blake2b(digest_size=16)
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def check_files(
    paths: Sequence[Path], threads: int = 2, cache: Path | None = None, progress: Progress | None = None
) -> list[Check]:
    """A check of each file, in the order of `paths`.

    Args:
        paths: image files, or what should be.
        threads: how many files are read at the same time.
        cache: a folder. Files that were checked with it before and have kept their path, size and times
            aren't read again. Many processes may share it; one that can't be used costs time, nothing else.
        progress: told how far it is, from the calling thread.
    """
    states = [_state(path) for path in paths]
    known = _remembered(cache, states) if cache else {}
    checks = [known.get(state) if state else None for state in states]
    missing = [i for i, check in enumerate(checks) if check is None]
    done = len(paths) - len(missing)
    if progress:
        progress(done, len(paths))
    with _memory(cache) as remember, Readers() as readers, ThreadPoolExecutor(max(1, threads)) as pool:
        # in portions, so that an interrupted run keeps what it did and stops soon
        for portion in _portions(missing, 512):
            for i, check in zip(portion, pool.map(partial(_check, readers), [paths[i] for i in portion]), strict=True):
                checks[i] = check
                done += 1
                if progress:
                    progress(done, len(paths))
            remember([(state, found) for i in portion if (state := states[i]) and (found := checks[i])])
    return [check for check in checks if check is not None]


def _check(readers: Readers, path: Path) -> Check:
    try:
        digest = digest_file(path) if path.is_file() else ""  # to open a pipe would wait for a writer
    except (OSError, ValueError):
        digest = ""  # verify finds the words
    try:
        thumbnail = readers.verify(path)
    except UndecodableImage as error:
        return Check("" if error.passing else digest, str(error))
    return Check(digest, thumbnail=thumbnail) if digest else Check("", "it can't be read")


def _state(path: Path) -> _State | None:
    try:
        status = path.stat()  # before its bytes are read: a change in between is found next time
    except (OSError, ValueError):
        return None
    return _State(os.path.abspath(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns)  # noqa: PTH100 - links stay links


def _portions(items: Sequence[int], size: int) -> Iterator[list[int]]:
    remaining = iter(items)
    while portion := list(islice(remaining, size)):
        yield portion


# --- what is remembered

_READER = f"3, Pillow {PIL.__version__}"
"""Another Pillow may read what this one doesn't, so each has its verdicts. A change of `verify` raises the number."""

_FILE = "checks-2.sqlite"
"""A change of the table raises the number."""
_TABLE = """CREATE TABLE IF NOT EXISTS checks (
    path BLOB, reader TEXT, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER,
    digest TEXT, reason TEXT, thumbnail BLOB,
    PRIMARY KEY (path, reader)
) WITHOUT ROWID"""


def _connect(cache: Path) -> sqlite3.Connection:
    return sqlite3.connect(cache / _FILE, timeout=30)


def _remembered(cache: Path, states: Sequence[_State | None]) -> dict[_State, Check]:
    known: dict[_State, Check] = {}
    present = {os.fsencode(state.path): state for state in states if state}  # names needn't be UTF-8
    names = iter(present)
    try:
        if not (cache / _FILE).is_file():
            return known
        with closing(_connect(cache)) as database:
            while some := list(islice(names, 500)):
                marks = ",".join("?" * len(some))
                query = (
                    "SELECT path, size, mtime_ns, ctime_ns, digest, reason, thumbnail FROM checks "
                    f"WHERE reader = ? AND path IN ({marks})"
                )
                for path, size, mtime_ns, ctime_ns, *found in database.execute(query, [_READER, *some]):
                    state = present[path]
                    if (state.size, state.mtime_ns, state.ctime_ns) == (size, mtime_ns, ctime_ns):
                        known[state] = Check(*found)
    except (OSError, sqlite3.Error):
        pass  # they are checked again
    return known


@contextmanager
def _memory(cache: Path | None) -> Iterator[Callable[[list[tuple[_State, Check]]], None]]:
    """A function that remembers checks, until the first time it can't."""
    database: sqlite3.Connection | None = None
    try:
        if cache:
            cache.mkdir(parents=True, exist_ok=True)
            database = _connect(cache)
            database.execute(_TABLE)
        usable = database is not None
    except (OSError, sqlite3.Error):
        usable = False

    def remember(new: list[tuple[_State, Check]]) -> None:
        nonlocal usable
        if database is None or not usable:
            return
        rows = [
            (
                os.fsencode(state.path),
                _READER,
                state.size,
                state.mtime_ns,
                state.ctime_ns,
                check.digest,
                check.reason,
                check.thumbnail,
            )
            for state, check in new
            if check.digest
        ]
        try:
            with database:  # one transaction
                database.executemany("INSERT OR REPLACE INTO checks VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.Error:
            usable = False

    try:
        yield remember
    finally:
        if database is not None:
            database.close()
