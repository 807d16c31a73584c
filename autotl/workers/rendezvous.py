"""Where workers connect to their coordinator: a Unix socket and its key, in a folder that only this user may enter."""

import hashlib
import os
import queue
import secrets
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import AuthenticationError, Pipe
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from socket import AF_UNIX, socket

from autotl.atomic_io import write_atomically
from autotl.errors import AutotlError

__all__ = ["Endpoint", "Rendezvous", "rendezvous_folder"]

MAX_SOCKET_PATH = 103
"""Bytes: macOS takes a path of 103 for a socket, Linux of 107."""


@dataclass(frozen=True)
class Endpoint:
    """Address and key of a coordinator."""

    address: str
    key: bytes

    def _left(self, token: str) -> Path:
        """A file that says that a worker left on purpose: its connection breaks as if it had crashed."""
        return Path(self.address).with_name(f"left-{token}")

    def leave(self, token: str) -> None:
        """Say that the worker is about to be taken out of the search."""
        with suppress(OSError):  # the search has ended
            self._left(token).touch()

    def has_left(self, token: str) -> bool:
        """Whether the worker was taken out."""
        return self._left(token).exists()

    @classmethod
    def find(cls, study: Path) -> "Endpoint":
        """The coordinator that searches on the study in folder `study` now. Raises AutotlError where there is none."""
        for root in _roots():
            with suppress(OSError, ValueError):
                address, key = (root / _name(study) / "key").read_text().splitlines()
                return cls(address, bytes.fromhex(key))
        raise AutotlError(f"No search runs in {study}, so there is none to join: start it without --join.")


def _name(study: Path) -> str:
    return hashlib.sha256(os.fsencode(study.resolve())).hexdigest()[:16]


def _roots() -> Iterator[Path]:
    """Folders for sockets, the preferred first: the temporary folder, or /tmp where the former's path is too long."""
    for temporary in dict.fromkeys((tempfile.gettempdir(), "/tmp")):
        yield Path(temporary) / f"autotl-{os.getuid()}"


def rendezvous_folder(study: Path) -> Path:
    """The folder for the study in folder `study`; its parent is made with access for this user alone.

    It lies outside of the study's folder, which may be a stranger's. Raises AutotlError where another user owns it, and
    where no folder has a path short enough for a socket.
    """
    for root in _roots():
        folder = root / _name(study)
        if len(os.fsencode(folder / "socket")) <= MAX_SOCKET_PATH:
            break
    else:
        raise AutotlError(f"The path of {folder} is too long for a socket. Set TMPDIR to a shorter folder.")
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = root.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise AutotlError(f"{root} is open to other users: remove it, or set TMPDIR to another folder.")
    return folder


class Rendezvous:
    """The coordinator's side: accepts connections on a thread of its own until it is closed.

    Only the holder of the study's lock may open one, since it replaces the socket of a killed coordinator.
    """

    def __init__(self, study: Path):
        self.folder = rendezvous_folder(study)
        self.folder.mkdir(exist_ok=True)
        path = self.folder / "socket"
        path.unlink(missing_ok=True)
        self.endpoint = Endpoint(str(path), secrets.token_bytes(32))
        self._listener = Listener(str(path), "AF_UNIX", backlog=64, authkey=self.endpoint.key)
        write_atomically(self.folder / "key", f"{path}\n{self.endpoint.key.hex()}".encode())
        self._accepted: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self._closing = False
        self.bell, self._ring = Pipe(duplex=False)
        """Readable when a connection has arrived; to be waited for together with the connections."""
        threading.Thread(target=self._accept, daemon=True, name="rendezvous").start()

    def _accept(self) -> None:
        while not self._closing:
            try:
                self._accepted.put(self._listener.accept())
                self._ring.send_bytes(b".")
            except (AuthenticationError, EOFError, ConnectionError):
                continue  # a process with another key, or one that was killed while it connected
            except OSError:
                return  # closed

    def arrivals(self) -> list[Connection]:
        """Connections that were accepted since the last call."""
        connections = []
        while self.bell.poll():
            self.bell.recv_bytes()
            connections.append(self._accepted.get())
        return connections

    def close(self) -> None:
        """Stop listening and remove the socket and its key. Idempotent."""
        if self._closing:
            return
        self._closing = True
        # A connection ends accept(), which blocks. It awaits no answer: the thread may have ended already, or may wait
        # for a process that never answers.
        with suppress(OSError), socket(AF_UNIX) as wake:
            wake.settimeout(1)
            wake.connect(self.endpoint.address)
        with suppress(OSError):
            self._listener.close()
        for path in (self.folder / "key", self.folder / "socket", *self.folder.glob("left-*")):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()
