"""The coordinator's answers to workers that can't read the study's folder: its journal, its files, its images.

A worker may be on a host that somebody else administers, so every request is checked: only a trial's own operations
enter the journal, and only files that workers make are written.
"""

import base64
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autotl.data.members import read_image
from autotl.study.storage import Journal
from autotl.workers.requests import (
    CHUNK_BYTES,
    Answer,
    ClaimBucket,
    ExchangeLogs,
    ListFiles,
    PlaceFiles,
    ReadFile,
    ReadImage,
    Request,
    WriteFile,
)
from autotl.workers.trial_logs import checked

__all__ = ["StudyService"]

FILES = re.compile(
    r"trials(/\d{5,}(/.+)?)?|model(/.+)?|artifacts(/.+)?"
    r"|(result|alignment)\.json|(leaderboard|test_images)\.csv|report\.html|test\.npz"
)
INCOMING = "cache/incoming"
"""Where files grow until they are whole; the coordinator removes the study's cache when the search ends."""


class StudyService:
    """Answers requests for one study.

    Args:
        folder: the study's.
        journal: the study's; None where it is in a database, which workers reach by themselves.
        images: the image files, by their index in the data set.
    """

    def __init__(self, folder: Path, journal: Journal | None, images: Sequence[Path]):
        self.folder, self.journal, self.images = folder, journal, images
        self._claims: dict[tuple[str, int], str] = {}
        """The worker that extracts each bucket of a table of features."""

    def forget(self, worker: str) -> None:
        """A worker is gone: others may extract what it has claimed."""
        self._claims = {claimed: by for claimed, by in self._claims.items() if by != worker}

    def answer(self, worker: str, request: Request) -> Answer:
        """The answer to a worker's request, with an error where it is refused or fails."""
        if isinstance(request, ClaimBucket):
            return Answer(request.number, self._claim(worker, request))
        try:
            return Answer(request.number, self._value(request))
        except Exception as error:  # a host may send anything: no request ends the search
            return Answer(request.number, error=f"{type(error).__name__}: {error}"[:500])

    def _claim(self, worker: str, request: ClaimBucket) -> bool:
        bucket = request.table, request.bucket
        holds = self._claims.setdefault(bucket, worker) == worker
        if holds and request.release:
            del self._claims[bucket]
        return holds

    def _value(self, request: Request) -> Any:
        match request:
            case ExchangeLogs(_, logs, first):
                return self._exchange(logs, first)
            case ListFiles(_, folder):
                root = self._path(folder)
                found = [root] if root.is_file() else root.rglob("*")
                files = (path for path in found if path.is_file() and not path.is_symlink())
                return {path.relative_to(self.folder).as_posix(): path.stat().st_size for path in files}
            case ReadFile(_, path, offset):
                with self._path(path).open("rb") as file:
                    file.seek(offset)
                    return base64.b64encode(file.read(CHUNK_BYTES)).decode()
            case WriteFile():
                return self._write(request)
            case PlaceFiles(number, upload, path, files):
                for name, content in files.items():
                    self._write(WriteFile(number, upload, name, content, 0))
                return self._place(self._incoming(upload), path)
            case ReadImage(_, index):
                if index < 0:
                    raise IndexError(index)
                return base64.b64encode(read_image(self.images[index])).decode()

    def _exchange(self, logs: Sequence[Mapping[str, Any]], first: int) -> str:
        if self.journal is None:
            raise ValueError("the study is in a database")
        if first < 0:
            raise ValueError(f"there is no log {first}")
        if logs:
            self.journal.append_logs([checked(log) for log in logs])
        return self.journal.read_lines(first)

    def _path(self, relative: str) -> Path:
        """The path of a file that workers may read and write. Raises ValueError for another, and for a link."""
        parts = relative.split("/")
        if not FILES.fullmatch(relative) or {"", ".", ".."} & set(parts) or "\0" in relative:
            raise ValueError(f"not a file of a trial or a model: {relative!r:.200}")
        path = self.folder.joinpath(*parts)
        if not path.parent.resolve().is_relative_to(self.folder.resolve()) or path.is_symlink():
            raise ValueError(f"{relative!r} is a link")
        return path

    def _incoming(self, upload: str) -> Path:
        if not re.fullmatch("[0-9a-f]{8,64}", upload):
            raise ValueError(f"not the name of an upload: {upload!r:.100}")
        return self.folder / INCOMING / upload

    def _write(self, request: WriteFile) -> None:
        self._path(request.path)
        growing = self._incoming(request.upload) / request.path
        growing.parent.mkdir(parents=True, exist_ok=True)
        with growing.open("ab") as file:
            if file.tell() != request.offset:
                raise ValueError(f"{request.path} has {file.tell()} bytes, not {request.offset}")
            file.write(base64.b64decode(request.content, validate=True))

    def _place(self, incoming: Path, name: str) -> None:
        path, uploaded = self._path(name), incoming / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not uploaded.exists():
            path.unlink(missing_ok=True)
            return
        if uploaded.is_dir() and path.exists():
            path.rename(incoming / "replaced")
        uploaded.replace(path)
        shutil.rmtree(incoming, ignore_errors=True)
