"""Worker processes on device slots, seen from the coordinator. How a ticket is run stands behind this one boundary.

What a worker says, as tuples:
    ("ready",)                                        it has its context and waits for tickets
    ("asked", number), ("started", number, words, strategy, backbone), ("finished", number)
    ("doing", text), ("images", what, done, total, images a second), ("say", line), ("warn", line), ("fatal", text)
    ("result", dictionary)                            of a Finish ticket
    ("full", text, path)                              a disk is full: it could not go on, and ends
    ("broken", traceback)                             it could not go on, and ends
"""

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Listener, wait
from pathlib import Path
from typing import Any

from autotl.devices import Slot
from autotl.search.context import Context

__all__ = ["LocalWorkers", "Worker"]


@dataclass
class Worker:
    """One process, and what the coordinator knows of it."""

    slot: Slot
    process: subprocess.Popen[bytes]
    connection: Connection
    log: Path
    ready: bool = False
    busy: bool = False
    trial: int | None = None
    """The trial it has asked for and not yet finished."""
    strategy: str = ""
    doing: str = "starting"
    since: float = field(default_factory=time.monotonic)
    losses: int = 0
    """How many processes were lost on this slot in a row."""

    def give(self, ticket: Any) -> None:
        """Hand out a ticket. A worker that is gone shows in `LocalWorkers.messages`."""
        self.busy, self.since = True, time.monotonic()
        self.doing = "asking"
        with suppress(OSError):
            self.connection.send(ticket)

    def set_deadline(self, deadline: float) -> None:
        with suppress(OSError):
            self.connection.send(("deadline", deadline))

    def cause_of_death(self) -> str:
        """Signal or exit code, and its last words."""
        code = self.process.wait()
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        words = (
            [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
            if self.log.exists()
            else []
        )
        return f"the worker ended ({how})" + (f": {words[-1][:300]}" if words else "")


class LocalWorkers:
    """Worker processes on this machine, one for each slot."""

    def __init__(self, slots: list[Slot], logs: Path):
        self.logs = logs
        logs.mkdir(parents=True, exist_ok=True)
        self.context: Context | None = None
        self.deadline = float("inf")
        self.workers = [self._start(slot) for slot in slots]

    def _start(self, slot: Slot, losses: int = 0) -> Worker:
        key = secrets.token_bytes(32)
        log = self.logs / f"worker-{slot.name.replace(':', '-').replace('#', '-')}.log"
        family = "AF_PIPE" if sys.platform == "win32" else "AF_UNIX"
        folder = tempfile.mkdtemp(prefix="autotl-") if family == "AF_UNIX" else ""
        address = f"{folder}/worker" if folder else None
        with Listener(address, family, authkey=key) as listener, log.open("ab") as output:
            environment = {**os.environ, **slot.environment, "AUTOTL_WORKER_KEY": key.hex()}
            process = subprocess.Popen(
                [sys.executable, "-m", "autotl.search.worker", str(listener.address)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
            connection = listener.accept()
        if folder:
            with suppress(OSError):
                Path(folder).rmdir()
        return Worker(slot, process, connection, log, losses=losses)

    def begin(self, context: Context) -> None:
        """Give every worker what it has to know."""
        self.context = context
        for worker in self.workers:
            self._introduce(worker)

    def _introduce(self, worker: Worker) -> None:
        from dataclasses import replace

        assert self.context is not None
        worker.set_deadline(self.deadline)
        with suppress(OSError):
            worker.connection.send(replace(self.context, slot=worker.slot))

    def set_deadline(self, deadline: float) -> None:
        """When trials have to be done, time.monotonic(); it may be moved while they run."""
        self.deadline = deadline
        for worker in self.workers:
            worker.set_deadline(deadline)

    def messages(self, timeout: float) -> Iterator[tuple[Worker, tuple[Any, ...] | None]]:
        """What workers have said by now, waiting up to `timeout` seconds for the first; None for one that ended."""
        by_connection = {worker.connection: worker for worker in self.workers}
        for ready in wait(list(by_connection), timeout):
            worker = by_connection[ready]  # type: ignore[index]
            try:
                while True:
                    yield worker, worker.connection.recv()
                    if not worker.connection.poll():
                        break
            except (EOFError, OSError):
                yield worker, None

    def replace(self, worker: Worker) -> Worker:
        """A new process in the place of one that ended."""
        worker.connection.close()
        fresh = self._start(worker.slot, worker.losses + 1)
        self.workers[self.workers.index(worker)] = fresh
        self._introduce(fresh)
        return fresh

    def drop(self, worker: Worker) -> None:
        """Do without this slot."""
        worker.connection.close()
        self.workers.remove(worker)

    def kill(self, worker: Worker) -> None:
        """At once; it shows in `messages` as one that ended."""
        worker.process.kill()

    def close(self) -> None:
        """End all: those that wait end by themselves, others are killed."""
        for worker in self.workers:
            with suppress(OSError):
                worker.connection.send(None) if not worker.busy else worker.process.kill()
        until = time.monotonic() + 2
        for worker in self.workers:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, until - time.monotonic()))
            worker.process.kill()
            worker.process.wait()
            worker.connection.close()
