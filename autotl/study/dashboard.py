"""Optuna Dashboard for a study's journal and artifacts, on loopback only.

Optuna Dashboard has no password and can delete studies, and every page that the browser shows can send requests to
loopback, some under a name of its own (DNS rebinding). So the server answers requests to its own host name only, and
only with the token that is in the address it prints.
"""

import hmac
import secrets
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from autotl.cookies import cookie_value
from autotl.errors import AutotlError

__all__ = ["DashboardServer", "dashboard_server"]

SANDBOX = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)
"""Policy of a file in a study's folder, which may be a stranger's: it can't act as the dashboard, nor load anything."""

HOSTS = {"127.0.0.1", "localhost"}
READING = {"GET", "HEAD"}
CONDITIONS = {"HTTP_IF_MODIFIED_SINCE", "HTTP_IF_NONE_MATCH", "HTTP_IF_RANGE", "HTTP_RANGE"}
REPORT_FILE = "report.html"
CHANGING = ("AddBox", "Delete", "DriveFileRenameOutline", "Edit", "StopCircle")
"""Icons (of Material UI, which names them in the page) on the buttons that create, delete, rename, edit and fail."""
HIDE_CHANGING = (
    "<style>"
    + ", ".join(f'button:has([data-testid="{icon}Icon"])' for icon in CHANGING)
    + ', .MuiCard-root:has(input[type="file"]):not(:has(.MuiCard-root)) { display: none !important }</style>'
).encode()
"""In the head of a read-only dashboard's page: these buttons, and the card that takes files, are not shown."""


class DashboardServer(ThreadingMixIn, WSGIServer):
    """Serves requests in threads: the dashboard's page sends several at once."""

    daemon_threads = True
    token = ""

    @property
    def url(self) -> str:
        """The address that opens the dashboard in a browser."""
        return f"http://127.0.0.1:{self.server_port}/dashboard?token={self.token}"

    def report_url(self, study: str) -> str:
        """The address that opens the report of a study."""
        return f"http://127.0.0.1:{self.server_port}/report/{quote(study)}?token={self.token}"


class _SilentHandler(WSGIRequestHandler):
    """Logs no requests."""

    def log_message(self, format: str, *arguments: Any) -> None: ...


class _Guard:
    """WSGI middleware: passes on only requests to a loopback host name that carry the token.

    The first request has the token in its address; it is answered by a cookie and the address without the token.
    """

    def __init__(
        self, application: Callable[..., Iterable[bytes]], token: str, folders: Mapping[str, Path], *, read_only: bool
    ):
        self.application, self.token, self.folders, self.read_only = application, token, folders, read_only

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST", "")
        if _host_name(host) not in HOSTS:
            return _refuse(start_response, "403 Forbidden", "The dashboard answers to 127.0.0.1 and localhost only.")
        origin = environ.get("HTTP_ORIGIN")
        if origin is not None and origin.partition("://")[2] != host:
            return _refuse(start_response, "403 Forbidden", "The dashboard answers its own pages only.")
        cookie = f"autotl-{environ['SERVER_PORT']}"  # browsers share cookies among the ports of a host
        query = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        if self._is_token(dict(query).get("token", "")):
            left = urlencode([(key, value) for key, value in query if key != "token"])
            # one slash: an address that starts with two would lead to another host
            path = "/" + quote(environ.get("PATH_INFO", "").encode("latin-1").lstrip(b"/"))
            headers = [
                ("Location", path + (f"?{left}" if left else "")),
                ("Set-Cookie", f"{cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict"),
                ("Referrer-Policy", "no-referrer"),
                ("Content-Length", "0"),
            ]
            start_response("303 See Other", headers)
            return [b""]
        if not self._is_token(cookie_value(environ.get("HTTP_COOKIE", ""), cookie) or ""):
            return _refuse(
                start_response, "403 Forbidden", "Open the address that `autotl dashboard` has printed: it has a token."
            )
        if self.read_only and environ["REQUEST_METHOD"] not in READING:
            return _refuse(start_response, "405 Method Not Allowed", "The dashboard was started with --read-only.")
        path = environ.get("PATH_INFO", "")
        if path == "/report" or path.startswith("/report/"):
            return self._report(path, start_response)
        if path.startswith("/artifacts/"):
            return self.application(environ, _sandboxed(start_response))
        if self.read_only and (path == "/dashboard" or path.startswith("/dashboard/")):
            return self._read_only_page(environ, start_response)
        return self.application(environ, start_response)

    def _read_only_page(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        """The dashboard's page without the buttons that this server would refuse."""
        started: list[tuple[str, list[tuple[str, str]]]] = []
        # whole, and not the copy that a browser has kept of a dashboard that may change the study
        asked = {key: value for key, value in environ.items() if key not in CONDITIONS}
        parts = self.application(asked, lambda status, headers, *more: started.append((status, headers)))
        content = b"".join(parts).replace(b"</head>", HIDE_CHANGING + b"</head>", 1)
        getattr(parts, "close", lambda: None)()
        status, headers = started[0]
        replaced = {"content-length", "cache-control", "last-modified", "etag", "accept-ranges"}
        own = [("Content-Length", str(len(content))), ("Cache-Control", "no-store")]
        start_response(status, [*((name, value) for name, value in headers if name.lower() not in replaced), *own])
        return [content]

    def _report(self, path: str, start_response: Callable[..., Any]) -> list[bytes]:
        """The report of the study that the path names, or of the only one."""
        name = path.removeprefix("/report").strip("/").encode("latin-1").decode("utf-8", "replace")
        folder = self.folders.get(name) or (next(iter(self.folders.values())) if len(self.folders) == 1 else None)
        try:
            content = (folder / REPORT_FILE).read_bytes() if folder else None
        except OSError:
            content = None
        if content is None:
            return _refuse(
                start_response,
                "404 Not Found",
                f"There is no report here. Write it: autotl report {shlex.quote(name or 'NAME')}",
            )
        headers = [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(content)))]
        _sandboxed(start_response)("200 OK", headers)
        return [content]

    def _is_token(self, value: str) -> bool:
        return hmac.compare_digest(value.encode(), self.token.encode())


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _sandboxed(start_response: Callable[..., Any]) -> Callable[..., Any]:
    def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
        added = [("Content-Security-Policy", SANDBOX), ("X-Content-Type-Options", "nosniff")]
        return start_response(status, [*headers, *added], *more)

    return start


def _refuse(start_response: Callable[..., Any], status: str, reason: str) -> list[bytes]:
    content = f"{reason}\n".encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(content)))]
    start_response(status, headers if status.startswith("403") else [*headers, ("Allow", ", ".join(sorted(READING)))])
    return [content]


def dashboard_server(
    folder: Path | Sequence[Path], port: int, *, read_only: bool = False, log: Callable[[str], None] = lambda line: None
) -> DashboardServer:
    """A server that is bound to 127.0.0.1:`port` (0: any free port) and does not serve yet. It also serves reports.

    Args:
        folder: a study's folder; or those of several, which are shown side by side and can't be changed.
        read_only: refuse all requests that could change the study, and hide the buttons that send them.
        log: called with a line for each of several studies that can't be read.

    Raises:
        AutotlError: optuna-dashboard isn't installed, the journal can't be read, or the port is in use.
    """
    try:
        from optuna_dashboard import wsgi
    except ImportError:
        raise AutotlError("Optuna Dashboard isn't installed: pip install 'autotl[dashboard]'") from None
    token = secrets.token_urlsafe(32)
    if isinstance(folder, Path):
        storage, store = _one(folder, read_only=read_only)
        folders = {folder.name: folder}
    else:
        storage, store, folders = _several(folder, log)
        read_only = True
    application = _Guard(wsgi(storage, artifact_store=store), token, folders, read_only=read_only)
    try:
        server = make_server("127.0.0.1", port, application, server_class=DashboardServer, handler_class=_SilentHandler)
    except OSError as error:
        raise AutotlError(f"Port {port} can't be used: {error}. Take a free one: --port 0") from None
    server.token = token
    return server


def _one(folder: Path, *, read_only: bool) -> tuple[Any, Any]:
    """The storage and the artifact store of a study."""
    from optuna.artifacts import FileSystemArtifactStore

    from autotl.study.storage import open_storage

    artifacts = folder / "artifacts"
    if not read_only:
        try:
            artifacts.mkdir(exist_ok=True)  # FileSystemArtifactStore does not create it
        except OSError as error:
            raise AutotlError(f"{folder} can't be written: {error.strerror}. Only look at it: --read-only") from error
    return open_storage(folder), FileSystemArtifactStore(str(artifacts)) if artifacts.is_dir() else None


def _several(folders: Sequence[Path], log: Callable[[str], None]) -> tuple[Any, Any, dict[str, Path]]:
    """Storage and artifact store of all studies that can be read, and their folders by name."""
    from autotl.study.combined_storage import CombinedArtifacts, CombinedStorage
    from autotl.study.storage import open_storage

    studies, readable = {}, {}
    for folder in folders:
        try:
            storage = open_storage(folder)
            numbers = [study._study_id for study in storage.get_all_studies()]
        except AutotlError as error:
            log(f"{folder.name} is left out: {error}")
            continue
        if not numbers:
            log(f"{folder.name} is left out: its journal holds no study.")
            continue
        fullest = max(numbers, key=storage.get_n_trials)  # of one, but for a journal that several searches wrote
        studies[folder.name], readable[folder.name] = (storage, fullest), folder
    artifacts = [folder / "artifacts" for folder in readable.values() if (folder / "artifacts").is_dir()]
    return CombinedStorage(studies), CombinedArtifacts(artifacts), readable
