"""Optuna Dashboard for a study's journal and artifacts, on loopback only.

Optuna Dashboard has no password and can delete studies, and every page that the browser shows can send requests to
loopback, some under a name of its own (DNS rebinding). So the server answers requests to its own host name only, and
only with the token that is in the address it prints.
"""

import hmac
import secrets
from collections.abc import Callable, Iterable
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from autotl.errors import AutotlError

__all__ = ["DashboardServer", "dashboard_server"]

HOSTS = {"127.0.0.1", "localhost"}
READING = {"GET", "HEAD"}


class DashboardServer(ThreadingMixIn, WSGIServer):
    """Serves requests in threads: the dashboard's page sends several at once."""

    daemon_threads = True
    token = ""

    @property
    def url(self) -> str:
        """The address that opens the dashboard in a browser."""
        return f"http://127.0.0.1:{self.server_port}/dashboard?token={self.token}"


class _SilentHandler(WSGIRequestHandler):
    """Logs no requests."""

    def log_message(self, format: str, *arguments: Any) -> None: ...


class _Guard:
    """WSGI middleware: passes on only requests to a loopback host name that carry the token.

    The first request has the token in its address; it is answered by a cookie and the address without the token.
    """

    def __init__(self, application: Callable[..., Iterable[bytes]], token: str, *, read_only: bool):
        self.application, self.token, self.read_only = application, token, read_only

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST", "")
        if _host_name(host) not in HOSTS:
            return _refuse(start_response, "403 Forbidden", "The dashboard answers to 127.0.0.1 and localhost only.")
        origin = environ.get("HTTP_ORIGIN")
        if origin is not None and urlsplit(origin).netloc != host:
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
        try:
            kept = SimpleCookie(environ.get("HTTP_COOKIE", "")).get(cookie)
        except CookieError:
            kept = None
        if kept is None or not self._is_token(kept.value):
            return _refuse(
                start_response, "403 Forbidden", "Open the address that `autotl dashboard` has printed: it has a token."
            )
        if self.read_only and environ["REQUEST_METHOD"] not in READING:
            return _refuse(start_response, "405 Method Not Allowed", "The dashboard was started with --read-only.")
        return self.application(environ, start_response)

    def _is_token(self, value: str) -> bool:
        return hmac.compare_digest(value.encode(), self.token.encode())


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _refuse(start_response: Callable[..., Any], status: str, reason: str) -> list[bytes]:
    content = f"{reason}\n".encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(content)))]
    start_response(status, headers if status.startswith("403") else [*headers, ("Allow", ", ".join(sorted(READING)))])
    return [content]


def dashboard_server(folder: Path, port: int, *, read_only: bool = False) -> DashboardServer:
    """A server that is bound to 127.0.0.1:`port` (0: any free port) and does not serve yet.

    Args:
        read_only: refuse all requests that could change the study.

    Raises:
        AutotlError: optuna-dashboard isn't installed, the journal can't be read, or the port is in use.
    """
    try:
        from optuna_dashboard import wsgi
    except ImportError:
        raise AutotlError("Optuna Dashboard isn't installed: pip install 'autotl[dashboard]'") from None
    from optuna.artifacts import FileSystemArtifactStore

    from autotl.study.storage import open_storage

    artifacts = folder / "artifacts"
    if not read_only:
        try:
            artifacts.mkdir(exist_ok=True)  # FileSystemArtifactStore does not create it
        except OSError as error:
            raise AutotlError(f"{folder} can't be written: {error.strerror}. Only look at it: --read-only") from error
    store = FileSystemArtifactStore(str(artifacts)) if artifacts.is_dir() else None
    token = secrets.token_urlsafe(32)
    application = _Guard(wsgi(open_storage(folder), artifact_store=store), token, read_only=read_only)
    try:
        server = make_server("127.0.0.1", port, application, server_class=DashboardServer, handler_class=_SilentHandler)
    except OSError as error:
        raise AutotlError(f"Port {port} can't be used: {error}. Take a free one: --port 0") from None
    server.token = token
    return server
