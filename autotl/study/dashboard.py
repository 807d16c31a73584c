"""Optuna Dashboard over a study's journal and artifacts, on loopback: it can delete studies, and has no password."""

from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from autotl.errors import AutotlError

__all__ = ["dashboard_server"]


class _Server(ThreadingMixIn, WSGIServer):
    """The page asks for several things at once."""

    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None: ...


def dashboard_server(folder: Path, port: int) -> WSGIServer:
    """Bound to 127.0.0.1:`port` (0: a free one), not yet serving.

    Raises AutotlError where optuna-dashboard isn't installed, the journal can't be read, or the port is taken.
    """
    try:
        from optuna_dashboard import wsgi
    except ImportError:
        raise AutotlError("Optuna Dashboard isn't installed: pip install 'autotl[dashboard]'") from None
    from optuna.artifacts import FileSystemArtifactStore

    from autotl.study.storage import open_storage

    artifacts = folder / "artifacts"
    artifacts.mkdir(exist_ok=True)  # the store wants it to exist
    application = wsgi(open_storage(folder), artifact_store=FileSystemArtifactStore(str(artifacts)))
    try:
        return make_server("127.0.0.1", port, application, server_class=_Server, handler_class=_Silent)
    except OSError as error:
        raise AutotlError(f"Port {port} can't be used: {error}. Take another: --port {port + 1}") from None
