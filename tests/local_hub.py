"""A stand-in for the Hugging Face hub on loopback: slow, cut off, damaged, gated, or gone, as a test asks."""

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

CHUNK = 16 << 10


@dataclass
class Entry:
    """One file of a repository."""

    content: bytes
    bytes_per_second: float = float("inf")
    cuts: list[int] = field(default_factory=list)
    """Positions at which the next connections are cut, one each."""
    damaged: bool = False
    """Another byte arrives than the stated digest is of."""
    page: bytes | None = None
    """Arrives in the file's place, as from a network that wants a login."""
    status: int = 200
    error_code: str = ""
    states_digest: bool = True


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str | None
    has_token: bool


class LocalHub:
    """Serves `entries[repository, filename]`; large files come from another host name, as the hub's do."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        """Where clients keep what they download."""
        self.entries: dict[tuple[str, str], Entry] = {}
        self.requests: list[Request] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub._answer(self)

            def do_GET(self) -> None:
                hub._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add(self, repository: str, file: Path | bytes, filename: str = "model.safetensors", **options: object) -> Entry:
        content = file if isinstance(file, bytes) else file.read_bytes()
        self.entries[repository, filename] = Entry(content, **options)  # type: ignore[arg-type]
        return self.entries[repository, filename]

    def downloads(self, repository: str) -> list[str | None]:
        """The ranges of the requests for a repository's content."""
        return [r.range for r in self.requests if r.method == "GET" and r.path.startswith(f"/cdn/{repository}/")]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.lstrip("/")
        has_token = "Authorization" in handler.headers
        self.requests.append(Request(handler.command, handler.path, handler.headers.get("Range"), has_token))
        is_content = path.startswith("cdn/")
        repository, _, filename = path.removeprefix("cdn/").rpartition("/")
        entry = self.entries.get((repository.removesuffix("/resolve/main"), filename))
        if entry is None:
            return _reply(handler, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": "c" * 40})
        if entry.status != 200:
            return _reply(handler, entry.status, {"X-Error-Code": entry.error_code} if entry.error_code else {})
        if is_content:
            return self._send(handler, entry)
        etag = hashlib.sha256(entry.content).hexdigest()
        stated = {
            "X-Repo-Commit": "c" * 40,
            "X-Linked-Etag": f'"{etag if entry.states_digest else etag[:40]}"',
            "X-Linked-Size": str(len(entry.content)),
            "Location": f"http://localhost:{self.port}/cdn/{repository.removesuffix('/resolve/main')}/{filename}",
        }
        return _reply(handler, 302, stated)

    def _send(self, handler: BaseHTTPRequestHandler, entry: Entry) -> None:
        content = bytearray(entry.content)
        if entry.page is not None:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(entry.page)))
            handler.end_headers()
            handler.wfile.write(entry.page)
            return
        if entry.damaged:
            content[-1] ^= 1
        first = int((handler.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        handler.send_response(206 if first else 200)
        handler.send_header("Content-Length", str(len(content) - first))
        if first:
            handler.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        handler.end_headers()
        end = entry.cuts.pop(0) if entry.cuts else len(content)
        handler.close_connection = True
        for start in range(first, end, CHUNK):
            handler.wfile.write(content[start : min(start + CHUNK, end)])
            time.sleep(CHUNK / entry.bytes_per_second)


def _reply(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@pytest.fixture
def local_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A hub on loopback with an empty cache, for this process and for those that it starts."""
    hub = LocalHub(tmp_path / "hub-cache")
    hub.cache.mkdir()
    values = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_CACHE": str(hub.cache), "NO_PROXY": "127.0.0.1,localhost"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    for name in ("AUTOTL_OFFLINE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub.cache))
    yield hub
    hub.close()
