"""A process that has imported what every worker needs, and forks workers: `python -m autotl.trial.template SOCKET`.

SOCKET is the descriptor of a Unix socket of packets. A request is an object of JSON with `number`, `address`, `folder`
and `variables`, and comes with the descriptor of the worker's log; `{"cancel": number}` takes it back. The answer is
`{"number", "pid"}` with a descriptor of the process, and `{"number", "code"}` at its end.
"""

import ctypes
import importlib
import json
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from autotl.imports import import_modules, without_collection
from autotl.trial import worker
from autotl.workers.forking import MAX_REQUEST, python_command

__all__ = ["main"]

IDLE_SECONDS = 60
"""A template without workers and requests ends after so many seconds: a notebook may never search again."""
PR_SET_NAME = 15


@dataclass(frozen=True)
class _Request:
    number: int
    address: str
    folder: str
    variables: Mapping[str, str]
    log: int


class _Template:
    """Forks workers until its launcher is gone."""

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._waiting: dict[int, _Request] = {}
        self._numbers: dict[int, tuple[int, int]] = {}
        """Number and process id by the descriptor of a process."""

    def serve(self) -> _Request | None:
        """Fork a process for each request. Returns the request in a forked process, None when all is over."""
        while True:
            idle = None if self._numbers else IDLE_SECONDS
            readable = wait([self._connection, *self._numbers], idle)
            if not readable:
                return None
            for pidfd in readable:
                if isinstance(pidfd, int):
                    self._collect(pidfd)
            if self._connection in readable and not self._read():
                return None
            while self._waiting:
                request = self._waiting.pop(next(iter(self._waiting)))
                if self._fork(request):
                    return request
                os.close(request.log)

    def _read(self) -> bool:
        """Read all messages that are here; False where the launcher is gone."""
        while wait([self._connection], 0):
            content, descriptors, _, _ = socket.recv_fds(self._connection, MAX_REQUEST, 1)
            if not content:
                return False
            message: dict[str, Any] = json.loads(content)
            if "cancel" in message:
                if request := self._waiting.pop(message["cancel"], None):
                    os.close(request.log)
            else:
                self._waiting[message["number"]] = _Request(**message, log=descriptors[0])
        return True

    def _fork(self, request: _Request) -> bool:
        """Whether this is the new process."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 counts the threads of libraries, which
            pid = os.fork()  # survive a fork: those of OpenBLAS and jemalloc
        if pid == 0:
            return True
        pidfd = os.pidfd_open(pid)
        self._numbers[pidfd] = request.number, pid
        with suppress(OSError):  # the launcher is gone: the next read says so
            answer = json.dumps({"number": request.number, "pid": pid}).encode()
            socket.send_fds(self._connection, [answer], [pidfd])
        return False

    def _collect(self, pidfd: int) -> None:
        number, pid = self._numbers.pop(pidfd)
        os.close(pidfd)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with suppress(OSError):
            self._connection.send(json.dumps({"number": number, "code": code}).encode())

    def close(self) -> None:
        """Close what a forked process has no use for."""
        self._connection.close()
        for pidfd in self._numbers:
            os.close(pidfd)
        for request in self._waiting.values():
            os.close(request.log)


def main(descriptor: int) -> None:
    """Import the libraries, and fork workers until the launcher is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    template, began = _Template(socket.socket(fileno=descriptor)), time.monotonic()
    with without_collection():  # a collection in a worker would touch, and so copy, all pages of the libraries' objects
        import_modules(worker.EARLY_IMPORTS)
    seconds = time.monotonic() - began
    request = template.serve()
    if request is None:
        os._exit(0)
    os.setsid()  # a process group of its own, which can be killed with its children
    template.close()
    os.dup2(request.log, 1)
    os.dup2(request.log, 2)
    os.close(request.log)
    os.chdir(request.folder)
    paths = [os.environ.get("PYTHONPATH", ""), request.variables.get("PYTHONPATH", "")]
    os.environ.update(request.variables)
    if not _change_path(*(path.split(os.pathsep) for path in paths)):
        os.execv(sys.executable, python_command("autotl.trial.worker", request.address))
    _name_process(json.loads(os.environ["AUTOTL_WORKER"])["slot"]["name"])
    worker.main(request.address, seconds)


def _change_path(before: Sequence[str], after: Sequence[str]) -> bool:
    """Change the folders of PYTHONPATH; False where that isn't enough, since a folder that comes or goes has something
    which is imported already, or which Python runs when it starts."""
    imported = {name.partition(".")[0] for name in sys.modules} | {"sitecustomize", "usercustomize"}
    for folder in (set(before) ^ set(after)) - {""}:
        with suppress(OSError):
            if imported.intersection(entry.name.partition(".")[0] for entry in Path(folder).iterdir()):
                return False
    sys.path[:] = [*filter(None, after), *(path for path in sys.path if path not in before)]
    importlib.invalidate_caches()
    return True


def _name_process(slot: str) -> None:
    """The name that `top` and `ps -o comm` show; at most 15 bytes."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_NAME, f"autotl {slot}".encode(), 0, 0, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
