"""Runs a server until it is told to end."""

import secrets
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from autotl.errors import AutotlError
from autotl.server.settings import is_loopback

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["bind", "new_token", "run_server", "server_url"]

CONNECTIONS = 256
"""At a time; others are answered 503."""
END_SECONDS = 5
"""For requests that are being answered when the server is told to end."""


def new_token() -> str:
    return secrets.token_urlsafe(32)


def bind(host: str, port: int) -> socket.socket:
    """A socket that is bound to a host name or address, and a port; 0 takes a free one.

    Raises:
        AutotlError: the host isn't one of this machine, or the port is in use.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise AutotlError(
            f"--host {host} is no name or address: {error.strerror}. Use 127.0.0.1, or 0.0.0.0 for every network."
        ) from None
    family, kind, protocol, _, address = found[0]
    listening = socket.socket(family, kind, protocol)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)  # it listens once the model is loaded
    except OSError as error:
        listening.close()
        raise AutotlError(
            f"Port {port} of {host} can't be used: {error.strerror}. Take a free one: --port 0, or another --host."
        ) from None
    return listening


def server_url(listening: socket.socket, token: str | None) -> str:
    """The address that opens a bound server in a browser of this machine."""
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::") or not is_loopback(host):
        host = socket.gethostname() if host in ("0.0.0.0", "::") else host
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")


def run_server(app: "ASGIApp", listening: socket.socket, on_ready: Callable[[], None] = lambda: None) -> None:
    """Serve until Ctrl-C or SIGTERM. Requests that are being answered then have a few seconds to end."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            on_ready()

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=END_SECONDS,
        server_header=False,
        proxy_headers=False,
        ws="none",
    )
    # uvicorn sends the signal again after it has ended
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        Server(config).run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        listening.close()
