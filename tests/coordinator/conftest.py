"""A coordinator, whole, with scripted workers, a virtual clock and a study in memory: no process, no image."""

import shutil
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState

from autotl.config import StudyConfig
from autotl.coordinator.coordinator import Coordinator
from autotl.coordinator.signals import Interrupts
from autotl.coordinator.watchdog import Watchdog
from autotl.devices import Slot
from autotl.metrics import Metric
from autotl.study.study import take_trial
from autotl.study.trials import StudyTrials
from autotl.testing.scripted import ScriptedLauncher, VirtualClock
from autotl.ui.progress import Progress
from autotl.workers.messages import Hello, Ready, Recorded, RecordTest, RunTrial, TrialEnded
from autotl.workers.pool import WorkerPool


@pytest.fixture(scope="session")
def small(tiny):
    """Options of a whole search that is as cheap as one can be: one worker, a tiny backbone, and no compiler."""
    return {
        "backbones": [tiny("test_resnet").name],
        "strategies": ["fast_extraction"],
        "heads": ["logistic_regression", "linear"],
        "engine": "torch",
        "devices": "cpu",
    }


@pytest.fixture(scope="session")
def photographs(patches, tmp_path_factory):
    """Class folders with the patches of three photographs, which a network with random weights tells apart."""
    dataset, _ = patches
    folder = tmp_path_factory.mktemp("images") / "photographs"
    for path, label in zip(dataset.paths, dataset.labels, strict=True):
        target = folder / dataset.classes[label] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return folder


PATIENT = """
import time
import autotl

class Patient(autotl.Head):
    name, type = "patient", "estimator"
    def suggest(self, space): return {"C": space.float("C", 0.1, 1.0)}
    def build(self, params, num_features, num_classes, seed):
        from sklearn.linear_model import LogisticRegression
        time.sleep(0.2)
        return LogisticRegression(C=params["C"])

@autotl.hookimpl
def autotl_register_heads(register):
    register(Patient())
"""


@pytest.fixture
def patient(small, install_plugin):
    """The options of `small` with a head that waits in each fold, for searches that run until something else has
    happened: they would take all of a core meanwhile."""
    install_plugin("patient", PATIENT)
    return small | {"heads": ["patient"]}


@pytest.fixture
def patient_flags(patient):
    """The same for the command line."""
    flags = {"backbones": "--backbone", "strategies": "--strategy", "heads": "--head"}
    values = [(flag, value) for key, flag in flags.items() for value in patient[key]]
    return [word for pair in values for word in pair] + ["--engine", patient["engine"], "--devices", patient["devices"]]


class Recorder(Progress):
    """Keeps what it is shown."""

    def __init__(self):
        self.lines, self.events, self.snapshots = [], [], []

    def on_search_started(self, event):
        self.events.append(event)

    def on_trial_finished(self, event):
        self.events.append(event)

    def on_search_finished(self, event):
        self.events.append(event)

    def update(self, snapshot):
        self.snapshots.append(snapshot)

    def log(self, line):
        self.lines.append(line)


class StubScheduler:
    """Wants one trial after the other, and keeps what it learns."""

    time_share, default_seconds_per_image = 0.5, 0.01
    choices = SimpleNamespace(accelerator=False, backbones=("resnet18",))
    unusable, excluded = frozenset(), set()
    aligns = False
    num_images = 0

    def __init__(self):
        self.speeds, self.results, self.budgets = [], [], []

    def next(self, time_budget, running, number, work, recorded):
        self.budgets.append((time_budget, dict(running), number))
        return {"x": number / 100}

    def finished(self, params, seconds, value, extraction_seconds=0.0):
        self.results.append((params, value))

    def observe_speed(self, backbone, ran, device_type, speed):
        self.speeds.append((backbone, ran, device_type, speed))

    def measured_speeds(self):
        return {"resnet18": 0.5} if self.speeds else {}


class Scene:
    """A coordinator and what it was made of."""

    def __init__(self, folder, callbacks=(), plugin_callbacks=(), devices=("cpu:0", "cpu:1"), num_test=0, **config):
        self.clock = VirtualClock()
        self.launcher = ScriptedLauncher(self.clock)
        slots = [Slot(name, name.split(":")[0], "cpu", 2) for name in devices]
        self.pool = WorkerPool(self.launcher, slots, self.clock)
        self.study = optuna.create_study(direction="maximize")
        self.scheduler, self.recorder, self.interrupts = StubScheduler(), Recorder(), Interrupts(self.clock)
        self.search = Coordinator(
            config=StudyConfig(data="cells", output=folder, **config),
            trials=StudyTrials(self.study, folder),
            scheduler=self.scheduler,
            pool=self.pool,
            clock=self.clock,
            progress=self.recorder,
            interrupts=self.interrupts,
            watchdog=Watchdog(self.interrupts, self.recorder.log),
            metric=Metric("accuracy", lambda labels, probabilities: 0.0),
            started=self.clock.now(),
            num_test=num_test,
            versions={"torch": "2"},
            callbacks=callbacks,
            plugin_callbacks=plugin_callbacks,
        )
        self.interrupts.searching = True
        self.answers = iter(lambda: 0.5, None)
        """What trials are worth, one after the other; an exception's text fails one."""
        self.seconds = 1.0
        self.launcher.send = self._send

    def start(self):
        for worker in self.pool.workers:
            self.launcher.deliver(worker.identity, [Hello(worker.identity, worker.slot), Ready()])

    def _send(self, worker, message):
        """Workers that run each job at once."""
        self.launcher.sent.append((worker, message))
        if isinstance(message, RecordTest):
            self.clock.sleep(self.seconds)
            self.launcher.deliver(worker, [Recorded(None)])
        if isinstance(message, RunTrial):
            trial = take_trial(self.study, message.number)
            trial.suggest_float("x", 0, 1)
            answer = next(self.answers)
            self.clock.sleep(self.seconds)
            if isinstance(answer, str):
                trial.set_user_attr("cause", answer)
                self.study.tell(trial, state=TrialState.FAIL)
            else:
                trial.set_user_attr("recipe", {"strategy": "s", "backbone": "b", "head": "h"})
                self.study.tell(trial, answer)
            self.launcher.deliver(worker, [TrialEnded(trial.number)])

    def answer(self, *values):
        self.answers = iter(values)

    def run(self):
        self.start()
        self.search.run()
        return self

    @property
    def jobs(self):
        return [message for _, message in self.launcher.sent if isinstance(message, RunTrial)]


@pytest.fixture
def scene(tmp_path):
    """`scene(trials=3, …)`"""
    return lambda **more: Scene(tmp_path, **more)
