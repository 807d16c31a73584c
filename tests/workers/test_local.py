"""Worker processes on this machine: how they start, what is said of their end, and that none is left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import autotl
from autotl.devices import Slot, parse_devices
from autotl.testing import launcher_checks
from autotl.workers import forking, local
from autotl.workers.local import LocalLauncher
from autotl.workers.messages import Hello, Log, Ready, Stop
from autotl.workers.rendezvous import Rendezvous

pytestmark = pytest.mark.slow

SLOT = Slot("cpu:0", "cpu", "cpu", 1, {"AUTOTL_TEST_SLOT": "yes"})

WORKER = """
import json, os, sys
from multiprocessing.connection import Client
from autotl.devices import Slot
from autotl.workers.codec import decode, encode
from autotl.workers.messages import FROM_COORDINATOR, Hello, Log, Ready, Stop

identity = json.loads(os.environ["AUTOTL_WORKER"])
connection = Client(sys.argv[-1], authkey=bytes.fromhex(os.environ["AUTOTL_WORKER_KEY"]))
connection.send_bytes(encode(Hello(identity["token"], Slot(**identity["slot"]))))
connection.send_bytes(encode(Log(os.environ["AUTOTL_TEST_SLOT"])))
print("last words", flush=True)
while not isinstance(message := decode(connection.recv_bytes(), FROM_COORDINATOR), Stop):
    connection.send_bytes(encode(Ready()))
"""


TEMPLATE = """
import runpy, sys
from autotl.trial import template, worker

def run(address, imported_in):
    sys.argv = ["worker.py", address]
    runpy.run_path("worker.py")

worker.EARLY_IMPORTS, worker.main = (), run
template.main(int(sys.argv[1]))
"""


@pytest.fixture(params=["forked", "started"])
def launcher(request, tmp_path, monkeypatch):
    """A launcher whose workers run WORKER instead of autotl's own."""
    (tmp_path / "worker.py").write_text(WORKER)
    (tmp_path / "template.py").write_text(TEMPLATE.replace("worker.py", str(tmp_path / "worker.py")))
    real = subprocess.Popen

    def popen(command, **options):
        for name in ("worker", "template"):
            if f"autotl.trial.{name}" in command:
                command = [sys.executable, str(tmp_path / f"{name}.py"), command[-1]]
        return real(command, **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr(local, "can_fork", lambda: request.param == "forked")
    monkeypatch.setattr(forking, "_templates", {})
    made = LocalLauncher(tmp_path / "logs", Rendezvous(tmp_path))
    yield made
    made.close()
    for template in forking._templates.values():
        template.close()


def received(launcher, count, seconds=20):
    """The first messages to arrive."""
    messages, end = [], time.monotonic() + seconds
    while len(messages) < count and time.monotonic() < end:
        messages += launcher.receive(0.2)
    return messages


def test_a_worker_greets_answers_and_stops(launcher, until):
    worker = launcher.start(SLOT)
    assert launcher.alive(worker)
    assert received(launcher, 2) == [(worker, Hello(worker, SLOT)), (worker, Log("yes"))]
    from autotl.workers.messages import SetDeadline

    launcher.send(worker, SetDeadline(1.0))
    assert received(launcher, 1) == [(worker, Ready())]
    launcher.send(worker, Stop())
    until(lambda: not launcher.alive(worker), 10)
    ending = launcher.how_it_ended(worker)
    assert (ending.exit_code, ending.cause) == (0, "the worker ended (exit code 0): last words")
    assert Path(ending.log).read_text() == "last words\n"


def test_workers_stay_in_the_folder_that_was_current_when_the_launcher_was_made(launcher, tmp_path, monkeypatch):
    before = Path.cwd()
    monkeypatch.chdir(tmp_path)
    worker = launcher.start(SLOT)
    received(launcher, 2)
    assert Path(f"/proc/{launcher.pid(worker)}/cwd").resolve() == before


def test_a_killed_worker_is_named_with_its_signal(launcher, until):
    worker = launcher.start(SLOT)
    received(launcher, 2)
    os.kill(launcher.pid(worker), signal.SIGKILL)
    until(lambda: not launcher.alive(worker), 10)
    launcher.receive(0)
    cause = launcher.how_it_ended(worker).cause
    assert cause.startswith(
        "the worker ended (killed by signal 9, SIGKILL, which the system sends when memory runs out)"
    )
    launcher.send(worker, Stop())  # to nobody


def test_a_worker_that_the_launcher_kills_is_gone_at_once(launcher):
    worker = launcher.start(SLOT)
    launcher.kill(worker)
    launcher.kill(worker)
    assert not launcher.alive(worker)
    assert launcher.how_it_ended(worker).exit_code == -9


@pytest.mark.parametrize("crashes", [False, True])
def test_a_worker_of_another_process_joins_and_leaves_or_crashes(crashes, launcher, tmp_path):
    from autotl.workers.rendezvous import Endpoint

    theirs = LocalLauncher(tmp_path / "theirs", Endpoint.find(tmp_path))
    try:
        joined = theirs.start(SLOT)
        assert received(launcher, 2)[0] == (joined, Hello(joined, SLOT))
        assert launcher.alive(joined)
        assert launcher.pid(joined) is None
        assert theirs.receive(0) == []
        if crashes:
            os.kill(theirs.pid(joined), signal.SIGKILL)
        else:
            theirs.kill(joined)
        while launcher.alive(joined):
            launcher.receive(0.1)
        assert launcher.how_it_ended(joined).left is not crashes
    finally:
        theirs.close()


@pytest.mark.parametrize("content", [b"\x80\x04]\x94.", b'{"type": "Ready"}'])
def test_a_connection_without_a_greeting_is_closed_and_others_go_on(content, launcher):
    from multiprocessing.connection import Client

    stranger = Client(launcher.endpoint.address, authkey=launcher.endpoint.key)
    stranger.send_bytes(content)
    worker = launcher.start(SLOT)
    assert {identity for identity, _ in received(launcher, 2)} == {worker}
    with pytest.raises(EOFError):
        stranger.recv_bytes()


def test_of_a_fatal_error_the_headline_is_the_last_line(launcher, until):
    worker = launcher.start(SLOT)
    received(launcher, 2)
    log = Path(launcher._processes[worker].log)
    with log.open("a") as file:
        file.write("Fatal Python error: Segmentation fault\n\nCurrent thread:\n  File x\n")
    launcher.kill(worker)
    assert launcher.how_it_ended(worker).cause.endswith("Fatal Python error: Segmentation fault")


def test_the_last_line_is_the_processs_own_where_the_log_holds_earlier_ones(launcher, tmp_path):
    log = tmp_path / "logs" / "worker-cpu-0.log"
    log.write_text("ValueError: of the process before\n")
    worker = launcher.start(SLOT)
    launcher.kill(worker)
    assert "of the process before" not in launcher.how_it_ended(worker).cause


CHILD = """
import os, pathlib, subprocess, sys
def begin():
    child = subprocess.Popen(["sleep", "60"])
    (pathlib.Path(__file__).parent / f"child-{child.pid}").touch()
if "AUTOTL_WORKER" in os.environ:
    begin()
elif "autotl.trial.template" in sys.orig_argv:
    os.register_at_fork(after_in_child=lambda: (os.setsid(), setattr(os, "setsid", int), begin()))
"""


@pytest.mark.parametrize("forked", [True, False])
def test_workers_and_their_children_die_with_a_killed_coordinator_even_when_they_hang(
    forked, until, tmp_path, monkeypatch
):
    (tmp_path / "sitecustomize.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(autotl.__file__).parents[1]}")
    code = (
        "import sys, time; from pathlib import Path; from autotl.devices import parse_devices; "
        "from autotl.workers import local; from autotl.workers.rendezvous import Rendezvous; "
        f"local.can_fork = lambda: {forked}; "
        "folder = Path(sys.argv[1]); launcher = local.LocalLauncher(folder, Rendezvous(folder)); "
        "workers = [launcher.start(s) for s in parse_devices('cpu*2')]\n"
        "while not all(map(launcher.pid, workers)) and all(map(launcher.alive, workers)): launcher.receive(0.1)\n"
        "print(*map(launcher.pid, workers), flush=True); time.sleep(60)"
    )
    coordinator = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    workers = [int(word) for word in coordinator.stdout.readline().split()]
    until(lambda: len(list(tmp_path.glob("child-*"))) == 2, 10)
    children = [int(page.name.split("-")[1]) for page in tmp_path.glob("child-*")]
    assert all(map(_alive, workers + children))
    os.kill(workers[0], signal.SIGSTOP)  # it can notice nothing any more
    coordinator.kill()
    coordinator.wait()
    until(lambda: not any(map(_alive, workers + children)), 10)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_closing_leaves_no_process_and_no_socket(tmp_path):
    rendezvous = Rendezvous(tmp_path)
    launcher = LocalLauncher(tmp_path / "logs", rendezvous)
    (slot,) = parse_devices("cpu")
    worker = launcher.start(slot)
    while not (pid := launcher.pid(worker)):
        launcher.receive(0.1)
    launcher.close()
    assert not _alive(pid)
    assert not rendezvous.folder.exists()


def test_a_worker_that_is_killed_before_it_is_forked_never_runs(tmp_path):
    launcher = LocalLauncher(tmp_path / "logs", Rendezvous(tmp_path))
    try:
        killed, other = launcher.start(SLOT), launcher.start(SLOT)
        launcher.kill(killed)
        assert not launcher.alive(killed)
        assert launcher.how_it_ended(killed).exit_code == -9
        assert [identity for identity, _ in received(launcher, 1)] == [other]
        assert launcher.pid(killed) is None
    finally:
        launcher.close()


@pytest.mark.parametrize("launcher", ["forked"], indirect=True)
def test_workers_survive_the_process_that_forked_them_and_the_next_gets_a_new_one(launcher, until):
    worker = launcher.start(SLOT)
    received(launcher, 2)
    (template,) = forking._templates.values()
    os.kill(template._popen.pid, signal.SIGKILL)
    until(lambda: not _alive(template._popen.pid), 10)
    assert launcher.alive(worker)
    later = launcher.start(SLOT)
    assert received(launcher, 2)[0][0] == later
    launcher.send(worker, Stop())
    until(lambda: not launcher.alive(worker), 10)
    assert launcher.how_it_ended(worker).cause.startswith("the worker ended (exit code unknown)")


@pytest.mark.parametrize("launcher", ["forked"], indirect=True)
def test_a_template_that_fails_says_why_and_another_environment_has_its_own(launcher, until, tmp_path):
    (tmp_path / "template.py").write_text("raise ImportError('libtorch is missing')")
    worker = launcher.start(SLOT)
    until(lambda: not launcher.alive(worker), 20)
    assert launcher.how_it_ended(worker).cause == "the worker ended (exit code 1): ImportError: libtorch is missing"
    (tmp_path / "template.py").write_text(TEMPLATE.replace("worker.py", str(tmp_path / "worker.py")))
    slots = [replace(SLOT, environment={**SLOT.environment, "OMP_NUM_THREADS": str(n)}) for n in (1, 2)]
    for slot in slots:
        launcher.start(slot)
    assert len(received(launcher, 4)) == 4
    assert len(forking._templates) == 2


@launcher_checks
def test_the_local_launcher_keeps_the_contract(check, tmp_path):
    own = LocalLauncher(tmp_path / "logs", Rendezvous(tmp_path))
    try:
        check(own)
    finally:
        own.close()


@pytest.mark.parametrize("path", ["{}", ":{}", "{}:", "{}::{}"])
def test_a_worker_imports_nothing_from_the_current_folder(path, tmp_path, monkeypatch):
    package = str(Path(autotl.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", path.replace("{}", package))
    (tmp_path / "random.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit(7)\n")
    monkeypatch.chdir(tmp_path)
    launcher = LocalLauncher(tmp_path / "logs", Rendezvous(tmp_path))
    try:
        launcher.start(SLOT)
        assert [type(message) for _, message in received(launcher, 1)] == [Hello]
    finally:
        launcher.close()
    assert not (tmp_path / "ran").exists()


def test_a_python_path_with_what_is_imported_already_is_not_changed(tmp_path, monkeypatch):
    from autotl.trial.template import _change_path

    monkeypatch.setattr(sys, "path", ["before", *sys.path])
    (tmp_path / "pytest.py").touch()
    assert not _change_path(["before"], [str(tmp_path)])
    (tmp_path / "pytest.py").rename(tmp_path / "something_else.py")
    unchanged = sys.path[1:]
    assert _change_path(["before"], [str(tmp_path), ""])
    assert sys.path == [str(tmp_path), *unchanged]


@pytest.mark.parametrize(("name", "is_started_anew"), [("other.py", False), ("sitecustomize.py", True)])
def test_workers_of_another_python_path_are_forked_too_unless_it_has_what_is_imported(name, is_started_anew, tmp_path):
    package = str(Path(autotl.__file__).parents[1])
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / name).write_text("")
    template = forking.Template({**os.environ, "PYTHONPATH": package}, 2)
    rendezvous = Rendezvous(tmp_path)
    slot = json.dumps({"token": "t", "slot": {**asdict(SLOT), "environment": {}}})
    variables = {"PYTHONPATH": f"{folder}:{package}", "AUTOTL_WORKER": slot}
    variables["AUTOTL_WORKER_KEY"] = rendezvous.endpoint.key.hex()
    try:
        process = template.fork(rendezvous.endpoint.address, tmp_path, variables, 2)
        while not rendezvous.bell.poll(0.1) and process.poll() is None:
            pass
        assert process.poll() is None
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert (b"autotl.trial.worker" in command) is is_started_anew
        process.kill()
        process.wait(10)
    finally:
        template.close()
        rendezvous.close()
