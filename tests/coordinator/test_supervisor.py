"""A worker that dies, hangs or is spoiled costs its own trial, which is told and tried once more."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from autotl.api import search
from autotl.config import StudyConfig
from autotl.coordinator import supervisor as supervision
from autotl.coordinator.signals import Interrupts
from autotl.coordinator.supervisor import RECYCLED, Supervision, fail, try_again
from autotl.devices import Slot, parse_devices
from autotl.errors import NoTrialSucceeded
from autotl.study.storage import open_storage
from autotl.study.study import open_study
from autotl.workers.pool import LocalWorkers, Worker


class Hall:
    """Workers that are no processes: records what is done with them."""

    def __init__(self, *names):
        self.workers = [self._worker(Slot(name, name.split(":")[0], "cpu", 1)) for name in names]
        self.done = []

    def _worker(self, slot):
        worker = Worker(slot, Path("none.log"), process=self)
        worker.ready = True
        return worker

    def poll(self):
        return 1

    def wait(self):
        return -9

    def kill(self, worker, why):
        self.done.append(("kill", worker.slot.name))
        worker.ended = why

    def replace(self, worker):
        self.done.append(("replace", worker.slot.name))
        self.workers[self.workers.index(worker)] = self._worker(worker.slot)

    def drop(self, worker):
        self.done.append(("drop", worker.slot.name))
        self.workers.remove(worker)


@pytest.fixture
def supervised(tmp_path):
    """`supervised("cpu:0", …)`: supervision of such workers, with the lines that it says in `.lines`."""

    def make(*names, until=float("inf"), **config):
        config = StudyConfig(data="cells", output=tmp_path, **config)
        study = open_study(tmp_path, "cells", "maximize", 0)
        lines, told = [], []
        made = Supervision(config, study, Hall(*names), lines.append, told.append, lambda: until, Interrupts())
        made.lines, made.trials_told = lines, told
        return made

    return make


def begin(supervised, worker, **params):
    """The worker asks for a trial and chooses its parameters."""
    if params:
        supervised.study.enqueue_trial(params)
    trial = supervised.study.ask()
    for name in params:
        trial.suggest_float(name, 0, 1)
    worker.busy, worker.trial, worker.since, worker.heard = True, trial.number, time.monotonic(), time.monotonic()
    return trial


def lose(supervised, index=0):
    worker = supervised.workers.workers[index]
    begin(supervised, worker)
    supervised.lost(worker)


# death


def test_a_lost_trial_fails_with_the_cause_and_its_recipe_is_queued_once(supervised):
    one = supervised("cpu:0", "cpu:1")
    begin(one, one.workers.workers[0], x=0.25)
    one.lost(one.workers.workers[0])
    lost, again = one.study.trials
    assert lost.state == TrialState.FAIL
    assert lost.user_attrs["cause"].startswith("the worker ended (killed by signal 9, SIGKILL")
    assert (again.state, again.user_attrs["retry_of"]) == (TrialState.WAITING, 0)
    assert [t.number for t in one.trials_told] == [0]
    assert one.workers.done == [("replace", "cpu:0")]

    again = begin(one, one.workers.workers[0])
    assert again.suggest_float("x", 0, 1) == 0.25
    one.lost(one.workers.workers[0])
    assert [t.state for t in one.study.trials] == [TrialState.FAIL, TrialState.FAIL]


def test_what_was_queued_but_not_yet_chosen_is_queued_again(supervised):
    one = supervised("cpu:0")
    one.study.enqueue_trial({"x": 0.125, "y": 0.5})
    one.workers.workers[0].busy = True
    one.workers.workers[0].trial = one.study.ask().number
    one.lost(one.workers.workers[0])
    assert one.study.trials[1].system_attrs["fixed_params"] == {"x": 0.125, "y": 0.5}


def test_a_trial_told_before_its_worker_died_stays_as_it_was_told(supervised):
    one = supervised("cpu:0")
    one.study.tell(begin(one, one.workers.workers[0]), 0.75)
    one.lost(one.workers.workers[0])
    assert [t.value for t in one.study.trials] == [0.75]
    assert [t.number for t in one.trials_told] == [0]


def test_a_trial_that_its_worker_had_no_time_to_own_up_to_is_found(supervised):
    one = supervised("cpu:0", "cpu:1")
    first, second = one.workers.workers
    begin(one, first)
    first.trial = None
    second.busy = True  # it has a ticket, and may be the one that asked
    one.lost(first)
    one.watch()
    assert one.study.trials[0].state == TrialState.RUNNING
    begin(one, second)
    one.watch()
    assert [t.state for t in one.study.trials] == [TrialState.FAIL, TrialState.RUNNING]
    assert one.study.trials[0].user_attrs["cause"] == "its worker ended as it began"


def test_what_a_lost_trial_left_is_no_part_of_the_search(supervised, tmp_path):
    one = supervised("cpu:0")
    trial = begin(one, one.workers.workers[0])
    left = one.config.folder / "trials" / f"{trial.number:05}"
    left.mkdir(parents=True)
    fail(one.study, one.config, one.study.trials[0], "gone")
    assert not left.exists()


def test_a_search_that_ended_is_no_reason_to_give_a_recipe_up(supervised):
    one = supervised("cpu:0")
    trial = begin(one, one.workers.workers[0], x=0.5)
    for _ in range(3):
        fail(one.study, one.config, one.study.trials[trial.number], "ended")
        try_again(one.study, one.study.trials[trial.number], of_worker=False)
        trial = one.study.ask()
        assert trial.suggest_float("x", 0, 1) == 0.5


# devices


def test_a_device_that_loses_three_workers_in_a_row_is_taken_out_of_use_and_named(supervised):
    one = supervised("cuda:0", "cuda:1", "cuda:0#2")
    lose(one, 0)
    lose(one, 2)
    assert one.workers.done == [("replace", "cuda:0"), ("replace", "cuda:0#2")]
    lose(one, 0)
    assert [w.slot.name for w in one.workers.workers] == ["cuda:1"]
    assert one.lines[-1].startswith("cuda:0 is taken out of use: it lost 3 workers in a row")


def test_a_trial_that_is_told_clears_its_device(supervised):
    one = supervised("cuda:0")
    for _ in range(4):
        lose(one)
        lose(one)
        one.finished(one.workers.workers[0])
    assert not one.out_of_use


def test_a_worker_beside_those_that_died_may_end_its_trial(supervised):
    one = supervised("cuda:0", "cuda:0#2")
    sibling = one.workers.workers[1]
    begin(one, sibling)
    for _ in range(3):
        lose(one)
    assert one.workers.workers == [sibling]
    assert not one.usable(sibling)
    one.finished(sibling)
    assert one.workers.workers == []


def test_an_accelerator_error_ends_the_process_and_counts_against_the_device(supervised):
    one = supervised("cuda:0")
    for _ in range(3):
        worker = one.workers.workers[0]
        trial = begin(one, worker, x=0.5)
        trial.set_user_attr("cause", "RuntimeError: CUDA error: an illegal memory access was encountered")
        one.study.tell(trial, state=TrialState.FAIL)
        worker.busy, worker.trial = False, None
        one.spoiled(worker, trial.number)
        assert not one.usable(worker)
        one.lost(worker)
    assert "illegal memory access" in one.out_of_use["cuda:0"]
    assert one.study.trials[1].user_attrs["retry_of"] == 0


def test_a_worker_is_replaced_after_so_many_trials_and_that_is_no_loss(supervised):
    one = supervised("cpu:0")
    worker = one.workers.workers[0]
    worker.done = RECYCLED
    one.finished(worker)
    assert worker.leaving
    assert not one.usable(worker)
    one.lost(worker)
    assert one.workers.done == [("replace", "cpu:0")]
    assert not one.losses["cpu:0"]
    assert not one.lines


# hanging


@pytest.mark.parametrize(("silent", "ended"), [(4.0, False), (6.0, True)])
def test_no_sign_of_life_for_the_trial_timeout_ends_a_worker(silent, ended, supervised):
    one = supervised("cpu:0", trial_timeout=5)
    worker = one.workers.workers[0]
    begin(one, worker, x=0.5)
    worker.since -= 100  # it runs for long, which is no fault
    worker.heard -= silent
    one.watch()
    assert bool(worker.ended) is ended
    if ended:
        one.lost(worker)
        assert one.study.trials[0].user_attrs["cause"] == "it gave no sign of life for 5 s, and was ended"
        assert one.study.trials[1].user_attrs["retry_of"] == 0


def test_a_worker_that_never_gets_ready_is_ended(supervised, monkeypatch):
    monkeypatch.setattr(supervision, "STARTING", 10.0)
    one = supervised("cpu:0")
    worker = one.workers.workers[0]
    worker.ready = False
    one.watch()
    assert not worker.ended
    worker.heard -= 11
    one.watch()
    assert worker.ended == "it wasn't ready after 10 s, and was ended"


def test_a_trial_past_the_searchs_time_is_ended_and_not_tried_again(supervised):
    one = supervised("cpu:0", until=time.monotonic() - 10)
    begin(one, one.workers.workers[0], x=0.5)
    one.watch()
    one.lost(one.workers.workers[0])
    assert len(one.study.trials) == 1
    assert "still busy" in one.study.trials[0].user_attrs["cause"]


# processes


def test_a_python_that_cannot_start_is_said_and_not_waited_for(cells, tmp_path, monkeypatch):
    false = tmp_path / "python"
    false.write_text("#!/bin/sh\necho 'no such interpreter' >&2\nexit 3\n")
    false.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(false))
    with pytest.raises(NoTrialSucceeded, match=r"cpu:0 is out of use: .*exit code 3\): no such interpreter"):
        search(str(cells), output=tmp_path / "studies", trials=1, backbones=["efficientnet_lite0"], devices="cpu")


def test_last_words_are_the_processs_own(tmp_path):
    log = tmp_path / "worker.log"
    log.write_text("ValueError: of the one before\n")
    process = subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"])
    worker = Worker(Slot("cpu:0", "cpu", "cpu", 1), log, process=process, logged=log.stat().st_size)
    assert worker.cause_of_death() == "the worker ended (killed by signal 11, SIGSEGV)"
    with log.open("a") as file:
        file.write("Fatal Python error: Segmentation fault\n\nCurrent thread:\n  File x\n")
    assert worker.cause_of_death().endswith("SIGSEGV): Fatal Python error: Segmentation fault")


CHILD = """
import os, pathlib, subprocess
if "AUTOTL_WORKER" in os.environ:
    child = subprocess.Popen(["sleep", "60"])
    (pathlib.Path(__file__).parent / f"child-{child.pid}").touch()
"""


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_workers_and_what_they_started_die_with_a_killed_coordinator_even_when_they_hang(until, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code = (
        "import sys, time; from pathlib import Path; from autotl.devices import parse_devices; "
        "from autotl.workers.pool import LocalWorkers; "
        "w = LocalWorkers(parse_devices('cpu*2'), Path(sys.argv[1])); "
        "print(*(x.process.pid for x in w.workers), flush=True); time.sleep(60)"
    )
    coordinator = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    workers = [int(word) for word in coordinator.stdout.readline().split()]
    until(lambda: len(list(tmp_path.glob("child-*"))) == 2, 5)
    children = [int(page.name.split("-")[1]) for page in tmp_path.glob("child-*")]
    assert all(map(_alive, workers + children))
    os.kill(workers[0], signal.SIGSTOP)  # it can't notice anything any more
    coordinator.kill()
    coordinator.wait()
    until(lambda: not any(map(_alive, workers + children)), 5)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


FAULTS = """
import os, time
from pathlib import Path
import autotl
from autotl.heads.base import Head

def first_time(name):
    mark = Path(os.environ["AUTOTL_TEST_MARKS"]) / name
    seen = mark.exists()
    mark.touch()
    return not seen

class Faulty(Head):
    type = "estimator"
    def __init__(self, name): self.name = name
    def suggest(self, space): return {"C": space.float("C", 0.1, 1.0)}
    def defaults(self): return {"C": 0.5}
    def build(self, params, num_features, num_classes, seed):
        from sklearn.linear_model import LogisticRegression
        with open(Path(os.environ["AUTOTL_TEST_MARKS"]) / "seen", "a") as file:
            print(self.name, os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"], file=file)
        if self.name == "hangs" and first_time(self.name):
            time.sleep(60)
        if self.name == "spoils" and first_time(self.name):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        time.sleep(1)  # or the sibling has used up all tickets while this one hangs
        return LogisticRegression(C=params["C"])

@autotl.hookimpl
def autotl_register_heads(register):
    register(Faulty("hangs"))
    register(Faulty("spoils"))
"""


def test_stand_in_gpus_are_told_apart_and_hanging_and_spoiled_workers_are_replaced(
    cells, tmp_path, install_plugin, monkeypatch
):
    slots = [
        Slot("cuda:0", "cuda", "cpu", 1, {"CUDA_VISIBLE_DEVICES": "MIG-a", "OMP_NUM_THREADS": "1"}),
        Slot("cuda:0#2", "cuda", "cpu", 2, {"CUDA_VISIBLE_DEVICES": "MIG-a", "OMP_NUM_THREADS": "2"}),
    ]
    monkeypatch.setattr("autotl.coordinator.run.parse_devices", lambda text: slots)
    monkeypatch.setenv("AUTOTL_TEST_MARKS", str(tmp_path))
    install_plugin("hanging", FAULTS)
    found = search(
        str(cells), output=tmp_path / "studies", trials=20, backbones=["efficientnet_lite0"], trial_timeout="8s",
        heads=["hangs", "spoils"], strategies=["fast_extraction"], test="none",
    )  # fmt: skip
    trials = optuna.load_study(study_name="cells", storage=open_storage(found.folder)).trials
    causes = sorted(t.user_attrs["cause"] for t in trials if t.state == TrialState.FAIL)
    assert causes == [
        "RuntimeError: CUDA error: an illegal memory access was encountered",
        "it gave no sign of life for 8 s, and was ended",
    ]
    again = [t for t in trials if "retry_of" in t.user_attrs]
    assert [t.state for t in again] == [TrialState.COMPLETE] * 2
    assert all(t.params == trials[t.user_attrs["retry_of"]].params for t in again)
    assert found.result["trials"] == {"complete": 18, "pruned": 0, "failed": 2}
    seen = [line.split() for line in (tmp_path / "seen").read_text().splitlines()]
    assert {tuple(rest) for _, _, *rest in seen} == {("MIG-a", "1"), ("MIG-a", "2")}
    for name in ("hangs", "spoils"):
        first = next(i for i, line in enumerate(seen) if line[0] == name)
        assert seen[first][1] not in [pid for _, pid, *_ in seen[first + 1 :]]


def test_workers_end_with_their_search(tmp_path):
    workers = LocalWorkers(parse_devices("cpu"), tmp_path)
    process = workers.workers[0].process
    workers.close(at_once=True)
    assert process.poll() is not None
    assert not workers.rendezvous.folder.exists()
