"""Worker processes on this machine."""

import json
import re
import secrets
import signal
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import BinaryIO

from autotl.clusters import Site
from autotl.data.sandbox import child_environment
from autotl.devices import Slot
from autotl.workers.codec import ProtocolError, decode, encode
from autotl.workers.forking import UNKNOWN_CODE, ForkedProcess, Template, can_fork, fork_worker, python_command
from autotl.workers.launcher import Ending, Launcher
from autotl.workers.messages import FROM_WORKER, FromWorker, Hello, ToWorker
from autotl.workers.reaper import Reaper, kill_group
from autotl.workers.rendezvous import Endpoint, Rendezvous

__all__ = ["LocalLauncher"]

EXIT_WAIT = 5.0
"""Seconds between a closed connection and the end of its process, after which the process is killed."""
ENVIRONMENT = {"PYTHONSAFEPATH": "1", "PYTHONIOENCODING": "utf-8:backslashreplace"}
"""Of every worker: the Python processes that it starts import nothing from the current folder either, and its log is
UTF-8 where the terminal isn't."""


@dataclass(eq=False)
class _Process:
    """One worker as the launcher sees it."""

    log: Path
    logged: int = 0
    """Bytes of the log that earlier processes wrote."""
    process: "subprocess.Popen[bytes] | ForkedProcess | None" = None
    """None for a worker that another process started."""
    template: Template | None = None
    """What forks the process; None where it is started by itself."""
    watched: int | None = None
    """Its id, where the reaper watches it."""
    killed: bool = False
    connection: Connection | None = None


class LocalLauncher(Launcher):
    """Starts `python -m autotl.trial.worker` for each slot, or forks it where the libraries are imported already.

    Args:
        logs: folder for the output of workers, a file for each slot.
        endpoint: where the workers connect to: a Rendezvous of this process, or the Endpoint of another coordinator,
            whose messages then never pass through this launcher.
        site: the folders of workers whose coordinator is on another host, and serves them the study.

    All workers have the folder that is the current one now, however often the caller changes its own: names of data and
    weights may be relative to it.
    """

    def __init__(self, logs: Path, endpoint: Rendezvous | Endpoint, site: Site | None = None):
        logs.mkdir(parents=True, exist_ok=True)
        self.logs, self._site = logs, asdict(site) if site else None
        self.rendezvous = endpoint if isinstance(endpoint, Rendezvous) else None
        self.endpoint = endpoint.endpoint if isinstance(endpoint, Rendezvous) else endpoint
        self.reaper = Reaper()
        self._current_folder = Path.cwd()
        self._processes: dict[str, _Process] = {}
        self._unidentified: list[Connection] = []
        """Connections whose Hello has not arrived."""

    def pid(self, worker: str) -> int | None:
        """The process id of a worker that this launcher started; None before it is forked."""
        process = self._processes[worker].process
        return process.pid if process else None

    def start(self, slot: Slot) -> str:
        token = secrets.token_hex(8)
        log = self.logs / f"worker-{re.sub('[:#/]', '-', slot.name)}.log"
        logged = log.stat().st_size if log.exists() else 0
        described = {**asdict(slot), "environment": dict(slot.environment)}
        identity = json.dumps({"token": token, "slot": described, "site": self._site})
        secret = {"AUTOTL_WORKER_KEY": self.endpoint.key.hex(), "AUTOTL_WORKER": identity}
        environment = {**child_environment(), **ENVIRONMENT, **slot.environment, **secret}
        made = self._processes[token] = _Process(log, logged)
        with log.open("ab") as output:
            if can_fork() and not slot.is_accelerator:
                made.process, made.template = fork_worker(
                    environment, self.endpoint.address, self._current_folder, output.fileno()
                )
            else:
                made.process = self._start(environment, output)
        self._watch()
        return token

    def _start(self, environment: dict[str, str], output: BinaryIO) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            python_command("autotl.trial.worker", self.endpoint.address),
            cwd=self._current_folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # keeps Ctrl-C from workers, and lets their children be killed with them
        )

    def _watch(self) -> None:
        """Have the reaper watch processes that have begun."""
        for made in self._processes.values():
            if made.process and made.process.pid and made.watched is None and not made.killed:
                made.watched = made.process.pid
                self.reaper.watch(made.watched)

    def send(self, worker: str, message: ToWorker) -> None:
        connection = self._processes[worker].connection
        if connection is not None:
            with suppress(OSError):
                connection.send_bytes(encode(message))

    def receive(self, timeout: float) -> list[tuple[str, FromWorker]]:
        templates = {p.template for p in self._processes.values() if p.template and not p.template.is_gone}
        by_connection = {p.connection: worker for worker, p in self._processes.items() if p.connection}
        arrivals = [self.rendezvous.bell] if self.rendezvous else []
        readable = wait([*by_connection, *self._unidentified, *(t.socket for t in templates), *arrivals], timeout)
        for template in templates:
            template.read()
        self._watch()
        if self.rendezvous is None:
            return []
        if self.rendezvous.bell in readable:
            self._unidentified += self.rendezvous.arrivals()
        messages = self._identify()
        for worker, process in list(self._processes.items()):
            if process.connection is not None:
                messages += ((worker, message) for message in self._read(process))
        return messages

    def _identify(self) -> list[tuple[str, FromWorker]]:
        """Assign new connections to workers by the Hello that each sends first."""
        greetings: list[tuple[str, FromWorker]] = []
        for connection in list(self._unidentified):
            try:
                if not connection.poll():
                    continue
                hello = decode(connection.recv_bytes(), FROM_WORKER)
            except (EOFError, OSError, ProtocolError):  # killed while it started, or not a worker of this version
                connection.close()
                self._unidentified.remove(connection)
                continue
            self._unidentified.remove(connection)
            if not isinstance(hello, Hello):
                connection.close()
                continue
            process = self._processes.setdefault(hello.token, _Process(self.logs / "joined"))
            if process.killed:  # while it was forked
                connection.close()
                continue
            process.connection = connection
            greetings.append((hello.token, hello))
        return greetings

    def _read(self, process: _Process) -> list[FromWorker]:
        messages: list[FromWorker] = []
        connection = process.connection
        try:
            while connection is not None and connection.poll():
                messages.append(decode(connection.recv_bytes(), FROM_WORKER))
        except (EOFError, OSError, ProtocolError):
            self._disconnect(process)
            if process.process:
                with suppress(subprocess.TimeoutExpired):
                    process.process.wait(EXIT_WAIT)
                _kill_group(process)
        return messages

    def _disconnect(self, process: _Process) -> None:
        if process.connection is not None:
            process.connection.close()
            process.connection = None

    def alive(self, worker: str) -> bool:
        process = self._processes[worker]
        if process.process is None:
            return process.connection is not None
        return process.process.poll() is None  # not the connection: a child may hold it open

    def kill(self, worker: str) -> None:
        process = self._processes[worker]
        process.killed = True
        self._disconnect(process)  # a worker that joined ends itself when its connection closes
        if process.process:
            if self.rendezvous is None and process.process.poll() is None:
                self.endpoint.leave(worker)
            process.process.kill()
            _kill_group(process)
            process.process.wait()
            if process.watched is not None:
                self.reaper.forget(process.watched)
                process.watched = None

    def how_it_ended(self, worker: str) -> Ending:
        process = self._processes[worker]
        if process.process is None:
            return Ending("the worker that joined is gone", left=self.endpoint.has_left(worker))
        code = process.process.wait()
        last = _last_line(process.log, process.logged)
        cause = f"the worker ended ({_describe(code)}){f': {last}' if last else ''}"
        return Ending(cause, None if code == UNKNOWN_CODE else code, str(process.log))

    def close(self) -> None:
        for worker in self._processes:
            self.kill(worker)
        for connection in self._unidentified:
            connection.close()
        self.reaper.close()
        if self.rendezvous:
            self.rendezvous.close()


def _kill_group(process: _Process) -> None:
    """Kill what a process has started."""
    if process.process and process.process.pid:
        kill_group(process.process.pid)


def _describe(code: int) -> str:
    if code == UNKNOWN_CODE:
        return "exit code unknown"
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in {*signal.Signals} else "unknown"
    hint = ", which the system sends when memory runs out" if name == "SIGKILL" else ""
    return f"killed by signal {-code}, {name}{hint}"


def _last_line(log: Path, start: int) -> str:
    """The last line that a process wrote; of a fatal error its headline, which stands before a page of stacks."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(start)
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        headlines = [line for line in lines if line.startswith("Fatal Python error")]
        if lines:
            return (headlines or lines)[-1][:300]
    return ""
