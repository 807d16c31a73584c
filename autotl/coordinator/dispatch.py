"""Which job a worker gets: a trial that suits its device, or features to record before trials need them.

Where a search has accelerators and CPU workers, an accelerator records features and trains networks, and the CPU
workers fit heads on what it has recorded. Where all workers are of one sort, each does everything.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial

from autotl.clock import Clock
from autotl.engines.recorded import FeatureSource
from autotl.study.advice import alignment_sample
from autotl.study.needs import Recording, Work
from autotl.study.scheduler import Scheduler
from autotl.study.trials import Trials, params_of
from autotl.workers.messages import Align, Record, RunTrial
from autotl.workers.pool import Worker, WorkerPool

__all__ = ["Dispatcher"]

MAX_ATTEMPTS = 2
"""Times that features which can't be recorded are tried."""
START_SECONDS = 60.0
"""Seconds that CPU workers wait for an accelerator's worker that starts to send its next message."""
SILENT_SECONDS = 120.0
"""Seconds without a message after which CPU workers no longer wait for the first features of an accelerator."""

FIRST_SHARE = 0.05
"""Share of the remaining time that the portfolio's features may take before the first network is trained: the CPU
workers have more to choose from then."""
EXPLORATION_SHARE = 0.25
"""Time for features that the portfolio doesn't have, as a share of the time for networks."""

Job = RunTrial | Record | Align


@dataclass
class Dispatcher:
    """Chooses jobs, and knows what is recorded.

    Args:
        usable: whether a worker may get another job.
    """

    trials: Trials
    scheduler: Scheduler
    pool: WorkerPool
    clock: Clock
    usable: Callable[[Worker], bool]
    recorded: dict[Recording, FeatureSource] = field(default_factory=dict)
    """Whose features CPU workers read."""
    _attempts: Counter[Recording] = field(default_factory=Counter)
    _seconds: dict[bool, float] = field(default_factory=lambda: defaultdict(float))
    """Time of accelerators so far: that of recording, and that of trials."""

    _has_ended: bool = False
    """Whether a trial has ended."""

    def choose(self, worker: Worker, time_budget: float) -> Job | None:
        """A job for an idle worker; None where it waits for features that are being recorded, or for weights.

        A trial is RUNNING when this returns, and its job has no time budget yet.

        Args:
            time_budget: seconds until trials have to be done.
        """
        if self.scheduler.unusable.issuperset(self.scheduler.choices.backbones):
            return None
        if job := self._alignment(worker, time_budget):
            return job
        here = [other for other in self.pool.workers if other.slot.host == worker.slot.host]  # they share features
        sorts = {other.slot.is_accelerator for other in here if self._counts(other)}
        if worker.slot.is_accelerator and False in sorts:
            return self._for_accelerator(time_budget)
        if not worker.slot.is_accelerator and True in sorts:
            trial = self._trial(Work.HEADS, time_budget, list(self.recorded)) if self.recorded else None
            return RunTrial(trial.number, None, self._source(trial)) if trial else None
        trial = None
        if not worker.slot.is_accelerator and self.scheduler.choices.accelerator:
            # all accelerators are lost, and the space has networks to train that take a CPU hours
            trial = self._trial(Work.HEADS, time_budget)
        trial = trial or self._trial(Work.ANY, time_budget)
        return RunTrial(trial.number, None) if trial else None

    def _alignment(self, worker: Worker, time_budget: float) -> Align | None:
        """The measurement of alignment: once, after the first trial has ended, where there is time for it."""
        can_run = worker.slot.is_accelerator or not self.scheduler.choices.accelerator
        if not (self.scheduler.aligns and can_run and self._has_ended):
            return None
        sample = alignment_sample(self.scheduler, time_budget)
        if sample is None:
            return None
        self.scheduler.aligns = False
        return Align(*sample)

    def ended(self, worker: Worker, source: FeatureSource | None = None) -> None:
        """A job has ended. `source` is where its features are, if it was to record some and has done so."""
        self._has_ended |= worker.trial is not None
        if worker.slot.is_accelerator:
            self._seconds[worker.recording is not None] += self.clock.now() - worker.since
        if worker.recording is not None and source is not None:
            self.recorded[worker.recording] = source

    def forget(self, trial: FrozenTrial) -> None:
        """A trial didn't find its features: the cache had no room for them, or somebody removed them."""
        missing = self.scheduler.needs.recording(trial.params)
        parts = missing.parts if missing else ()
        for recording in [r for r in self.recorded if any(r.covers(part) for part in parts)]:
            del self.recorded[recording], self._attempts[recording]

    def _counts(self, worker: Worker) -> bool:
        """Whether the other workers may rely on this one."""
        if not self.usable(worker):
            return False
        if not worker.slot.is_accelerator:
            return True
        if not worker.ready and not worker.busy:
            return self.clock.now() - worker.last_message < START_SECONDS
        return not worker.busy or bool(self.recorded) or self.clock.now() - worker.last_message < SILENT_SECONDS

    def _for_accelerator(self, time_budget: float) -> Job | None:
        """What only an accelerator can do: recording and training networks, each for the same time, the features of the
        portfolio first. Then dense heads, and where there is nothing else, anything."""
        number = self.trials.next_number()
        attempted = [*self.recorded, *(worker.recording for worker in self.pool.workers if worker.recording)]
        given_up = {recording for recording, times in self._attempts.items() if times >= MAX_ATTEMPTS}
        waiting = [params_of(trial) for trial in self.trials.waiting()]
        networks, features = self._seconds_of(recording=False), self._seconds_of(recording=True)
        recording = self.scheduler.next_recording(time_budget, attempted, given_up, waiting)
        is_early = math.isfinite(time_budget) and features <= FIRST_SHARE * time_budget
        if recording and (features <= networks or is_early or not self.recorded):
            return self._record(recording)
        explores = recording is None and features <= EXPLORATION_SHARE * networks
        if explores and (recording := self.scheduler.explore(time_budget, attempted, given_up, number)):
            return self._record(recording)
        if trial := self._trial(Work.NETWORKS, time_budget):
            return RunTrial(trial.number, None)
        if recording := recording or self.scheduler.explore(time_budget, attempted, given_up, number):
            return self._record(recording)
        recorded = list(self.recorded)
        trial = (
            self._trial(Work.DENSE_HEADS, time_budget, recorded)
            or self._trial(Work.HEADS, time_budget, recorded)
            or self._trial(Work.ANY, time_budget)
        )
        return RunTrial(trial.number, None) if trial else None

    def _seconds_of(self, *, recording: bool) -> float:
        """Time of accelerators for recording, or for trials, with that of running jobs."""
        busy = [w for w in self.pool.workers if w.busy and w.slot.is_accelerator]
        running = sum(self.clock.now() - w.since for w in busy if (w.recording is not None) == recording)
        return self._seconds[recording] + running

    def _record(self, recording: Recording) -> Record:
        self._attempts[recording] += 1
        return Record(recording)

    def _trial(self, work: Work, time_budget: float, recorded: Sequence[Recording] | None = None) -> FrozenTrial | None:
        """A trial of some work, which is RUNNING now: one that was enqueued, or a new one. None where there is none.

        Args:
            recorded: the features that it may read; None where the worker records what it reads.
        """
        waiting = self.trials.waiting()
        suitable = (t for t in waiting if work == Work.ANY or self.scheduler.needs.suits(params_of(t), work, recorded))
        trial = next(suitable, None)
        if trial is None:
            number = self.trials.next_number()
            params = self.scheduler.next(time_budget, self._running_seconds(), number, work, recorded)
            if params is None:
                return None
            self.trials.enqueue(params)
            trial = self.trials.waiting()[-1]
        self.trials.begin(trial.number)
        return trial

    def _source(self, trial: FrozenTrial) -> FeatureSource | None:
        """Where the features are that a trial reads."""
        needed = self.scheduler.needs.recording(params_of(trial))
        parts = needed.parts if needed else ()
        return next((source for r, source in self.recorded.items() if any(r.covers(part) for part in parts)), None)

    def _running_seconds(self) -> dict[str, float]:
        """Seconds that running trials have taken so far, by strategy."""
        seconds: dict[str, float] = defaultdict(float)
        for worker in self.pool.workers:
            if worker.busy and worker.strategy:
                seconds[worker.strategy] += self.clock.now() - worker.since
        return seconds
