"""Checks of the launcher contract with real worker processes: each check starts workers and leaves none behind."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from autotl.devices import Slot
from autotl.testing.check import Checks, expect
from autotl.workers.launcher import Ending, Launcher
from autotl.workers.messages import FromWorker, Hello, Probed, SetDeadline, Stop

__all__ = ["LAUNCHER"]

LAUNCHER = Checks("launcher", Launcher, options=("slot",))
CPU = Slot("cpu:0", "cpu", "cpu", 1, {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""})
START_SECONDS = 120.0
"""A worker on a loaded machine, with a cold disk, has connected by then."""
END_SECONDS = 30.0
PROBE_SECONDS = 2.0
ATTEMPTS = 5


@LAUNCHER.requires(Launcher.start)
def starts_at_once_and_greets(launcher: Launcher, slot: Slot = CPU) -> None:
    """`start` returns an identity of its own for each worker without waiting for it; each worker greets with Hello,
    which names its slot, before any other message."""
    started = time.monotonic()
    with _worker(launcher, slot) as one, _worker(launcher, slot) as other:
        expect(time.monotonic() - started < 5, f"start took {time.monotonic() - started:.1f} s for two workers")
        expect(isinstance(one, str) and one != other, f"the identities are {one!r} and {other!r}")
        for first in _first(launcher, one, other):
            expect(isinstance(first, Hello), f"the first message is {first!r}")
            expect(isinstance(first, Hello) and first.slot == slot, f"Hello names {first!r}, not {slot}")


@LAUNCHER.requires(Launcher.receive)
def receives_within_the_timeout(launcher: Launcher, slot: Slot = CPU) -> None:
    """`receive` returns a list when nothing arrives, after the timeout and not much later."""
    with _worker(launcher, slot) as worker:
        _first(launcher, worker)
        launcher.receive(PROBE_SECONDS)  # a worker whose libraries are imported already probes its device at once
        for _ in range(ATTEMPTS):
            started = time.monotonic()
            received = launcher.receive(0.2)
            took = time.monotonic() - started
            messages = [message for _, message in received if not isinstance(message, Probed)]
            expect(messages == [], f"a worker that waits for its context has sent {messages!r}")
            if took > 0.1:  # else the end of another check's worker may have ended the call
                break
        expect(0.1 < took < 5, f"receive(0.2) took {took:.2f} s")


@LAUNCHER.requires(Launcher.send)
def stops_a_worker_that_is_asked_to(launcher: Launcher, slot: Slot = CPU) -> None:
    """Messages arrive in order: after SetDeadline and Stop the worker ends by itself, with exit code 0 where exit codes
    are known."""
    with _worker(launcher, slot) as worker:
        _first(launcher, worker)
        expect(launcher.alive(worker) is True, "a worker that has greeted isn't alive")
        launcher.send(worker, SetDeadline(10.0))
        launcher.send(worker, Stop())
        expect(_gone(launcher, worker), f"it is alive {END_SECONDS:.0f} s after Stop")
        ending = launcher.how_it_ended(worker)
        expect(isinstance(ending, Ending) and ending.exit_code in (0, None), f"how_it_ended is {ending!r}")


@LAUNCHER.requires(Launcher.kill)
def kills_at_once(launcher: Launcher, slot: Slot = CPU) -> None:
    """`kill` ends a worker that has just started as well as one that is connected; it may be called again, and
    `how_it_ended` has a cause in words."""
    with _worker(launcher, slot) as worker:
        launcher.kill(worker)
        launcher.kill(worker)
        expect(_gone(launcher, worker), "it is alive after it was killed")
        cause = launcher.how_it_ended(worker).cause
        expect(isinstance(cause, str) and cause.strip(), f"the cause is {cause!r}")


@LAUNCHER.requires(Launcher.send)
def a_message_to_a_worker_that_is_gone_is_dropped(launcher: Launcher, slot: Slot = CPU) -> None:
    """`send` to a worker that is not connected yet, or gone, raises nothing."""
    with _worker(launcher, slot) as worker:
        launcher.send(worker, SetDeadline(None))
        launcher.kill(worker)
        launcher.send(worker, Stop())


@contextmanager
def _worker(launcher: Launcher, slot: Slot) -> Iterator[str]:
    worker = launcher.start(slot)
    try:
        yield worker
    finally:
        launcher.kill(worker)


def _first(launcher: Launcher, *workers: str) -> list[FromWorker | None]:
    """The first message of each worker; None where there is none in time."""
    first: dict[str, FromWorker] = {}
    end = time.monotonic() + START_SECONDS
    while not first.keys() >= set(workers) and time.monotonic() < end:
        for worker, message in launcher.receive(0.2):
            first.setdefault(worker, message)
    return [first.get(worker) for worker in workers]


def _gone(launcher: Launcher, worker: str) -> bool:
    end = time.monotonic() + END_SECONDS
    while launcher.alive(worker) and time.monotonic() < end:
        launcher.receive(0.1)
    return not launcher.alive(worker)
