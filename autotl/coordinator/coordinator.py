"""The coordinator of a search: hands out jobs, watches the clock and the workers, and keeps the score."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.trial import FrozenTrial

from autotl.atomic_io import DiskFull
from autotl.clock import Clock
from autotl.config import StudyConfig
from autotl.coordinator.callbacks import Callbacks
from autotl.coordinator.dispatch import Dispatcher
from autotl.coordinator.fetching import Fetching
from autotl.coordinator.final_passes import FinalPasses
from autotl.coordinator.sampling import Sampling
from autotl.coordinator.scoreboard import FINISHED_STATES, Scoreboard
from autotl.coordinator.search_time import MIN_TRIAL_SECONDS, SearchTime
from autotl.coordinator.signals import INTERRUPT_SECONDS, MODEL_SECONDS, Interrupts
from autotl.coordinator.supervisor import INTERRUPTED_SEARCH, RESUMED_CAUSES, Supervisor, end_trial, retry_trial
from autotl.coordinator.watchdog import Watchdog
from autotl.devices import Slot
from autotl.errors import BrokenPlugin
from autotl.events import Callback, EpochEnded, SearchStarted, TrialFinished, TrialStarted
from autotl.features.batching import BATCH
from autotl.features.progress import ExtractionProgress
from autotl.metrics import Metric
from autotl.study.scheduler import Scheduler
from autotl.study.study import TrialAttribute
from autotl.study.trials import Trials
from autotl.ui.progress import Progress, Snapshot, WorkerLine
from autotl.workers.launcher import Ending
from autotl.workers.messages import (
    Activity,
    Aligned,
    Crashed,
    DeviceError,
    DiskIsFull,
    Finalized,
    FromWorker,
    HookCalled,
    Log,
    ModelSaved,
    PluginFailed,
    PluginIsBroken,
    Probed,
    Ready,
    Recorded,
    RunTrial,
    TrialEnded,
    TrialProgress,
)
from autotl.workers.messages import TrialStarted as TrialStartedMessage
from autotl.workers.pool import Worker, WorkerPool, remaining_or_none

__all__ = ["Coordinator"]

POLL_SECONDS = 0.25
REDRAW_SECONDS = 0.1
MIN_TRIAL_BUDGET = 30.0
"""Seconds that any trial may plan for, however short its share of the search."""


@dataclass
class Coordinator:
    """One search, from its first trial to its last. Everything that it works with is handed in.

    Args:
        started: the moment, on `clock`, at which the search began.
        num_test: number of test images, for which time is reserved.
        versions: of libraries and plugins, for the result.
        callbacks: the user's; an exception in one ends the search.
        plugin_callbacks: an exception in one costs a warning, once for each method; under --strict-plugins it ends the
            search.
    """

    config: StudyConfig
    trials: Trials
    scheduler: Scheduler
    pool: WorkerPool
    clock: Clock
    progress: Progress
    interrupts: Interrupts
    watchdog: Watchdog
    metric: Metric
    started: float
    num_test: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    callbacks: Sequence[Callback] = ()
    plugin_callbacks: Sequence[Callback] = ()
    later_slots: list[Slot] = field(default_factory=list)
    """Slots whose workers start once the first worker is ready."""
    fetching: Fetching = field(default_factory=Fetching)
    """Downloads of backbones that join the search once their weights are here."""
    saved: Mapping[str, Any] | None = None
    """The result as far as the model on disk has one, from ModelSaved."""
    tested: float | None = None
    """The moment at which the model was tested; only plugins are notified after it."""
    result: Mapping[str, Any] | None = None
    """The result, from Finalized."""
    _logged: set[str] = field(default_factory=set)
    _speed_of: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By worker: when it last reported its extraction speed, and images a second."""
    _drawn: float = -math.inf

    def __post_init__(self) -> None:
        strict = self.config.strict_plugins
        self._callbacks = Callbacks(self.callbacks, self.plugin_callbacks, strict, self.watchdog, self.log)
        self.scoreboard = Scoreboard(self.config.folder, self.metric, self.config.limits)
        self.test_passes = FinalPasses(self.num_test, self.scheduler, self.scoreboard, self.pool)
        self.sampling = Sampling(self.scheduler, self.trials)
        clock, test_seconds = self.clock, self.test_passes.seconds
        self.time = SearchTime(self.config.time, self.started, clock, self.scoreboard, self.interrupts, test_seconds)
        self.supervisor = Supervisor(
            self.config.folder,
            self.trials,
            self.pool,
            self.clock,
            self.interrupts,
            self.config.trial_timeout,
            self.log,
            self._trial_lost,
            self.time.trials_end,
        )
        self.dispatcher = Dispatcher(self.trials, self.scheduler, self.pool, self.clock, self.supervisor.usable)

    # -- before the first trial

    def resume(self) -> None:
        """Count what an earlier search of this name finished; fail, and queue again, what it left running."""
        for trial in self.trials.running():
            end_trial(self.trials, self.config.folder, trial.number, INTERRUPTED_SEARCH)
            retry_trial(self.trials, trial, worker_lost=False)
        trials = self.trials.all()
        self.scoreboard.resumable = sum(
            trial.user_attrs.get(TrialAttribute.CAUSE) in RESUMED_CAUSES for trial in trials
        )
        self.scoreboard.is_resuming = True
        for trial in trials:
            if trial.state in FINISHED_STATES:
                self._count(trial)
        self.scoreboard.begin()

    def start(self, event: SearchStarted) -> None:
        """Announce the search and let the workers begin."""
        self.emit("on_search_started", event)
        self.pool.set_deadline(self.time.trials_end())

    # -- trials

    def run(self) -> None:
        """Hand out jobs until time or trials are used up, and all trials are told."""
        while True:
            for worker, message in self.pool.poll(POLL_SECONDS):
                if isinstance(message, Ending):
                    self.supervisor.ended(worker, message)
                else:
                    self.handle(worker, message)
            if self._over():
                self.supervisor.watch()
                return
            for worker in self.pool.workers:
                if worker.ready and not worker.busy and self.supervisor.usable(worker) and self._wants_trial():
                    self._hand_out(worker)
            self._fetch()
            self.supervisor.watch()
            self.redraw()

    def _over(self) -> bool:
        if not self.pool.workers:
            return self.clock.now() >= self.time.trials_end() or not self.pool.launcher.may_grow()
        busy = any(worker.busy for worker in self.pool.workers)
        self.acknowledge_interrupt()
        if line := self.time.lateness():
            self._log_once(line, line)
        self.give_up_when_overdue()
        if self.clock.now() >= self.time.trials_end():
            self.pool.set_deadline(self.started)  # in the past: trials end at their next look at it
            return not busy
        if (moment := self.time.moved()) is not None:
            self.pool.set_deadline(moment)
        if self._wants_trial():
            return False
        if busy and not any(worker.trial is not None for worker in self.pool.workers):
            self.pool.set_deadline(self.started)  # no trial will need what is being recorded
        return not busy and all(worker.ready for worker in self.pool.workers)

    def acknowledge_interrupt(self) -> None:
        """Say once that Ctrl-C has arrived, and what follows."""
        if self.interrupts.moment is not None:
            complete = self.scoreboard.counts["complete"]
            what = "saving the model" if complete else "no trial is complete, so there is no model yet"
            self._log_once("interrupted", f"stopping: {what}; Ctrl-C again ends at once")

    def give_up_when_overdue(self) -> None:
        """Raises KeyboardInterrupt where a user has waited long enough after Ctrl-C: for trials to be complete, or for
        the model of those that are."""
        if self.interrupts.overdue(MODEL_SECONDS if self.scoreboard.counts["complete"] else INTERRUPT_SECONDS):
            self.log("There was no time to save a model. The trials are kept: run the same command again to continue.")
            raise KeyboardInterrupt

    def _wants_trial(self) -> bool:
        """Whether another trial may be started."""
        running = sum(worker.trial is not None for worker in self.pool.workers)
        # beyond the deadline one trial at a time, until the first is complete
        end = min(self.time.trials_end(), self.time.deadline()) if running else self.time.trials_end()
        unusable = self.scheduler.unusable.issuperset(self.scheduler.choices.backbones) and not self.fetching.is_pending
        if self.scoreboard.hopeless or unusable or self.clock.now() >= end - MIN_TRIAL_SECONDS:
            return False
        if self.config.trials is None:
            return True
        return self.scoreboard.num_finished + running < self.config.trials + self.scoreboard.resumable

    def _hand_out(self, worker: Worker) -> None:
        """Give the worker a job, unless it waits for features that are being recorded."""
        left = self.time.left()
        special = None
        if self.config.time:
            slowness, has_trial = self.time.slowness, bool(self.scoreboard.counts["complete"])
            special = self.test_passes.job(worker, left) or self.sampling.job(left, slowness, has_trial=has_trial)
        job = special or self.dispatcher.choose(worker, left)
        if job is None:
            worker.activity = "waiting for features"
        elif not isinstance(job, RunTrial):
            self.pool.give(worker, job, job.describe())
        else:
            share = (
                max(MIN_TRIAL_BUDGET, self.scheduler.time_share * self.config.time) if self.config.time else math.inf
            )
            budget = min(left, share, self.config.trial_timeout or math.inf)
            self.pool.give(worker, replace(job, time_budget=remaining_or_none(budget)), "drawing a recipe")

    def _fetch(self) -> None:
        """Let backbones join whose weights have arrived, and download the next one that there is time for."""
        left = self.time.deadline() - self.clock.now()
        arrived = self.fetching.advance(lambda name, seconds: self.scheduler.has_time_for(name, left - seconds))
        if arrived:
            self.scheduler.missing.difference_update(arrived)

    # -- messages

    def handle(self, worker: Worker, message: FromWorker) -> None:
        """React to a worker's message. Raises BrokenPlugin and DiskFull, which end the search."""
        match message:
            case Ready(seconds):
                self.time.worker_started(seconds)
                worker.ready = True
                worker.idle()
                while self.later_slots:
                    self.pool.add(self.later_slots.pop(0))
            case Probed(probe) if not probe.usable:
                self.supervisor.unusable(worker, probe.reason)
            case TrialStartedMessage():
                worker.strategy, worker.description, worker.activity = message.strategy, message.description, ""
                self.emit(
                    "on_trial_started",
                    TrialStarted(
                        message.number,
                        worker.slot.name,
                        message.strategy,
                        message.backbone,
                        message.head,
                        message.description,
                    ),
                )
            case TrialProgress(number, fraction, score):
                worker.activity = f"{fraction:.0%}, best {score:.4f}"
                self.emit("on_epoch_ended", EpochEnded(number, fraction, score))
            case ExtractionProgress():
                self._extracting(worker, message)
            case TrialEnded(number):
                self._trial_ended(worker, number)
                self.supervisor.job_ended(worker)
            case Recorded():
                self._recorded(worker, message)
            case Aligned():
                self.scheduler.align_with(message.advice)
                self._job_ended(worker, message)
            case DeviceError(number, cause):
                self._trial_ended(worker, number)
                self.supervisor.device_error(worker, self.trials.get(number), cause)
            case Activity(text):
                worker.activity = text
            case HookCalled(plugin, hook):
                worker.hook = worker.activity = f"plugin {plugin!r} in {hook}"
                self.time.waits_for_hook |= hook == "autotl_trial_finished"
            case Log(text):
                self._log_once(text, text)
            case PluginFailed(plugin, hook, text):
                self._log_once(f"{plugin} {hook}", text)
            case PluginIsBroken(text):
                raise BrokenPlugin(text)
            case DiskIsFull(text, path):
                raise DiskFull(text, path)
            case Crashed(traceback):
                self.trials.next_number()  # raises StudyDeleted where that is the reason
                self.log(traceback.strip().splitlines()[-1])
            case ModelSaved(result, is_tested):
                self.saved, self.time.model_saved = result, self.clock.now()
                self.tested = self.clock.now() if is_tested else None
            case Finalized(result):
                self.result = result

    def _extracting(self, worker: Worker, message: ExtractionProgress) -> None:
        if message.backbone and (message.done > 2 * BATCH or message.done == message.total):  # first batches are slow
            speed = message.images_per_second / worker.slot.threads
            self.scheduler.observe_speed(message.backbone, message.ran, worker.slot.device_type, speed)
        self._speed_of[worker.slot.name] = (self.clock.now(), message.images_per_second)
        subject = " ".join(filter(None, (message.backbone or "test images", message.view)))
        worker.activity = f"{subject}: {message.done}/{message.total} images"

    def _recorded(self, worker: Worker, message: Recorded) -> None:
        self.dispatcher.ended(worker, message.source)
        if message.cause and self.clock.now() < self.time.trials_end():
            what = worker.recording.describe() if worker.recording else "features"
            self._log_once(f"{what} {message.cause}", f"{worker.slot.name}: recording {what}: {message.cause}")
        self._job_ended(worker, message)

    def _job_ended(self, worker: Worker, message: Recorded | Aligned) -> None:
        worker.idle()
        if message.is_device_error:
            self.supervisor.device_error(worker, None, message.cause)
        else:
            self.supervisor.job_ended(worker)

    def _trial_ended(self, worker: Worker, number: int) -> None:
        self.dispatcher.ended(worker)
        worker.idle()
        worker.num_trials += 1
        trial = self.trials.get(number)
        if TrialAttribute.NOT_RECORDED in trial.user_attrs:
            self.dispatcher.forget(trial)
            retry_trial(self.trials, trial)
        self.emit("on_trial_finished", self._count(trial))

    def _trial_lost(self, trial: FrozenTrial) -> None:
        if trial.user_attrs.get(TrialAttribute.CAUSE) in RESUMED_CAUSES:
            self.scoreboard.resumable += 1
        self.emit("on_trial_finished", self._count(trial, worker_lost=True))

    def _count(self, trial: FrozenTrial, *, worker_lost: bool = False) -> TrialFinished:
        event = self.scoreboard.add(trial, worker_lost=worker_lost)
        extraction = trial.user_attrs.get(TrialAttribute.EXTRACTION_SECONDS, 0.0)
        limits = self.config.limits
        value = self.scoreboard.comparable(trial) if limits.keeps(trial.user_attrs) else None
        if TrialAttribute.SAMPLE not in trial.user_attrs:  # its recipe follows on all images, which takes longer
            self.scheduler.finished(trial.params, event.seconds, value, extraction)
        if event.state == "pruned" and limits.exceeded(trial.user_attrs):  # with one pass and no head
            self.scheduler.excluded.add(trial.params["backbone"])
        return event

    # -- what users see

    def log(self, line: str) -> None:
        """Show a line to the user."""
        self.progress.log(line)

    def _log_once(self, key: str, line: str) -> None:
        """Every worker of a search may find out the same."""
        if key not in self._logged:
            self._logged.add(key)
            self.log(line)

    def emit(self, method: str, event: Any) -> None:
        """Call a method of the progress display and of all callbacks; one that returns True stops the search."""
        stop = bool(getattr(self.progress, method)(event))
        seconds = self.time.callback_seconds(last=method == "on_search_finished")
        stop |= self._callbacks.emit(method, event, seconds)
        if stop and math.isinf(self.time.stopped):
            self.log("A callback stops the search: the model is made of the finished trials.")
            self.time.stopped = self.clock.now()

    def redraw(self) -> None:
        """Show how the search stands, at most every REDRAW_SECONDS."""
        if self.clock.now() - self._drawn >= REDRAW_SECONDS:
            self._drawn = self.clock.now()
            self.progress.update(self._snapshot())

    def _snapshot(self) -> Snapshot:
        now, counts = self.clock.now(), self.scoreboard.counts
        workers = (
            WorkerLine(w.slot.name, w.trial, w.description, w.activity, now - w.since) for w in self.pool.workers
        )
        speeds = [speed for moment, speed in self._speed_of.values() if now - moment < 2]
        limit = self.config.trials
        return Snapshot(
            seconds=now - self.started,
            time_left=max(0.0, self.started + self.config.time - now) if self.config.time else None,
            complete=counts["complete"],
            pruned=counts["pruned"],
            failed=counts["failed"],
            trials_left=max(0, limit + self.scoreboard.resumable - self.scoreboard.num_finished) if limit else None,
            workers=(*workers, *self.fetching.lines()),
            best=self.scoreboard.best,
            recent=tuple(self.scoreboard.recent),
            images_per_second=sum(speeds) if speeds else None,
        )
