"""Worker processes that are forked from one process in which the libraries are imported already: a template.

Importing PyTorch, timm and scikit-learn takes 6 CPU seconds. Workers that each import them compete for the cores and
the disk, and hold the libraries in memory several times. A forked worker starts within 0.1 s and shares the memory.

Only CPU workers are forked: a process whose parent has talked to an accelerator's driver can't use the accelerator. And
only on Linux: system libraries of macOS don't survive a fork.
"""

import atexit
import json
import math
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from multiprocessing.connection import wait
from pathlib import Path

__all__ = ["MAX_REQUEST", "UNKNOWN_CODE", "ForkedProcess", "Template", "can_fork", "fork_worker", "python_command"]

UNKNOWN_CODE = -256
"""Exit code of a process whose template was killed, so that nobody has collected the real one."""
CODE_SECONDS = 5.0
"""Seconds between the end of a process and its exit code, after which nobody waits for the code."""
POLL_SECONDS = 1.0
MAX_REQUEST = 1 << 16
"""Bytes of a message between launcher and template: a few variables and paths."""


def python_command(module: str, argument: str) -> list[str]:
    """The command of a process that runs a module. -P: `-m` alone would import a random.py or torch.py of the current
    folder in the library's place."""
    return [sys.executable, "-P", "-X", "faulthandler", "-m", module, argument]


@cache
def can_fork() -> bool:
    """Whether this system can fork workers and watch processes that aren't its children."""
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:  # Linux before 5.3, or forbidden in this container
        return False
    return True


class ForkedProcess:
    """One worker, with the methods of `subprocess.Popen` that a launcher needs.

    Its process exists once the template has imported the libraries and has answered the request.
    """

    def __init__(self, template: "Template", number: int):
        self.returncode: int | None = None
        self._template, self._number = template, number
        self._pid: int | None = None
        self._pidfd: int | None = None

    @property
    def pid(self) -> int | None:
        """The process id; None before the process is forked."""
        return self._pid

    def began(self, pid: int, pidfd: int) -> None:
        """The template has forked the process."""
        self._pid, self._pidfd = pid, pidfd

    def ended(self, code: int) -> None:
        """The process has ended, or will never begin."""
        if self.returncode is None:
            self.returncode = code

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while the process runs or is about to be forked."""
        self._template.read()
        if self.returncode is None and self._pidfd is not None and _is_over(self._pidfd):
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        end = time.monotonic() + (math.inf if timeout is None else timeout)
        give_up = math.inf
        while self.returncode is None:
            now = time.monotonic()
            if now >= end:
                raise subprocess.TimeoutExpired("worker", timeout or 0)
            if self._pidfd is not None and _is_over(self._pidfd):
                give_up = min(give_up, now + (0 if self._template.is_gone else CODE_SECONDS))
            if now >= give_up:
                self.ended(UNKNOWN_CODE)
            elif self._template.is_gone and self._pidfd is not None:
                _is_over(self._pidfd, min(end - now, POLL_SECONDS))
            else:
                self._template.read(min(end - now, POLL_SECONDS))
        return self.returncode

    def kill(self) -> None:
        """Send SIGKILL; a process that isn't forked yet never is."""
        self._template.read()
        if self._pidfd is not None:
            _kill(self._pidfd)
        elif self.returncode is None:
            self._template.cancel(self._number)
            self.ended(-signal.SIGKILL)

    def __del__(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)


class Template:
    """The launcher's handle on a process that runs `autotl.trial.template`. Any thread may use it.

    The process ends with this one, and after a minute without workers and requests.

    Args:
        environment: its variables.
        log: descriptor of the file for its own output.
    """

    def __init__(self, environment: Mapping[str, str], log: int):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._popen = subprocess.Popen(
                python_command("autotl.trial.template", str(theirs.fileno())),
                env=dict(environment),
                cwd="/",  # a worker changes to its own folder; a template keeps none in use
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.socket = ours
        """Readable when a process has begun or ended; to be waited for together with the workers' connections."""
        self.is_gone = False
        self._processes: dict[int, ForkedProcess] = {}
        """Those that were asked for and haven't ended."""
        self._number = 0
        self._lock = threading.RLock()

    @property
    def is_idle(self) -> bool:
        """Whether no process of its own runs or is about to."""
        return not self._processes

    def fork(self, address: str, folder: Path, variables: Mapping[str, str], log: int) -> ForkedProcess:
        """A worker of the coordinator at `address` that runs in `folder`, with `variables` added to its environment.

        Args:
            log: descriptor of the file for its output.
        """
        with self._lock:
            self._number += 1
            process = self._processes[self._number] = ForkedProcess(self, self._number)
            request = {"number": self._number, "address": address, "folder": str(folder), "variables": dict(variables)}
            try:
                socket.send_fds(self.socket, [json.dumps(request).encode()], [log])
            except OSError:
                self._gone()
            return process

    def cancel(self, number: int) -> None:
        """Don't fork a process that was asked for."""
        with self._lock, suppress(OSError):
            self._processes.pop(number, None)
            self.socket.send(json.dumps({"cancel": number}).encode())

    def read(self, timeout: float = 0.0) -> None:
        """Read what the template has sent; waits up to `timeout` seconds for the first message."""
        if timeout and not self.is_gone:
            wait([self.socket], timeout)
        with self._lock:
            while not self.is_gone and wait([self.socket], 0):
                try:
                    content, descriptors, _, _ = socket.recv_fds(self.socket, MAX_REQUEST, 1)
                except OSError:
                    content, descriptors = b"", []
                if not content:
                    self._gone()
                else:
                    self._take(json.loads(content), descriptors)

    def _take(self, message: dict[str, int], descriptors: list[int]) -> None:
        process = self._processes.get(message["number"])
        if "code" in message:
            if process is not None:
                process.ended(message["code"])
                del self._processes[message["number"]]
        elif process is not None:
            process.began(message["pid"], descriptors[0])
        else:  # cancelled after it was forked
            _kill(descriptors[0])
            os.close(descriptors[0])

    def _gone(self) -> None:
        """The process has ended. Workers that it has forked go on; those that it hasn't never start."""
        self.is_gone = True
        self.socket.close()
        code = self._popen.wait()
        for process in self._processes.values():
            if process.pid is None:
                process.ended(code or UNKNOWN_CODE)
        self._processes.clear()

    def close(self) -> None:
        """End the process; its workers go on."""
        with self._lock:
            if not self.is_gone:
                self._popen.kill()
                self._gone()


def _is_over(pidfd: int, timeout: float = 0.0) -> bool:
    return bool(wait([pidfd], timeout))


def _kill(pidfd: int) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


_templates: dict[tuple[tuple[object, object], ...], Template] = {}
"""By environment, interpreter and limits. A template outlives a search: the next one of this process starts at once."""
_lock = threading.Lock()


def fork_worker(environment: Mapping[str, str], address: str, folder: Path, log: int) -> tuple[ForkedProcess, Template]:
    """A worker with the whole `environment`, and its template: one that has the same variables wherever an import may
    have read them.

    Args:
        log: descriptor of the file for its output; a new template's own goes there, too.
    """
    variables = {name: value for name, value in environment.items() if _is_per_process(name)}
    shared = {name: value for name, value in environment.items() if name not in variables}
    key = (*sorted(shared.items()), *_inherited())
    with _lock:
        for other, template in list(_templates.items()):
            template.read()
            if template.is_gone:
                del _templates[other]
        if key not in _templates:
            shared["PYTHONPATH"] = environment.get("PYTHONPATH", "")
            for other in [other for other, template in _templates.items() if template.is_idle]:
                _templates.pop(other).close()
            _templates[key] = Template(shared, log)
        template = _templates[key]
    return template.fork(address, folder, variables, log), template


def _is_per_process(name: str) -> bool:
    """Whether workers that differ in the variable have the same template: no import reads it, or, as PYTHONPATH, the
    worker sees to it."""
    return name.startswith("AUTOTL_") or name in ("PYTHONPATH", "PYTEST_CURRENT_TEST")


def _inherited() -> Iterator[tuple[object, object]]:
    """What a process passes on to those that it starts, beside its environment."""
    for name in dir(resource):
        if name.startswith("RLIMIT_"):
            yield name, resource.getrlimit(getattr(resource, name))
    yield "python", sys.executable
    yield "nice", os.getpriority(os.PRIO_PROCESS, 0)
    yield "cores", tuple(sorted(os.sched_getaffinity(0)))


def _close_templates() -> None:
    while _templates:
        _templates.popitem()[1].close()


atexit.register(_close_templates)
os.register_at_fork(after_in_child=_templates.clear)  # they are the parent's
