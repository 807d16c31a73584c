"""Verification of image files: the digest of their bytes and whether they decode. A cache keeps the results."""

import os
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import PIL

from autotl.data.decoding import UndecodableImage
from autotl.data.digests import digest_file
from autotl.data.members import containing_file, is_image_file
from autotl.data.sandbox import SandboxedDecoder

__all__ = ["Verification", "verify_files"]

IN_CHILDREN_FROM = 256
"""Number of files from which child processes verify them: Pillow's decoders take turns at Python's lock, and a process
takes longer to start than a few files to decode."""
CHUNK = 16
"""Files that a child gets at a time."""


@dataclass(frozen=True, slots=True)
class Verification:
    """Result for one file."""

    digest: str
    """Of the file's bytes; "" if they can't be read or the failure is transient. Results without a digest are not
    cached."""
    reason: str = ""
    """Why the file can't be decoded; "" if it can."""
    thumbnail: bytes = b""
    """As `autotl.data.decoding.verify` returns it."""


@dataclass(frozen=True, slots=True)
class _FileState:
    """A cached result is valid while the file's state is unchanged."""

    path: str
    """Absolute."""
    size: int
    mtime_ns: int
    ctime_ns: int
    """Changes even if a tool replaces the bytes and restores the modification time."""


def verify_files(
    paths: Sequence[Path],
    threads: int = 2,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Verification]:
    """Verify image files. A file that can't be read or decoded is a result with a reason, not an error.

    Args:
        paths: the files.
        threads: number of files read in parallel.
        cache: a folder, which several processes may share. Files that were verified with it before and have kept
            their path, size and times are not read again. An unusable cache only costs time.
        progress: called in the calling thread with the number of files done and the number of all files.

    Returns:
        A verification for each path, in the same order.
    """
    states = [_state(path) for path in paths]
    cached = _read_cache(cache, states) if cache else {}
    results = [cached.get(state) if state else None for state in states]
    missing = [i for i, result in enumerate(results) if result is None]
    done = len(paths) - len(missing)
    if progress:
        progress(done, len(paths))
    with _cache_writer(cache) as store, SandboxedDecoder() as decoder, ThreadPoolExecutor(max(1, threads)) as pool:
        # chunks, so that an interrupted run keeps its results and stops soon
        size = CHUNK if len(missing) >= IN_CHILDREN_FROM and threads > 1 else 1
        for chunk in _chunks(missing, 512):
            parts = [[paths[i] for i in part] for part in _chunks(chunk, size)]
            verified = (result for part in pool.map(partial(_verify_part, decoder), parts) for result in part)
            for i, result in zip(chunk, verified, strict=True):
                results[i] = result
                done += 1
                if progress:
                    progress(done, len(paths))
            store([(state, new) for i in chunk if (state := states[i]) and (new := results[i])])
    return [result for result in results if result is not None]


def _verify_part(decoder: SandboxedDecoder, paths: Sequence[Path]) -> list[Verification]:
    """Verify files, several in a child process."""
    answers = decoder.verify_many(paths) if len(paths) > 1 else []
    verified = [_result(digest, answer) for digest, answer in answers]
    return verified + [_verify(decoder, path) for path in paths[len(verified) :]]


def _verify(decoder: SandboxedDecoder, path: Path) -> Verification:
    try:
        digest = digest_file(path) if is_image_file(path) else ""  # opening a pipe would wait for a writer
    except (OSError, ValueError):
        digest = ""  # decoder.verify raises the reason
    try:
        return _result(digest, decoder.verify(path))
    except UndecodableImage as error:
        return _result(digest, error)


def _result(digest: str, answer: bytes | UndecodableImage) -> Verification:
    if isinstance(answer, UndecodableImage):
        return Verification("" if answer.transient else digest, str(answer))
    return Verification(digest, thumbnail=answer) if digest else Verification("", "it can't be read")


def _state(path: Path) -> _FileState | None:
    try:
        # before its bytes are read, so that a change in between is noticed by the next run
        status = containing_file(path).stat()
    except (OSError, ValueError):
        return None
    absolute = os.path.abspath(path)  # noqa: PTH100 - keeps symbolic links
    return _FileState(absolute, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _chunks(items: Sequence[int], size: int) -> Iterator[list[int]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk


# --- cache

_DECODER = f"4, Pillow {PIL.__version__}"
"""Results are kept for each Pillow version, because versions decode different files. Bump the number when `verify`
returns other thumbnails or reasons."""

_DATABASE = "verifications-2.sqlite"
"""Bump the number when the table changes."""
_TABLE = """CREATE TABLE IF NOT EXISTS verifications (
    path BLOB, decoder TEXT, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER,
    digest TEXT, reason TEXT, thumbnail BLOB, crc INTEGER,
    PRIMARY KEY (path, decoder)
) WITHOUT ROWID"""


def _crc(*columns: object) -> int:
    """Of the other columns of a row: SQLite has no checksums, and would return a damaged digest as it is."""
    return zlib.crc32(repr(columns).encode(errors="surrogateescape"))


def _discard_damaged(cache: Path, error: Exception) -> None:
    """Remove a database that SQLite can't read, so that a new one is begun."""
    if type(error) is sqlite3.DatabaseError:  # its subclasses mean a lock, a full disk and the like
        with suppress(OSError):
            (cache / _DATABASE).unlink(missing_ok=True)


def _connect(cache: Path) -> sqlite3.Connection:
    return sqlite3.connect(cache / _DATABASE, timeout=30)


def _read_cache(cache: Path, states: Sequence[_FileState | None]) -> dict[_FileState, Verification]:
    """The valid results. An unusable cache counts as empty."""
    cached: dict[_FileState, Verification] = {}
    by_path = {os.fsencode(state.path): state for state in states if state}  # a name may not be UTF-8
    paths = iter(by_path)
    try:
        if not (cache / _DATABASE).is_file():
            return cached
        with closing(_connect(cache)) as database:
            while chunk := list(islice(paths, 500)):
                marks = ",".join("?" * len(chunk))
                query = (
                    "SELECT path, size, mtime_ns, ctime_ns, digest, reason, thumbnail, crc FROM verifications "
                    f"WHERE decoder = ? AND path IN ({marks})"
                )
                for path, size, mtime_ns, ctime_ns, *result, crc in database.execute(query, [_DECODER, *chunk]):
                    state = by_path.get(path)  # None where the path is damaged
                    is_same = state and (state.size, state.mtime_ns, state.ctime_ns) == (size, mtime_ns, ctime_ns)
                    if state and is_same and crc == _crc(path, _DECODER, size, mtime_ns, ctime_ns, *result):
                        cached[state] = Verification(*result)
    except (OSError, sqlite3.Error, UnicodeError) as error:  # the files are verified again
        _discard_damaged(cache, error)
    return cached


@contextmanager
def _cache_writer(cache: Path | None) -> Iterator[Callable[[list[tuple[_FileState, Verification]]], None]]:
    """Yield a function that stores results in the cache. After its first failure it does nothing."""
    database: sqlite3.Connection | None = None
    try:
        if cache:
            cache.mkdir(parents=True, exist_ok=True)
            database = _connect(cache)
            database.execute(_TABLE)
        usable = database is not None
    except (OSError, sqlite3.Error):
        usable = False

    def store(results: list[tuple[_FileState, Verification]]) -> None:
        nonlocal usable
        if database is None or not usable:
            return
        rows = [
            (
                os.fsencode(state.path),
                _DECODER,
                state.size,
                state.mtime_ns,
                state.ctime_ns,
                result.digest,
                result.reason,
                result.thumbnail,
            )
            for state, result in results
            if result.digest
        ]
        insert = "INSERT OR REPLACE INTO verifications VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        try:
            with database:  # one transaction
                database.executemany(insert, [(*row, _crc(*row)) for row in rows])
        except (sqlite3.Error, UnicodeError) as error:  # a reason may quote a name that isn't UTF-8
            usable = False
            if cache:
                _discard_damaged(cache, error)

    try:
        yield store
    finally:
        if database is not None:
            database.close()
