"""A whole search under a virtual clock: simulated workers that crash, hang and meet device errors at random.

`python tests/coordinator/simulation.py [NUM_SEEDS]` runs many seeds and prints what each took; the tests run a few.
"""

import heapq
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from optuna.trial import TrialState

from autotl.config import StudyConfig
from autotl.coordinator.coordinator import POLL_SECONDS, Coordinator
from autotl.coordinator.finalization import finalize
from autotl.coordinator.signals import Interrupts
from autotl.coordinator.supervisor import KILL_GRACE
from autotl.coordinator.watchdog import Watchdog
from autotl.devices import Slot
from autotl.engines.recorded import FeatureSource
from autotl.errors import AutotlError
from autotl.events import SearchStarted
from autotl.features.progress import ExtractionProgress
from autotl.metrics import Metric
from autotl.study.needs import Recording
from autotl.testing.scripted import VirtualClock
from autotl.ui.progress import Progress
from autotl.workers import messages
from autotl.workers.launcher import Ending, Launcher
from autotl.workers.pool import WorkerPool

NUM_IMAGES = 2000
"""Images of a recording."""


@dataclass
class SimulatedTrial:
    """As much of an Optuna trial as a coordinator reads."""

    number: int
    state: TrialState = TrialState.WAITING
    value: float | None = None
    params: dict = field(default_factory=dict)
    user_attrs: dict = field(default_factory=dict)
    system_attrs: dict = field(default_factory=dict)
    duration: None = None


class SimulatedTrials:
    """The study's side of `autotl.study.trials.Trials`, and the worker's: ask and tell."""

    def __init__(self):
        self.book = []
        self.live = {}
        self.first_waiting = 0
        """All trials before are running or done."""

    def get(self, number):
        return self.book[number]

    def all(self):
        return self.book

    def running(self):
        return list(self.live.values())

    def waiting(self):
        return [trial for trial in self.book[self.first_waiting :] if trial.state == TrialState.WAITING]

    def next_number(self):
        return len(self.book)

    def enqueue(self, params, attributes=None):
        trial = SimulatedTrial(len(self.book), user_attrs=dict(attributes or {}))
        trial.system_attrs["fixed_params"] = dict(params)
        self.book.append(trial)

    def end(self, number, cause, state=TrialState.FAIL):
        self.book[number].user_attrs["cause"] = cause
        self.tell(number, state)

    def begin(self, number):
        trial = self.book[number]
        if trial.state != TrialState.WAITING:
            raise ValueError(f"trial {number} is handed out twice: it is {trial.state.name}")
        trial.state = TrialState.RUNNING
        trial.params = dict(trial.system_attrs.get("fixed_params", {}))
        self.live[number] = trial
        while self.first_waiting < len(self.book) and self.book[self.first_waiting].state != TrialState.WAITING:
            self.first_waiting += 1

    def tell(self, number, state, value=None):
        trial = self.book[number]
        if trial.state != TrialState.RUNNING:
            raise ValueError(f"trial {number} is told twice: it is {trial.state.name}")
        trial.state, trial.value = state, value
        del self.live[number]


class SimulatedScheduler:
    """Always wants another trial."""

    time_share, default_seconds_per_image = 0.1, 0.01
    choices = SimpleNamespace(accelerator=False, backbones=("resnet18",))
    unusable, excluded = frozenset(), set()
    aligns = False

    def __init__(self):
        self.finished_trials = Counter()

    def next(self, time_budget, running, number, work, recorded):
        return {"x": number}

    def finished(self, params, seconds, value, extraction_seconds=0.0):
        self.finished_trials[params["x"] if params else None] += 1

    def observe_speed(self, *args):
        raise AssertionError("nothing is extracted here")

    def measured_speeds(self):
        return {}


@dataclass(frozen=True)
class SimulatedContext:
    """Workers get it with their own slot."""

    slot: Slot


@dataclass
class Faults:
    """Probabilities, for each trial."""

    crash: float = 0.02
    hang: float = 0.005
    device_error: float = 0.005
    ignores_deadline: float = 0.02


@dataclass
class SimulatedProcess:
    """A worker process."""

    slot: Slot
    alive: bool = True
    hung: bool = False
    deadline: float = float("inf")
    trial: int | None = None
    recording: Recording | None = None
    ignores_deadline: bool = False
    job: int = 0
    """Counts jobs: events of an earlier one are void."""


class SimulatedLauncher(Launcher):
    """Workers whose messages are events on a heap; waiting for messages advances the clock."""

    def __init__(self, clock, trials, rng, faults):
        self.clock, self.trials, self.rng, self.faults = clock, trials, rng, faults
        self.processes = {}
        self.events = []
        self.sequence = 0
        self.inbox = []
        self.jobs = 0
        self.recorded = []
        self.handed_out = []
        """(moment, slot, job, what was recorded by then) of each trial and recording."""
        self.seconds = lambda slot, job, params: rng.uniform(0.5, 8.0)
        """How long a job takes."""

    def at(self, delay, worker, action, *arguments):
        self.sequence += 1
        event = (self.clock.time + delay, self.sequence, worker, self.processes[worker].job, action, arguments)
        heapq.heappush(self.events, event)

    def start(self, slot):
        worker = f"{slot.name}/{len(self.processes)}"
        self.processes[worker] = SimulatedProcess(slot)
        self.at(self.rng.uniform(1, 4), worker, self._hello)
        return worker

    def send(self, worker, message):
        process = self.processes[worker]
        if isinstance(message, messages.RunTrial | messages.Record):
            self.handed_out.append((self.clock.time, process.slot, message, list(self.recorded)))
            self.jobs += isinstance(message, messages.RunTrial)
        if not process.alive:
            return
        match message:
            case messages.Setup(_, remaining):
                self._set_deadline(worker, remaining)
                self.at(self.rng.uniform(0.5, 2), worker, self._say, messages.Ready())
            case messages.SetDeadline(remaining):
                self._set_deadline(worker, remaining)
            case messages.RunTrial():
                process.job += 1
                self.at(self.rng.uniform(0.001, 0.05), worker, self._begin, message)
            case messages.Record(recording):
                process.job += 1
                process.recording = recording
                self.at(self.seconds(process.slot, message, {}), worker, self._record, message)
            case messages.Finalize():
                process.job += 1
                self.at(1.0, worker, self._say, messages.ModelSaved({"saved": True}))
                if self.rng.random() < 0.3:
                    self.at(1.5, worker, self._die)
                else:
                    self.at(2.0, worker, self._say, messages.Finalized({"test": True}))
            case messages.Stop():
                process.alive = False

    def receive(self, timeout):
        end = self.clock.time + timeout
        if self.events and self.events[0][0] <= end:
            self.clock.time = max(self.clock.time, self.events[0][0])
            end = self.clock.time
        while self.events and self.events[0][0] <= end:
            _, _, worker, job, action, arguments = heapq.heappop(self.events)
            process = self.processes[worker]
            if process.alive and not process.hung and process.job == job:
                action(worker, *arguments)
        if not self.inbox:
            self.clock.time = max(self.clock.time, end)
        arrived, self.inbox = self.inbox, []
        return arrived

    def alive(self, worker):
        return self.processes[worker].alive

    def kill(self, worker):
        self.processes[worker].alive = False

    def how_it_ended(self, worker):
        return Ending("the worker ended (killed by signal 9, SIGKILL)", -9)

    # -- what a worker does

    def _say(self, worker, message):
        self.inbox.append((worker, message))

    def _hello(self, worker):
        if self.rng.random() < 0.02:
            self._die(worker)
        else:
            self._say(worker, messages.Hello(worker, self.processes[worker].slot))

    def _die(self, worker):
        self.processes[worker].alive = False

    def _crashes(self, share):
        return self.rng.random() < self.faults.crash * share

    def _set_deadline(self, worker, remaining):
        process = self.processes[worker]
        process.deadline = float("inf") if remaining is None else self.clock.time + remaining
        if process.trial is not None and not process.ignores_deadline:
            self._end_in_time(worker)
        if process.recording is not None and process.deadline < 1e9:
            self.at(max(0.0, process.deadline - self.clock.time) + 0.1, worker, self._give_up)

    def _end_in_time(self, worker):
        left = self.processes[worker].deadline - self.clock.time
        if left < 1e9:
            self.at(max(0.0, left) + 0.1, worker, self._finish, TrialState.PRUNED)

    def _begin(self, worker, job):
        process, rng = self.processes[worker], self.rng
        if self._crashes(0.4):
            return self._die(worker)
        process.trial = job.number
        params = self.trials.get(job.number).params
        strategy = params.get("strategy", "strategy")
        self._say(worker, messages.TrialStarted(job.number, strategy, "a backbone with spaces", "head", "a recipe"))
        process.ignores_deadline = rng.random() < self.faults.ignores_deadline
        seconds = self.seconds(process.slot, job, params)
        self.at(seconds / 2, worker, self._report)
        self.at(seconds, worker, self._finish, rng.choices([TrialState.COMPLETE, TrialState.PRUNED], [3, 2])[0])
        if not process.ignores_deadline:
            self._end_in_time(worker)

    def _record(self, worker, job):
        process = self.processes[worker]
        if process.recording is None:
            return
        process.recording = None
        if self._crashes(0.4):
            return self._die(worker)
        self.recorded.append(job.recording)
        recording, took = job.recording, self.seconds(process.slot, job, {})
        rate = NUM_IMAGES * (1 + recording.views) / took
        self._say(worker, ExtractionProgress(recording.backbone, "levels", "none", NUM_IMAGES, NUM_IMAGES, rate))
        self._say(worker, messages.Recorded(FeatureSource(Path("/cache"), "torch", "2", "bf16", "cuda")))

    def _give_up(self, worker):
        process = self.processes[worker]
        if process.recording is not None:
            process.recording = None
            self._say(worker, messages.Recorded(None))

    def _report(self, worker):
        process = self.processes[worker]
        if process.trial is None:
            return
        if self.rng.random() < self.faults.hang:
            process.hung = True
        elif self._crashes(0.2):
            self._die(worker)
        elif self.rng.random() < self.faults.device_error:
            number, process.trial = process.trial, None
            self.trials.book[number].user_attrs["cause"] = "CUDA error: an illegal memory access was encountered"
            self.trials.tell(number, TrialState.FAIL)
            self._say(worker, messages.DeviceError(number, "CUDA error: an illegal memory access was encountered"))
            self._die(worker)
        else:
            self._say(worker, messages.TrialProgress(process.trial, 0.5, 0.9))

    def _finish(self, worker, state):
        process = self.processes[worker]
        if process.trial is None:  # its deadline, or its end, came before
            return
        number, process.trial = process.trial, None
        self.trials.tell(number, state, self.rng.random() if state == TrialState.COMPLETE else None)
        if self._crashes(0.2):
            return self._die(worker)
        self._say(worker, messages.TrialEnded(number))
        if self._crashes(0.2):
            self._die(worker)


class Recorder(Progress):
    """Notes the trials that it is told of."""

    def __init__(self):
        self.numbers, self.lines = [], []

    def on_trial_finished(self, event):
        self.numbers.append(event.number)

    def update(self, snapshot):
        pass

    def log(self, line):
        self.lines.append(line)


@dataclass
class Outcome:
    """What a simulated search left."""

    search: Coordinator
    launcher: SimulatedLauncher
    trials: SimulatedTrials
    recorder: Recorder
    seconds: float
    """Virtual seconds until the last trial was told."""
    time_limit: float
    result: dict | None

    def violations(self, num_trials):
        """Broken promises, in words."""
        states = Counter(trial.state for trial in self.trials.book)
        finished = [t.number for t in self.trials.book if t.state.is_finished()]
        counts = self.search.scoreboard.counts
        disabled = len(self.search.supervisor.disabled) == len(self.search.pool.slots)
        found = {
            f"{states[TrialState.RUNNING]} trials are RUNNING": states[TrialState.RUNNING] > 0,
            "a trial was announced twice, or not at all": sorted(self.recorder.numbers) != finished,
            f"counts {counts} are not those of the study {dict(states)}": sum(counts.values()) != len(finished)
            or counts["complete"] != states[TrialState.COMPLETE]
            or counts["pruned"] != states[TrialState.PRUNED],
            "a job was lost, or counted twice": self.launcher.jobs != len(finished),
            f"{len(finished)} trials instead of {num_trials}": len(finished) > num_trials
            or (len(finished) < num_trials and self.seconds < 0.5 * self.time_limit and not disabled),
            f"{self.seconds:.1f} s of {self.time_limit} s were used": self.seconds
            > self.time_limit + KILL_GRACE + 2 * POLL_SECONDS,
            "workers are left": bool(self.search.pool.workers)
            or any(p.alive for p in self.launcher.processes.values()),
        }
        return [words for words, broken in found.items() if broken]


def simulate(seed, folder, num_trials=10_000, num_workers=64, faults=None):
    """One search; the time limit is drawn so that sometimes it, sometimes the number of trials ends the search."""
    rng = random.Random(seed)
    slots = [Slot(f"cuda:{i}", "cuda", "cuda:0", 1) for i in range(num_workers)]
    time_limit = rng.uniform(0.6, 1.6) * num_trials * 4.5 / num_workers + 60
    return _search(rng, folder, slots, SimulatedScheduler(), time_limit, num_trials, faults or Faults())


def simulate_mixed(
    seed, folder, scheduler, time_limit=300.0, num_trials=10_000, accelerators=1, helpers=8, faults=None, seconds=None
):
    """One search on accelerators with CPU workers beside them, under the scheduler that real searches have."""
    slots = [Slot(f"cuda:{i}", "cuda", "cuda:0", 8) for i in range(accelerators)]
    slots += [Slot(f"cpu:{i}", "cpu", "cpu", 1) for i in range(helpers)]
    faults = faults or Faults(0.0, 0.0, 0.0, 0.0)
    return _search(random.Random(seed), folder, slots, scheduler, time_limit, num_trials, faults, seconds)


def _search(rng, folder, slots, scheduler, time_limit, num_trials, faults, seconds=None):
    clock, trials, recorder = VirtualClock(), SimulatedTrials(), Recorder()
    launcher = SimulatedLauncher(clock, trials, rng, faults)
    launcher.seconds = seconds or launcher.seconds
    config = StudyConfig(
        data="simulated", name="simulated", output=folder, trials=num_trials, time=time_limit, trial_timeout=60
    )
    pool = WorkerPool(launcher, slots, clock)
    interrupts = Interrupts(clock)
    search = Coordinator(
        config=config,
        trials=trials,
        scheduler=scheduler,
        pool=pool,
        clock=clock,
        progress=recorder,
        interrupts=interrupts,
        watchdog=Watchdog(interrupts, recorder.log),
        metric=Metric("score", lambda labels, probabilities: 0.0),
        started=clock.now(),
    )
    started = SearchStarted("simulated", folder, "simulated", ("a", "b"), {}, "score", ("cuda:0",), ("backbone",))
    search.start(started)
    pool.set_up(SimulatedContext(slots[0]))
    search.run()
    seconds = clock.now() - search.started
    try:
        result = finalize(search)
    except AutotlError:  # no trial succeeded, or both attempts at a model crashed
        result = None
    pool.close()
    return Outcome(search, launcher, trials, recorder, seconds, time_limit, result)


def main(num_seeds):
    """Run seeds; returns the exit code."""
    failed = 0
    for seed in range(num_seeds):
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            outcome = simulate(seed, Path(folder))
            took = time.perf_counter() - started
            violations = outcome.violations(10_000)
            failed += bool(violations)
            print(
                f"seed {seed}: {took:.2f} s, {outcome.search.scoreboard.counts}, {len(outcome.launcher.processes)} "
                f"processes, {outcome.seconds:.0f} of {outcome.time_limit:.0f} virtual s: {violations or 'holds'}",
                flush=True,
            )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
