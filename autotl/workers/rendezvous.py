"""Where workers meet their coordinator: a socket and its key, in a folder that only this user may enter.

Nothing of it lies in the study's folder, which may come from somebody else: what passes through is pickled.
"""

import hashlib
import os
import queue
import secrets
import stat
import sys
import tempfile
import threading
from contextlib import suppress
from multiprocessing import AuthenticationError, Pipe
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from autotl.atomic_io import write_atomically
from autotl.errors import AutotlError

__all__ = ["Rendezvous", "rendezvous_folder"]


def rendezvous_folder(study: Path) -> Path:
    """The folder for the study in the folder `study`. Raises AutotlError where another user has made it."""
    user = os.getuid() if os.name == "posix" else "user"
    root = Path(tempfile.gettempdir()) / f"autotl-{user}"
    root.mkdir(mode=0o700, exist_ok=True)
    if os.name == "posix":
        found = root.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != user or found.st_mode & 0o077:
            raise AutotlError(f"{root} isn't this user's alone: remove it, or set TMPDIR to another folder.")
    return root / hashlib.sha256(os.fsencode(study.resolve())).hexdigest()[:16]


class Rendezvous:
    """The coordinator's side: it listens for workers as long as it lives.

    Only the holder of the study's lock may open one: it takes the place of one that a killed coordinator left.
    """

    def __init__(self, study: Path):
        self.folder = rendezvous_folder(study)
        self.folder.mkdir(exist_ok=True)
        self.key = secrets.token_bytes(32)
        socket = self.folder / "socket"
        socket.unlink(missing_ok=True)
        windows = sys.platform == "win32"
        address = rf"\\.\pipe\autotl-{self.folder.name}" if windows else str(socket)
        self.address = address
        self.listener = Listener(address, "AF_PIPE" if windows else "AF_UNIX", backlog=64, authkey=self.key)
        write_atomically(self.folder / "key", f"{address}\n{self.key.hex()}".encode())
        self.arrived: queue.SimpleQueue[tuple[Connection, dict[str, Any]]] = queue.SimpleQueue()
        """Connections with what they said of themselves."""
        self._closing = False
        self.bell, self._ring = Pipe(duplex=False)
        """Has something to read when somebody has arrived."""
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self) -> None:
        while not self._closing:
            try:
                connection = self.listener.accept()
                self.arrived.put((connection, connection.recv()))
                self._ring.send(None)
            except (AuthenticationError, EOFError, ConnectionError):
                continue  # somebody with another key, or who was killed on the way
            except OSError:
                return  # closed

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        with suppress(OSError, EOFError):
            Client(self.address, authkey=self.key).close()  # or accept() would wait for ever
        with suppress(OSError):
            self.listener.close()
        for name in ("key", "socket"):
            with suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    @staticmethod
    def find(study: Path) -> tuple[str, str]:
        """Address and key (hex) of the coordinator that searches on the study now. Raises AutotlError without one."""
        try:
            address, key = (rendezvous_folder(study) / "key").read_text().splitlines()
        except (OSError, ValueError):
            raise AutotlError(
                f"No search runs in {study}, so there is none to join: start it without --join."
            ) from None
        return address, key
