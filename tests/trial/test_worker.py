"""The worker's side of the protocol, over a pipe, with jobs that are functions of the test."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import pytest

from autotl.atomic_io import DiskFull
from autotl.errors import BrokenPlugin
from autotl.study.needs import Recording
from autotl.trial import worker as module
from autotl.trial.worker import Mailbox, main, serve
from autotl.workers.codec import decode, encode
from autotl.workers.messages import (
    FROM_WORKER,
    Crashed,
    DiskIsFull,
    Finalize,
    Finalized,
    Hello,
    Log,
    PluginIsBroken,
    Probed,
    Ready,
    Record,
    Recorded,
    RunTrial,
    SearchFacts,
    SetDeadline,
    Setup,
    Stop,
)

WAIT = 5.0
"""Seconds after which a test gives up."""


@dataclass
class FakeJobs:
    """Jobs of a worker, whose trials call `on_trial(mailbox, time_budget)`."""

    mailbox: Mailbox
    on_trial: object
    finalized: list = field(default_factory=list)

    def run_trial(self, job):
        return self.on_trial(self.mailbox, job.time_budget)

    def record(self, job):
        self.mailbox.send(Recorded(None, job.recording.describe()))
        return True

    def finalize(self, job):
        self.finalized.append(job)
        return {"metric": "accuracy"}


@dataclass
class Scene:
    """A worker that serves on a thread, and the coordinator's end of its connection."""

    coordinator: Connection
    mailbox: Mailbox
    disconnected: threading.Event
    thread: threading.Thread
    ended: list
    """What `serve` returned or raised."""

    def send(self, *messages):
        for message in messages:
            self.coordinator.send_bytes(encode(message))

    def receive(self):
        assert self.coordinator.poll(WAIT), "no message"
        return decode(self.coordinator.recv_bytes(), FROM_WORKER)

    def end(self):
        self.thread.join(WAIT)
        assert not self.thread.is_alive()
        return self.ended[0]


@pytest.fixture
def serving(make_context, tmp_path):
    """`serving(on_trial, begin=None, imports=None)`: a worker that waits for Setup, and that Setup."""

    def make(on_trial=lambda mailbox, time_budget: True, begin=None, imports=None):
        coordinator, connection = Pipe()
        disconnected, ended = threading.Event(), []
        mailbox = Mailbox(connection, disconnected.set)

        def run():
            try:
                begins = begin or (lambda context, mailbox: FakeJobs(mailbox, on_trial))
                ended.append(serve(mailbox, begins, imports=imports))
            except BaseException as error:
                ended.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return Scene(coordinator, mailbox, disconnected, thread, ended), Setup(make_context(tmp_path), 60.0)

    return make


def test_setup_is_answered_by_ready_and_stop_ends_the_worker(serving):
    scene, setup = serving()
    scene.send(setup)
    assert scene.receive() == Ready()
    assert scene.mailbox.deadline.remaining() == pytest.approx(60, abs=WAIT)
    scene.send(Stop())
    assert scene.end() is True


def test_a_recording_runs_beside_imports_and_a_trial_waits_for_them(serving):
    imported, order = threading.Event(), []
    imports = threading.Thread(target=lambda: (imported.wait(WAIT), order.append("imported")), daemon=True)
    imports.start()
    scene, setup = serving(lambda mailbox, time_budget: order.append("trial") or True, imports=imports)
    scene.send(setup, Record(Recording("resnet18")), RunTrial(1, None))
    assert scene.receive() == Ready()
    assert isinstance(scene.receive(), Recorded)
    assert order == []
    imported.set()
    scene.send(Stop())
    assert scene.end() is True
    assert order == ["imported", "trial"]


def test_a_worker_may_be_stopped_before_setup(serving):
    scene, _ = serving()
    scene.send(Stop())
    assert scene.end() is True


def test_the_context_arrives_whole(serving):
    contexts = []

    def begin(context, mailbox):
        contexts.append(context)
        return FakeJobs(mailbox, None)

    scene, setup = serving(begin=begin)
    scene.send(setup)
    scene.receive()
    [context] = contexts
    assert context.config == setup.context.config
    assert context.dataset.paths == setup.context.dataset.paths
    assert context.split.train.tolist() == setup.context.split.train.tolist()


def test_trials_run_one_after_the_other_with_their_time_budgets(serving):
    def on_trial(mailbox, time_budget):
        mailbox.send(Log(f"{time_budget}"))
        return True

    scene, setup = serving(on_trial)
    scene.send(setup, RunTrial(0, 30.0), RunTrial(1, None), Stop())
    assert [scene.receive() for _ in range(3)] == [Ready(), Log("30.0"), Log("None")]
    assert scene.end() is True


def test_a_deadline_moves_while_a_trial_runs(serving):
    running, moved = threading.Event(), threading.Event()

    def on_trial(mailbox, time_budget):
        running.set()
        while not mailbox.deadline.passed():
            pass
        moved.set()
        return True

    scene, setup = serving(on_trial)
    scene.send(setup, SetDeadline(None), RunTrial(0, None))
    assert running.wait(WAIT)
    assert scene.mailbox.deadline.remaining() == float("inf")
    scene.send(SetDeadline(-1.0))
    assert moved.wait(WAIT)
    scene.send(Stop())
    assert scene.end() is True


def test_finalize_is_answered_by_its_result(serving):
    scene, setup = serving()
    facts = SearchFacts(1.0, {"complete": 2}, {"torch": "2"})
    scene.send(setup, Finalize(None, {}, facts))
    assert [scene.receive(), scene.receive()] == [Ready(), Finalized({"metric": "accuracy"})]
    scene.send(Stop())
    scene.end()


def test_features_are_recorded_ahead_as_a_job_of_its_own(serving):
    scene, setup = serving()
    scene.send(setup, Record(Recording("resnet18", "dihedral", 7)), Stop())
    assert [scene.receive(), scene.receive()] == [Ready(), Recorded(None, "resnet18, 7 views of dihedral")]
    assert scene.end() is True


def test_after_a_device_error_serve_returns_false(serving):
    scene, setup = serving(lambda mailbox, time_budget: False)
    scene.send(setup, RunTrial(0, None), RunTrial(0, None))
    assert scene.end() is False


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (BrokenPlugin("plugin 'moon' failed"), PluginIsBroken("plugin 'moon' failed")),
        (DiskFull("no room for /data/x", "/data/x"), DiskIsFull("no room for /data/x", "/data/x")),
    ],
)
def test_errors_that_end_the_search_are_sent_as_their_messages(serving, error, message):
    def on_trial(mailbox, time_budget):
        raise error

    scene, setup = serving(on_trial)
    scene.send(setup, RunTrial(0, None))
    assert scene.receive() == Ready()
    sent = scene.receive()
    assert type(sent) is type(message)
    assert sent.text == message.text
    assert scene.end() is error


def test_a_disk_that_the_system_calls_full_is_full(serving):
    def on_trial(mailbox, time_budget):
        raise OSError(errno.ENOSPC, "No space left on device")

    scene, setup = serving(on_trial)
    scene.send(setup, RunTrial(0, None))
    assert scene.receive() == Ready()
    sent = scene.receive()
    assert isinstance(sent, DiskIsFull)
    assert sent.path == setup.context.folder


def test_any_other_error_is_sent_with_its_traceback(serving):
    def on_trial(mailbox, time_budget):
        raise KeyError("moon")

    scene, setup = serving(on_trial)
    scene.send(setup, RunTrial(0, None))
    assert scene.receive() == Ready()
    sent = scene.receive()
    assert isinstance(sent, Crashed)
    assert sent.traceback.splitlines()[0].startswith("Traceback")
    assert sent.traceback.splitlines()[-1] == "KeyError: 'moon'"
    assert isinstance(scene.end(), KeyError)


def test_an_error_while_setting_up_is_sent(serving):
    def begin(context, mailbox):
        raise RuntimeError("no driver")

    scene, setup = serving(begin=begin)
    scene.send(setup)
    assert scene.receive().traceback.endswith("RuntimeError: no driver\n")
    assert isinstance(scene.end(), RuntimeError)


def test_a_job_before_setup_ends_the_worker(serving):
    scene, _ = serving()
    scene.send(RunTrial(0, None))
    assert "RunTrial arrived before Setup" in scene.receive().traceback


def test_a_broken_connection_ends_the_process(serving):
    scene, setup = serving()
    scene.send(setup)
    scene.receive()
    scene.coordinator.close()
    assert scene.disconnected.wait(WAIT)


@pytest.mark.parametrize("content", [b"no message", b'{"type": "Ready"}', b'{"type": "SetDeadline", "moment": 1}'])
def test_bytes_of_another_protocol_end_the_process(serving, content, capsys):
    scene, _ = serving()
    scene.coordinator.send_bytes(content)
    assert scene.disconnected.wait(WAIT)
    assert "ProtocolError" in capsys.readouterr().err


@pytest.fixture
def coordinator(monkeypatch):
    """The coordinator's end of the connection of a `main` that runs in this process."""
    coordinator, connection = Pipe()
    slot = {"name": "cuda:0", "device_type": "cuda", "device": "cuda:0", "threads": 2, "environment": {"A": "b"}}
    monkeypatch.setenv("AUTOTL_WORKER_KEY", b"key".hex())
    monkeypatch.setenv("AUTOTL_WORKER", json.dumps({"token": "t", "slot": slot}))
    monkeypatch.setattr(module, "Client", lambda address, authkey: connection if authkey == b"key" else None)
    monkeypatch.setattr(module, "_kill_process_group", lambda: None)
    monkeypatch.setattr(module, "serve", lambda mailbox, begin, seconds, imports: True)
    monkeypatch.setattr(module, "ask_device", lambda mailbox, device: None)
    before = signal.getsignal(signal.SIGINT)
    yield coordinator
    signal.signal(signal.SIGINT, before)


def test_a_worker_sends_hello_before_its_slow_imports(coordinator, monkeypatch):
    greeted = []

    def import_modules(names):
        if "torch" in [*names]:  # not those that are imported beside the first job
            greeted.append(coordinator.poll(0))

    monkeypatch.setattr(module, "import_modules", import_modules)
    main("/tmp/somewhere")
    hello = decode(coordinator.recv_bytes(), FROM_WORKER)
    assert isinstance(hello, Hello)
    assert (hello.token, hello.slot.name, hello.slot.environment) == ("t", "cuda:0", {"A": "b"})
    assert greeted
    assert all(greeted)
    assert "AUTOTL_WORKER_KEY" not in os.environ


def test_a_worker_probes_its_device_before_it_waits_for_jobs():
    coordinator, connection = Pipe()
    mailbox = Mailbox(connection, lambda: None)
    module.ask_device(mailbox, "cpu")
    answer = decode(coordinator.recv_bytes(), FROM_WORKER)
    assert isinstance(answer, Probed)
    assert (answer.probe.device, answer.probe.usable) == ("cpu", True)


def test_a_worker_whose_device_does_not_work_ends_without_a_crash(monkeypatch):
    codes = []
    coordinator, connection = Pipe()
    monkeypatch.setattr(module.os, "_exit", codes.append)
    module.ask_device(Mailbox(connection, lambda: None), "xpu:7")
    assert not decode(coordinator.recv_bytes(), FROM_WORKER).probe.usable
    assert codes == [0]


def test_a_device_is_probed_while_libraries_are_imported_and_before_the_first_job(coordinator, monkeypatch):
    done = []
    imports, probed = threading.Event(), threading.Event()

    def import_modules(names):
        if [*names] != ["torch"]:
            imports.set()
            assert probed.wait(WAIT)

    def ask_device(mailbox, device):
        assert imports.wait(WAIT)
        probed.set()
        done.append(f"probed {device}")

    monkeypatch.setattr(module, "import_modules", import_modules)
    monkeypatch.setattr(module, "ask_device", ask_device)
    monkeypatch.setattr(module, "serve", lambda mailbox, begin, seconds, imports: done.append("served") or True)
    main("/tmp/somewhere")
    assert done == ["probed cuda:0", "served"]


def test_ctrl_c_is_left_to_the_coordinator(coordinator):
    main("/tmp/somewhere")
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


@pytest.mark.parametrize(("reliable", "exits"), [(True, []), (False, [1])])
def test_after_a_device_error_the_process_exits_immediately(coordinator, monkeypatch, reliable, exits):
    codes = []
    monkeypatch.setattr(module, "serve", lambda mailbox, begin, seconds, imports: reliable)
    monkeypatch.setattr(module.os, "_exit", codes.append)
    main("/tmp/somewhere")
    assert codes == exits


def test_a_process_without_its_coordinator_kills_its_children():
    code = (
        "import subprocess, sys\n"
        "from autotl.trial.worker import _kill_process_group\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "_kill_process_group()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    assert process.wait(WAIT) == -signal.SIGKILL
    assert process.stdout.read() == b""  # returns once no process holds the pipe open
    process.stdout.close()
