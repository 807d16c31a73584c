"""A worker's link to a study whose folder it can't read: its coordinator serves journal, files and images."""

import base64
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage

from autotl.clusters import Site
from autotl.data.members import member_path, register_reader
from autotl.errors import AutotlError, HostUnfit
from autotl.registry import Registry
from autotl.study.kept_database import as_reached_here, keep_database
from autotl.study.served import ServedJournal
from autotl.study.storage import storage_on
from autotl.workers.messages import Context
from autotl.workers.requests import (
    CHUNK_BYTES,
    ClaimBucket,
    ExchangeLogs,
    ListFiles,
    PlaceFiles,
    ReadFile,
    ReadImage,
    Request,
    WriteFile,
)

__all__ = ["StudyLink", "require_same_weights"]

SERVED = ".served"


def require_same_weights(context: Context, registry: Registry) -> None:
    """Raises HostUnfit where the weights of a backbone are missing here, or are not those of the coordinator."""
    for name, digest in context.backbone_digests.items():
        try:
            ours = registry.backbone(name).digest
        except AutotlError as error:
            raise HostUnfit(f"backbone {name} can't be used there: {error}") from error
        if ours != digest:
            raise HostUnfit(
                f"backbone {name} has other weights there (digest {ours[:12]}, here {digest[:12]}). Copy the file from "
                "here, or leave the backbone out"
            )


class StudyLink:
    """Reads and writes the study through requests.

    Args:
        ask: sends the request that it is given a number for, and returns the answer's value. Raises OSError where the
            coordinator refuses.
        site: this worker's own folders.
    """

    def __init__(self, ask: Callable[[Callable[[int], Request]], Any], site: Site):
        self.ask, self.site = ask, site
        self.folder = Path(site.folder)
        """Stands in for the study's folder."""
        self.home = Path()
        """The study's folder on the coordinator's machine."""
        self._journal: ServedJournal | None = None

    def expire(self) -> None:
        """Have the next read of the study see what others have written until now."""
        if self._journal:
            self._journal.expire()

    def flush(self) -> None:
        """Send what this worker has written to the study and not sent yet."""
        if self._journal:
            self._journal.flush()

    def localize(self, context: Context) -> Context:
        """The context with this host's folders. Images that are not on this host are read through the coordinator."""
        self.home = context.folder
        register_reader(SERVED, self._read_image)
        served = self.folder / f"images{SERVED}"
        paths = [
            path if os.path.exists(path) else member_path(served, str(index), path.name)  # noqa: PTH110 - a million
            for index, path in enumerate(context.dataset.paths)
        ]
        config = context.config.model_copy(update={"cache": Path(self.site.cache)})
        return replace(context, folder=self.folder, config=config, dataset=replace(context.dataset, paths=tuple(paths)))

    def storage(self, database: tuple[str, str] | None) -> BaseStorage:
        """The study's storage: what the coordinator serves, or a database, which this host reaches by itself.

        Args:
            database: its URL and the study's name there.

        Raises:
            HostUnfit: this host can't reach the database, or reaches another one.
        """
        if database is None:
            self._journal = ServedJournal(self._exchange)
            return storage_on(self._journal)
        from autotl.study.database import open_database

        url, name = as_reached_here(database[0]), database[1]
        try:
            storage = open_database(url, wait=True)
            names = [study.study_name for study in storage.get_all_studies()]
        except AutotlError as error:
            raise HostUnfit(f"the study's database can't be used there: {error}") from error
        if name not in names:
            raise HostUnfit(f"{url}, as AUTOTL_STORAGE has it there, has no study called {name!r}")
        keep_database(self.folder, url, name)
        return storage

    def _exchange(self, logs: list[dict[str, Any]], first: int) -> list[dict[str, Any]]:
        lines = self.ask(lambda n: ExchangeLogs(n, tuple(logs), first))
        return [json.loads(line) for line in lines.split("\n") if line]

    def claim(self, table: str, bucket: int) -> bool:
        """Whether this worker, and no other of the search, is to extract a bucket of a table of features."""
        return bool(self.ask(lambda n: ClaimBucket(n, table, bucket)))

    def release(self, table: str, bucket: int) -> None:
        """Let other workers extract what a claimed bucket still lacks."""
        self.ask(lambda n: ClaimBucket(n, table, bucket, release=True))

    def publish(self, *names: str) -> None:
        """Send files or folders to the study's folder. Each replaces what is there, once it is whole; a file that
        is not here is removed there."""
        for name in names:
            local, upload = self.folder / name, secrets.token_hex(8)
            files = sorted(path for path in local.rglob("*") if path.is_file()) if local.is_dir() else [local]
            small, size = dict[str, str](), 0
            for file in files if local.exists() else []:
                path, content = file.relative_to(self.folder).as_posix(), file.stat().st_size
                if size + content > CHUNK_BYTES:
                    self._send(upload, file, path)
                else:
                    small[path], size = base64.b64encode(file.read_bytes()).decode(), size + content
            self.ask(lambda n, u=upload, p=name, f=small: PlaceFiles(n, u, p, f))  # type: ignore[misc]

    def _send(self, upload: str, file: Path, name: str) -> None:
        offset = 0
        with file.open("rb") as content:
            while chunk := content.read(CHUNK_BYTES):
                text = base64.b64encode(chunk).decode()
                self.ask(lambda n, o=offset, t=text: WriteFile(n, upload, name, t, o))  # type: ignore[misc]
                offset += len(chunk)

    def fetch(self, *names: str) -> None:
        """Bring folders or files of the study here. A file that is here with the same size is not fetched again."""
        for name in names:
            for path, size in self.ask(lambda n, folder=name: ListFiles(n, folder)).items():  # type: ignore[misc]
                local = self.folder / path
                if not local.exists() or local.stat().st_size != size:
                    self._receive(path, size, local)

    def _receive(self, path: str, size: int, local: Path) -> None:
        local.parent.mkdir(parents=True, exist_ok=True)
        with local.open("wb") as file:
            while file.tell() < size:
                chunk = base64.b64decode(self.ask(lambda n: ReadFile(n, path, file.tell())))
                if not chunk:
                    raise OSError(5, "the file became shorter while it was fetched", path)
                file.write(chunk)

    def _read_image(self, file: Path, place: str) -> bytes:
        return base64.b64decode(self.ask(lambda n: ReadImage(n, int(place))))
