"""A worker process, `python -m autotl.trial.worker ADDRESS`: one for each device slot, for many trials.

It is a program of its own, so that its environment is set before torch is imported, and so that a search works from a
notebook as well as from a script. It ends when its coordinator does.
"""

import gc
import json
import math
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any, Protocol

from autotl.atomic_io import as_disk_full
from autotl.clock import Deadline
from autotl.clusters import Site
from autotl.devices import Slot
from autotl.engines.probe import ProbeResult
from autotl.errors import BrokenPlugin, HostUnfit
from autotl.imports import import_modules, without_collection
from autotl.workers.codec import ProtocolError, decode, encode
from autotl.workers.messages import (
    FROM_COORDINATOR,
    Align,
    Context,
    Crashed,
    DiskIsFull,
    Finalize,
    Finalized,
    FromWorker,
    Hello,
    PluginIsBroken,
    Probed,
    Ready,
    Record,
    RecordTest,
    RunTrial,
    SetDeadline,
    Setup,
    Stop,
    ToWorker,
)
from autotl.workers.requests import Answer, Request

__all__ = ["Jobs", "Mailbox", "main", "serve"]

HEAD_LIBRARIES = ("sklearn.linear_model", "sklearn.svm", "skops.io")
FIRST_JOBS = ("autotl.trial.recording", "autotl.trial.runner")
LATER_JOBS = ("autotl.trial.aligning", "autotl.trial.finalize", "autotl.trial.recorded_test")
EARLY_IMPORTS = ("torch", *HEAD_LIBRARIES, "timm", "optuna", *FIRST_JOBS, *LATER_JOBS)
"""Modules that take seconds to import: a worker imports them while the coordinator verifies the images. skops.io comes
before timm: it looks for each of its 800 types in all modules that are imported, of which timm brings two thousand."""
LATE_IMPORTS = (*HEAD_LIBRARIES, *LATER_JOBS)
"""Those of them that an accelerator's worker imports beside its first job, which is to record features."""


class Channel(Protocol):
    """The methods of `multiprocessing.connection.Connection` that a worker uses."""

    def send_bytes(self, buf: bytes, /) -> None: ...

    def recv_bytes(self) -> bytes: ...


class Mailbox:
    """The worker's end of the connection to its coordinator. Any thread may send.

    A thread of its own receives, so that a deadline that moves reaches the job that is running, and that a worker
    without a coordinator ends at once.

    Args:
        on_disconnect: called on the receiving thread, once, when the connection is broken.
    """

    def __init__(self, channel: Channel, on_disconnect: Callable[[], object]):
        self.deadline = Deadline()
        """When trials have to be done."""
        self._channel, self._on_disconnect = channel, on_disconnect
        self._sending = threading.Lock()
        self._received: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
        self._answers: dict[int, queue.SimpleQueue[Answer]] = {}
        self._numbers = count()
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, message: FromWorker) -> None:
        """Send a message to the coordinator. Raises OSError where the connection is broken."""
        content = encode(message)
        with self._sending:
            self._channel.send_bytes(content)

    def receive(self) -> ToWorker:
        """The next message that is not SetDeadline; waits for it."""
        return self._received.get()

    def ask(self, request: Callable[[int], Request]) -> Any:
        """Send the request that `request` makes of a number, and wait for the value of its answer. Any thread may ask.

        Raises:
            OSError: the coordinator refuses, or the connection is broken.
        """
        number = next(self._numbers)
        answers = self._answers[number] = queue.SimpleQueue[Answer]()
        try:
            self.send(request(number))
            answer = answers.get()
        finally:
            del self._answers[number]
        if answer.error:
            raise OSError(f"the coordinator refused a request: {answer.error}")
        return answer.value

    def _listen(self) -> None:
        try:
            while True:
                message = decode(self._channel.recv_bytes(), FROM_COORDINATOR)
                if isinstance(message, Setup | SetDeadline):
                    self.deadline.move(_seconds(message.remaining))
                if isinstance(message, Answer):
                    if waiting := self._answers.get(message.number):
                        waiting.put(message)
                elif not isinstance(message, SetDeadline):
                    self._received.put(message)
        except (EOFError, OSError):
            self._on_disconnect()
        except ProtocolError:
            traceback.print_exc()  # to the worker's log
            self._on_disconnect()


class Jobs:
    """The jobs of a worker."""

    def __init__(self, context: Context, mailbox: Mailbox, site: Site | None = None):
        import torch

        from autotl.trial.state import WorkerState
        from autotl.trial.study_link import StudyLink

        torch.set_num_threads(context.slot.threads)
        link = StudyLink(mailbox.ask, site) if site else None
        self.state = WorkerState.set_up(context, mailbox.send, mailbox.deadline, link)
        gc.freeze()  # the garbage collection after each trial skips the million objects of the libraries

    @contextmanager
    def _current_study(self) -> Iterator[None]:
        """Around a job, which sees what the coordinator wrote before it and leaves nothing unsent."""
        link = self.state.link
        if link:
            link.expire()
        yield
        if link:
            link.flush()

    def run_trial(self, job: RunTrial) -> bool:
        """Whether the process can go on (see `autotl.trial.runner.run_trial`)."""
        from autotl.trial.runner import run_trial

        with self._current_study():
            return run_trial(self.state, job.number, _seconds(job.time_budget), job.source, job.sample)

    def record(self, job: Record) -> bool:
        """Whether the process can go on (see `autotl.trial.recording.record`)."""
        from autotl.trial.recording import record

        with self._current_study():
            return record(self.state, job.recording)

    def record_test(self, job: RecordTest) -> bool:
        """Whether the process can go on (see `autotl.trial.recorded_test.record_test`)."""
        from autotl.trial.recorded_test import record_test

        with self._current_study():
            return record_test(self.state, job)

    def align(self, job: Align) -> bool:
        """Whether the process can go on (see `autotl.trial.aligning.align`)."""
        from autotl.trial.aligning import align

        with self._current_study():
            return align(self.state, job)

    def finalize(self, job: Finalize) -> Mapping[str, Any]:
        """What `result.json` holds (see `autotl.trial.finalize.finalize`)."""
        from autotl.trial.finalize import finalize

        with self._current_study():
            return finalize(self.state, job)


def serve(
    mailbox: Mailbox,
    begin: Callable[[Context, Mailbox], Jobs] = Jobs,
    seconds: float = 0.0,
    imports: threading.Thread | None = None,
) -> bool:
    """Do jobs until Stop. An exception is sent to the coordinator as PluginIsBroken, DiskIsFull or Crashed, and raised.

    Args:
        seconds: in which the worker has imported its libraries.
        imports: imports others beside the first job. Only recording may run beside it: SciPy and scikit-learn ask which
            array libraries are imported, and fail where one is imported by half.

    Returns:
        False after an accelerator error: the process must exit immediately.
    """
    folder: Path | None = None
    jobs: Jobs | None = None
    try:
        while True:
            message = mailbox.receive()
            if imports and not isinstance(message, Setup | Record | Stop):
                imports.join()
            match message:
                case Setup(context):
                    folder = context.folder
                    jobs = begin(context, mailbox)
                    mailbox.send(Ready(round(seconds, 3)))
                case RunTrial() if jobs:
                    if not jobs.run_trial(message):
                        return False
                case Record() if jobs:
                    if not jobs.record(message):
                        return False
                case RecordTest() if jobs:
                    if not jobs.record_test(message):
                        return False
                case Align() if jobs:
                    if not jobs.align(message):
                        return False
                case Finalize() if jobs:
                    mailbox.send(Finalized(jobs.finalize(message)))
                case Stop():
                    return True
                case _:
                    raise ProtocolError(f"{type(message).__name__} arrived before Setup.")
    except BaseException as error:
        with suppress(OSError):  # the coordinator is gone
            mailbox.send(_last_message(error, folder))
        raise


def _last_message(error: BaseException, folder: Path | None) -> FromWorker:
    """The message about an exception that ends the process."""
    if isinstance(error, HostUnfit):
        return Probed(ProbeResult("", usable=False, reason=str(error)))
    if isinstance(error, BrokenPlugin):  # --strict-plugins
        return PluginIsBroken(str(error))
    if folder and (full := as_disk_full(error, folder)):
        return DiskIsFull(str(full), full.path)
    return Crashed("".join(traceback.format_exception(error)))


def _seconds(remaining: float | None) -> float:
    """Seconds from a message, in which None stands for no limit."""
    return math.inf if remaining is None else remaining


def main(address: str, imported_in: float = 0.0) -> None:
    """Connect to the coordinator and do its jobs.

    The environment holds AUTOTL_WORKER_KEY, the key of the connection in hexadecimal digits, and AUTOTL_WORKER, the
    fields of Hello and the folders of a worker on another host as JSON.

    Args:
        imported_in: seconds that the process from which this one was forked has taken to import the libraries.
    """
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # a terminal sends Ctrl-C to all its processes: the coordinator decides
    key = bytes.fromhex(os.environ.pop("AUTOTL_WORKER_KEY"))
    identity = json.loads(os.environ.pop("AUTOTL_WORKER"))
    mailbox = Mailbox(Client(address, authkey=key), _kill_process_group)
    slot = Slot(**identity["slot"])
    mailbox.send(Hello(identity["token"], slot))
    late = LATE_IMPORTS if slot.is_accelerator else ()
    began = time.monotonic()
    # what a driver does until a device has computed something needs no Python, so the next imports run beside it
    probing = threading.Thread(target=ask_device, args=(mailbox, slot.device), daemon=True, name="probe")
    with without_collection():
        import_modules(["torch"])
        probing.start()
        import_modules(module for module in EARLY_IMPORTS if module not in late)
    probing.join()
    seconds = imported_in or time.monotonic() - began
    imports = threading.Thread(target=import_modules, args=(late,), daemon=True, name="imports")
    imports.start()
    site = Site(**identity["site"]) if identity.get("site") else None
    if not serve(mailbox, partial(Jobs, site=site), seconds, imports):
        os._exit(1)  # exit immediately: after a CUDA error a normal interpreter shutdown can hang in the driver


def ask_device(mailbox: Mailbox, device: str) -> None:
    """Probe the worker's device and send the answer. Ends the process where the device isn't usable."""
    from autotl.engines.probe import probe

    result = probe(device)
    mailbox.send(Probed(result))
    if not result.usable:
        os._exit(0)  # no crash; immediately, since a driver that doesn't work may hang at a normal interpreter shutdown


def _kill_process_group() -> None:
    """End this process and its children immediately: without a coordinator their results are of no use."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
