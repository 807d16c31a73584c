"""Optuna Dashboard for a study's journal and artifacts. On loopback only: it has no password and can delete studies."""

from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from autotl.errors import AutotlError

__all__ = ["dashboard_server"]


class _ThreadingServer(ThreadingMixIn, WSGIServer):
    """Serves requests in threads: the dashboard's page sends several at once."""

    daemon_threads = True


class _SilentHandler(WSGIRequestHandler):
    """Logs no requests."""

    def log_message(self, format: str, *arguments: Any) -> None: ...


def dashboard_server(folder: Path, port: int) -> WSGIServer:
    """A server that is bound to 127.0.0.1:`port` (0: any free port) and does not serve yet.

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
    artifacts.mkdir(exist_ok=True)  # FileSystemArtifactStore does not create it
    application = wsgi(open_storage(folder), artifact_store=FileSystemArtifactStore(str(artifacts)))
    try:
        return make_server("127.0.0.1", port, application, server_class=_ThreadingServer, handler_class=_SilentHandler)
    except OSError as error:
        raise AutotlError(f"Port {port} can't be used: {error}. Use another one: --port {port + 1}") from None
