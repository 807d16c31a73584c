"""Worker processes on device slots, seen from the coordinator. How a ticket is run stands behind this one boundary.

What a worker says, as tuples:
    ("ready",)                                        it has its context and waits for tickets
    ("asked", number), ("started", number, words, strategy, backbone), ("finished", number)
    ("spoiled", number)                               an accelerator error ended that trial, and ends the worker
    ("doing", text), ("images", what, done, total, images a second), ("say", line)
    ("warn", line)                                    a plugin's failure, which costs this one line
    ("fatal", text)                                   the same under --strict-plugins: the search ends with it
    ("full", text, path)                              a disk is full, where that path lies: the search ends with it
    ("result", dictionary)                            of a Finish ticket
    ("saved", dictionary)                             the same before the test images, where somebody waits
    ("broken", traceback)                             it could not go on, and ends
Each of them is a sign of life.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from autotl.devices import Slot
from autotl.workers.messages import Context
from autotl.workers.reaper import Reaper, end_group
from autotl.workers.rendezvous import Rendezvous

__all__ = ["LocalWorkers", "Worker", "start_worker"]


def start_worker(slot: Slot, token: str, address: str, key: str, log: Path) -> "subprocess.Popen[bytes]":
    """A worker's process, in a group of its own: it will connect, and say `token` and its slot."""
    about = json.dumps({"token": token, "slot": {**asdict(slot), "environment": dict(slot.environment)}})
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "autotl.trial.worker", address],
            env={**os.environ, **slot.environment, "AUTOTL_WORKER_KEY": key, "AUTOTL_WORKER": about},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is the coordinator's, and what the worker starts can be ended with it
        )


@dataclass(eq=False)
class Worker:
    """One process, and what the coordinator knows of it."""

    slot: Slot
    log: Path
    token: str = ""
    process: "subprocess.Popen[bytes] | None" = None
    """None for one that has joined from elsewhere: whoever started it starts the next."""
    connection: Connection | None = None
    """None until it has found its way here."""
    logged: int = 0
    """Bytes of the log that earlier processes wrote."""
    ready: bool = False
    busy: bool = False
    trial: int | None = None
    """The trial it has asked for and not yet finished."""
    strategy: str = ""
    doing: str = "starting"
    since: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    """time.monotonic() of its last sign of life."""
    done: int = 0
    """Trials that this process has run."""
    leaving: bool = False
    """It was told to end, and will without anything being wrong."""
    ended: str = ""
    """Why it was killed, where it was the coordinator that did."""

    @property
    def joined(self) -> bool:
        return self.process is None

    def send(self, message: Any) -> None:
        """A worker that is gone shows in `LocalWorkers.messages`."""
        if self.connection:
            with suppress(OSError):
                self.connection.send(message)

    def give(self, ticket: Any) -> None:
        """Hand out a ticket."""
        self.busy, self.since, self.heard = True, time.monotonic(), time.monotonic()
        self.doing = "asking"
        self.send(ticket)

    def leave(self) -> None:
        """Tell it to end. It shows in `LocalWorkers.messages` as one that did."""
        self.leaving, self.ready, self.doing = True, False, "starting anew"
        self.send(None)

    def cause_of_death(self) -> str:
        """Who ended it, or how it ended by itself, with its last words."""
        if self.ended:
            return self.ended
        if self.process is None:
            return "the worker that had joined is gone"
        return f"the worker ended ({_how(self.process.wait())})" + self._last_words()

    def _last_words(self) -> str:
        with suppress(OSError), self.log.open("rb") as file:
            file.seek(self.logged)
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
            fatal = [line for line in lines if line.startswith("Fatal Python error")]  # before a page of stacks
            if lines:
                return f": {(fatal or lines)[-1][:300]}"
        return ""


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in {*signal.Signals} else "unknown"
    hint = ", which the system sends when memory runs out" if name == "SIGKILL" else ""
    return f"killed by signal {-code}, {name}{hint}"


class LocalWorkers:
    """Worker processes on this machine, one for each slot, and those that have joined them."""

    def __init__(self, slots: list[Slot], folder: Path):
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.context: Context | None = None
        self.deadline = float("inf")
        self.rendezvous = Rendezvous(folder)
        self.reaper = Reaper()
        self.workers = [self._start(slot) for slot in slots]

    def _start(self, slot: Slot) -> Worker:
        log = self.logs / f"worker-{slot.name.replace(':', '-').replace('#', '-')}.log"
        logged, token = log.stat().st_size if log.exists() else 0, secrets.token_hex(8)
        process = start_worker(slot, token, self.rendezvous.address, self.rendezvous.key.hex(), log)
        self.reaper.watch(process.pid)
        return Worker(slot, log, token, process, logged=logged)

    def begin(self, context: Context) -> None:
        """Give every worker what it has to know, now or when it has connected."""
        self.context = context
        for worker in self.workers:
            self._introduce(worker)

    def _introduce(self, worker: Worker) -> None:
        if self.context and worker.connection:
            worker.send(("deadline", self.deadline))
            worker.send(replace(self.context, slot=worker.slot))

    def set_deadline(self, deadline: float) -> None:
        """When trials have to be done, time.monotonic(); it may be moved while they run."""
        if deadline != self.deadline:
            self.deadline = deadline
            for worker in self.workers:
                worker.send(("deadline", deadline))

    def messages(self, timeout: float) -> Iterator[tuple[Worker, tuple[Any, ...] | None]]:
        """What workers have said by now, waiting up to `timeout` seconds for the first; None for one that ended."""
        by_connection = {worker.connection: worker for worker in self.workers if worker.connection}
        heard = wait([*by_connection, self.rendezvous.bell], timeout)
        if self.rendezvous.bell in heard:
            self._welcome()
        for worker in [by_connection[c] for c in heard if c in by_connection]:
            yield from self._said(worker)
        for worker in list(self.workers):
            if worker.process and worker.process.poll() is not None:  # a child may hold its connection open
                yield from self._said(worker)
                yield worker, None
            elif worker.joined and worker.connection is None:
                yield worker, None

    def _said(self, worker: Worker) -> Iterator[tuple[Worker, tuple[Any, ...] | None]]:
        connection = worker.connection
        if connection is None or worker not in self.workers:
            return
        try:
            while connection.poll():
                message = connection.recv()
                worker.heard = time.monotonic()
                yield worker, message
        except (EOFError, OSError):
            if worker.process:  # it is over, or as good as: how it ended is known in a moment
                with suppress(subprocess.TimeoutExpired):
                    worker.process.wait(5)
                end_group(worker.process.pid)
            else:
                yield worker, None

    def _welcome(self) -> None:
        while self.rendezvous.bell.poll():
            self.rendezvous.bell.recv()
            connection, about = self.rendezvous.arrived.get()
            mine = next((w for w in self.workers if w.token == about["token"]), None)
            if mine is None:
                mine = Worker(_slot(about["slot"]), self.logs / "joined", about["token"])
                self.workers.append(mine)
            mine.connection, mine.heard = connection, time.monotonic()
            self._introduce(mine)

    def replace(self, worker: Worker) -> Worker:
        """A new process in the place of one that ended."""
        fresh = self._start(worker.slot)
        self.workers[self.workers.index(worker)] = fresh
        self._bury(worker)
        return fresh

    def add(self, slot: Slot) -> Worker:
        """One more."""
        self.workers.append(self._start(slot))
        return self.workers[-1]

    def drop(self, worker: Worker) -> None:
        """Do without this worker, and end it."""
        self.workers.remove(worker)
        self._bury(worker)

    def kill(self, worker: Worker, why: str) -> None:
        """At once; it shows in `messages` as one that ended."""
        worker.ended = why
        if worker.process:
            _end(worker.process)
        elif worker.connection:  # its own connection tells it to go
            worker.connection.close()
            worker.connection = None

    def _bury(self, worker: Worker) -> None:
        if worker.connection:
            worker.connection.close()
        if worker.process:
            _end(worker.process)  # what it has started may live on
            worker.process.wait()
            self.reaper.forget(worker.process.pid)

    def close(self, at_once: bool = False) -> None:
        """End all: those that wait end by themselves, others are killed."""
        for worker in self.workers:
            if worker.busy and worker.process:
                _end(worker.process)
            else:
                worker.send(None)
        until = time.monotonic() + 2
        for worker in self.workers:
            if worker.process and not at_once:
                with suppress(subprocess.TimeoutExpired):
                    worker.process.wait(max(0.0, until - time.monotonic()))
            self._bury(worker)
        self.workers.clear()
        self.reaper.close()
        self.rendezvous.close()


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    if os.name == "posix":
        end_group(process.pid)


def _slot(fields: Mapping[str, Any]) -> Slot:
    return Slot(**fields)
