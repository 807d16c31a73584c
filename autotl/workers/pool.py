"""The workers of one search, whichever launcher started them: what each does now, and whose messages have arrived."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from autotl.clock import Clock, SystemClock
from autotl.devices import Slot
from autotl.engines.probe import ProbeResult
from autotl.study.needs import Recording
from autotl.workers.launcher import Ending, Launcher
from autotl.workers.messages import (
    Context,
    FromWorker,
    Hello,
    Probed,
    Record,
    RunTrial,
    SetDeadline,
    Setup,
    Stop,
    ToWorker,
)
from autotl.workers.requests import REQUESTS

if TYPE_CHECKING:
    from autotl.workers.service import StudyService

__all__ = ["MAX_CRASHES", "CrashCounter", "Worker", "WorkerPool", "remaining_or_none"]

MAX_CRASHES = 3
"""Crashed workers in a row after which a device is disabled."""
STOP_WAIT = 2.0
"""Seconds that idle workers get to end by themselves."""


def remaining_or_none(seconds: float) -> float | None:
    """Seconds for a message: JSON has no infinity, so None stands for no limit."""
    return None if math.isinf(seconds) else seconds


@dataclass(eq=False)
class Worker:
    """One worker process, as its coordinator sees it. Moments are of the pool's clock."""

    slot: Slot
    identity: str
    """What the launcher calls it."""
    last_message: float
    since: float
    """When its current job, or its start, began."""
    joined: bool = False
    """Another process started it, and restarts it."""
    connected: bool = False
    probe: ProbeResult | None = None
    """What its device answered; None until it has."""
    ready: bool = False
    busy: bool = False
    trial: int | None = None
    """The trial that it has got and not yet ended."""
    recording: Recording | None = None
    """The features that it records ahead."""
    strategy: str = ""
    description: str = ""
    """The recipe of its trial in one line."""
    activity: str = "starting"
    hook: str = ""
    """The plugin's hook that it waits for after its trial was told, in words."""
    num_trials: int = 0
    """Trials that this process has run."""
    leaving: bool = False
    """It was told to stop, so its end is not a crash."""
    killed: str = ""
    """Why the coordinator killed it, "" where it did not."""

    def idle(self) -> None:
        """Its job is done."""
        self.busy, self.trial, self.recording, self.activity = False, None, None, "waiting"
        self.strategy = self.description = self.hook = ""


class CrashCounter:
    """Crashes in a row, for each device or slot."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def crashed(self, name: str) -> bool:
        """Count a crash; whether the device is to be disabled."""
        self._counts[name] += 1
        return self._counts[name] >= MAX_CRASHES

    def succeeded(self, name: str) -> None:
        """Something worked there: forget its crashes."""
        del self._counts[name]

    def __getitem__(self, name: str) -> int:
        return self._counts[name]


@dataclass
class WorkerPool:
    """Starts a worker on each slot, sends jobs, and yields what workers answer.

    `launcher.receive` is called by `poll` alone, so that no message is lost.
    """

    launcher: Launcher
    slots: list[Slot]
    clock: Clock = field(default_factory=SystemClock)
    context: Context | None = None
    """What each worker needs before its first job; None until `set_up`."""
    workers: list[Worker] = field(default_factory=list)
    service: "StudyService | None" = None
    """Answers workers that can't read the study's folder."""
    _deadline: float = math.inf

    def __post_init__(self) -> None:
        for slot in self.slots:
            self.add(slot)

    def add(self, slot: Slot) -> Worker:
        """Start one more worker."""
        self.workers.append(self._start(slot))
        return self.workers[-1]

    def _start(self, slot: Slot) -> Worker:
        now = self.clock.now()
        return Worker(slot, self.launcher.start(slot), last_message=now, since=now)

    def set_up(self, context: Context) -> None:
        """Give the context to all workers, now or when they connect."""
        self.context = context
        for worker in self.workers:
            if worker.connected:
                self._set_up(worker)

    def _set_up(self, worker: Worker) -> None:
        if self.context:
            context = replace(self.context, slot=worker.slot)
            self.launcher.send(worker.identity, Setup(context, self._remaining()))

    def set_deadline(self, moment: float) -> None:
        """Set the moment at which trials have to be done, infinity for none; it may move while they run."""
        if moment != self._deadline:
            self._deadline = moment
            for worker in self.workers:
                self.launcher.send(worker.identity, SetDeadline(self._remaining()))

    def _remaining(self) -> float | None:
        return remaining_or_none(self._deadline - self.clock.now())

    def poll(self, timeout: float) -> Iterator[tuple[Worker, FromWorker | Ending]]:
        """Yield messages that have arrived, then the Ending of each worker that is gone; waits up to `timeout` seconds
        for the first message. The caller drops or replaces a worker whose Ending it gets."""
        for slot in self.launcher.new_slots():
            self.slots.append(slot)
            self.add(slot)
        yield from self._messages(timeout)
        gone = [worker for worker in self.workers if not self._alive(worker)]
        if gone:
            yield from self._messages(0)  # what they sent before they ended
        for worker in gone:
            if self.service:
                self.service.forget(worker.identity)
            if worker in self.workers:
                yield worker, self._ending(worker)

    def _messages(self, timeout: float) -> Iterator[tuple[Worker, FromWorker]]:
        for identity, message in self.launcher.receive(timeout):
            worker = next((w for w in self.workers if w.identity == identity), None)
            if isinstance(message, Hello):
                worker = worker or self._join(identity, message.slot)
                worker.connected = True
                self._set_up(worker)
            if isinstance(message, Probed) and worker is not None:
                worker.probe = message.probe
            if worker is None:  # a dropped worker's messages are late
                continue
            worker.last_message = self.clock.now()
            if not isinstance(message, REQUESTS):
                yield worker, message
            elif self.service:
                self.launcher.send(identity, self.service.answer(identity, message))

    def _join(self, identity: str, slot: Slot) -> Worker:
        now = self.clock.now()
        self.workers.append(Worker(slot, identity, last_message=now, since=now, joined=True))
        return self.workers[-1]

    def _alive(self, worker: Worker) -> bool:
        return self.launcher.alive(worker.identity)

    def _ending(self, worker: Worker) -> Ending:
        ending = self.launcher.how_it_ended(worker.identity)
        return replace(ending, cause=worker.killed) if worker.killed else ending

    def give(self, worker: Worker, job: ToWorker, activity: str) -> None:
        """Send a job to an idle worker."""
        worker.busy, worker.activity = True, activity
        worker.trial = job.number if isinstance(job, RunTrial) else None
        worker.recording = job.recording if isinstance(job, Record) else None
        worker.since = worker.last_message = self.clock.now()
        self.launcher.send(worker.identity, job)

    def leave(self, worker: Worker) -> None:
        """Ask a worker to end; `poll` yields its Ending."""
        worker.leaving, worker.ready, worker.activity = True, False, "stopping"
        self.launcher.send(worker.identity, Stop())

    def kill(self, worker: Worker, why: str) -> None:
        """End a worker immediately; `poll` yields its Ending, with `why` as its cause."""
        worker.killed = why
        self.launcher.kill(worker.identity)

    def replace(self, worker: Worker) -> Worker:
        """Start a new process in the place of one that ended."""
        new = self._start(worker.slot)
        self.workers[self.workers.index(worker)] = new
        self.launcher.kill(worker.identity)  # its children may live on
        return new

    def fall_back(self, launcher: Launcher) -> None:
        """Go on with another launcher, once all workers are gone."""
        self.launcher.close()
        self.launcher = launcher

    def drop(self, worker: Worker, *, slot_lost: bool = False) -> None:
        """Do without a worker, and end it. Where its host is gone, its slot is forgotten."""
        self.workers.remove(worker)
        if slot_lost:
            self.slots = [slot for slot in self.slots if slot.name != worker.slot.name]
        self.launcher.kill(worker.identity)

    def close(self, *, immediately: bool = False) -> None:
        """End all workers: idle ones by themselves unless `immediately`, the others are killed. Idempotent."""
        waiting = []
        for worker in self.workers:
            if worker.busy or immediately:
                self.launcher.kill(worker.identity)
            else:
                self.launcher.send(worker.identity, Stop())
                waiting.append(worker)
        end = self.clock.now() + STOP_WAIT
        while any(self._alive(w) for w in waiting if not w.joined) and self.clock.now() < end:
            self.clock.sleep(0.02)
        for worker in waiting:
            self.launcher.kill(worker.identity)
        self.workers.clear()
        self.launcher.close()
