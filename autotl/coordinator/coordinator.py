"""The coordinator of a search: it hands out tickets, watches the clock and the workers, and keeps the score."""

import shutil
import time
from collections import defaultdict
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from autotl.atomic_io import DiskFull
from autotl.config import StudyConfig
from autotl.coordinator.extend import take_over
from autotl.coordinator.setup import freeze_choices, keep_config, prepare, record_versions
from autotl.coordinator.signals import INTERRUPTED, Interrupts
from autotl.coordinator.supervisor import CUT_SHORT, HANGS, LOST_IN_A_ROW, Supervision, fail, try_again
from autotl.devices import Slot, parse_devices
from autotl.errors import AutotlError, BrokenPlugin, NoTrialSucceeded
from autotl.features.extractor import BATCH
from autotl.metrics import Metric
from autotl.registry import Registry
from autotl.study.scheduler import UNMEASURED, Schedule
from autotl.study.storage import Journal
from autotl.study.study import as_line, open_study
from autotl.ui.progress import Progress, Snapshot, TrialLine, WorkerLine
from autotl.workers.messages import Finish, Ticket
from autotl.workers.pool import LocalWorkers, Worker

__all__ = ["Coordinator"]

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass
class Coordinator:
    """One search, while it runs."""

    config: StudyConfig
    progress: Progress
    registry: Registry
    slots: list[Slot]
    workers: LocalWorkers
    began: float
    interrupts: Interrupts
    extends: Path | None = None
    """The folder of the study whose trials this one takes over."""
    recent: list[TrialLine] = field(default_factory=list)
    cut_short: int = 0
    """Trials that ended with their search: their recipes are tried again, beside those that are asked for."""
    said: set[str] = field(default_factory=set)
    best: TrialLine | None = None
    counts: dict[str, int] = field(default_factory=lambda: {"complete": 0, "pruned": 0, "failed": 0})
    rate_now: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def metric(self) -> Metric:
        return self.registry.metric(self.config.metric)

    @property
    def cores(self) -> int:
        """All that the workers may use between them."""
        return sum(slot.threads for slot in self.slots)

    # -- before the first trial

    def prepare(self) -> None:
        """Images, split, study; then the workers may begin."""
        config = self.config
        context = prepare(config, self.registry, self.slots, self.progress.say)
        self.choices, self.dataset, self.split = context.choices, context.dataset, context.split
        if Journal(config.folder).repair():
            self.progress.say("the journal ended in a torn line, which was cut; it lies beside it as journal.log.torn")
        self.study = open_study(config.folder, config.name, self.metric.direction, config.seed)
        freeze_choices(self.study, context)
        keep_config(config)
        for line in record_versions(self.study, self._versions()):
            self.progress.say(line)
        if self.extends:
            self.progress.say(take_over(self.extends, self.study, context, self.registry))
        self._take_stock()
        self.supervision = Supervision(
            self.config, self.study, self.workers, self.progress.say, self._told, self._trials_end, self.interrupts
        )
        self.workers.set_deadline(self._trials_until())
        self.workers.begin(context)
        dataset, split = context.dataset, context.split
        self.progress.begin(
            {
                "study": config.name,
                "folder": str(config.folder),
                "data": config.data,
                "classes": list(dataset.classes),
                "images": {
                    "train": len(split.train),
                    "validation": len(split.validation),
                    "test": len(split.test),
                    "skipped": len(dataset.skipped),
                },
                "metric": config.metric,
                "devices": [slot.name for slot in self.slots],
                "backbones": list(self.choices.backbones),
                "warnings": [*dataset.warnings, *split.warnings],
            }
        )

    def _take_stock(self) -> None:
        """What an earlier search with this name has done; trials of processes that died with it are over."""
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING:
                fail(self.study, self.config, trial, CUT_SHORT)
                try_again(self.study, trial, of_worker=False)
        trials = self.study.get_trials(deepcopy=False)
        n_images = len(self.split.train) + len(self.split.validation)
        self.cut_short = sum(trial.user_attrs.get("cause") == CUT_SHORT for trial in trials)
        tried = [trial.params for trial in trials]
        better = self.metric.greater_is_better
        self.schedule = Schedule(self.choices, self.registry, tried, n_images, self.cores, better)
        for trial in trials:
            if trial.state in FINISHED:
                self._count(trial)

    # -- trials

    def run(self) -> None:
        """Hand out tickets until time or trials are used up."""
        while True:
            self._listen()
            if self._over():
                self.supervision.watch()
                return
            for worker in self.workers.workers:
                if worker.ready and not worker.busy and self.supervision.usable(worker) and self._wanted():
                    self._hand_out(worker)
            self.supervision.watch()
            self.progress.update(self._snapshot())

    def _over(self) -> bool:
        if not self.workers.workers:
            return True
        busy = any(w.busy for w in self.workers.workers)
        self._give_up_when_late()
        out_of_time = time.monotonic() >= self._trials_until() or self.interrupts.at is not None
        if out_of_time:
            self.workers.set_deadline(0.0)
            return not busy
        return not busy and not self._wanted() and all(w.ready for w in self.workers.workers)

    def _give_up_when_late(self) -> None:
        if self.interrupts.too_late():
            self.progress.say("There was no time for a model. The trials are kept: the same command goes on.")
            raise KeyboardInterrupt

    def _wanted(self) -> bool:
        """Whether another ticket may be handed out."""
        running = sum(w.busy for w in self.workers.workers)
        few = self.config.trials is None or sum(self.counts.values()) + running < self.config.trials + self.cut_short
        return few and self.interrupts.at is None and time.monotonic() < self._trials_until() - 1.0

    def _hand_out(self, worker: Worker) -> None:
        """Enqueue what to try, in whole or in part; the worker's sampler chooses the rest."""
        left = self._trials_until() - time.monotonic()
        unasked = sum(w.busy and w.trial is None for w in self.workers.workers)
        if len(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))) <= unasked:
            self.study.enqueue_trial(self.schedule.next(left, self._running()))
        share = max(30.0, self.schedule.share * self.config.time) if self.config.time else float("inf")
        worker.give(Ticket(min(left, share, self.config.trial_timeout or float("inf"))))

    def _running(self) -> dict[str, float]:
        """Seconds so far of the trials that run, by strategy."""
        seconds: dict[str, float] = defaultdict(float)
        for worker in self.workers.workers:
            if worker.busy and worker.strategy:
                seconds[worker.strategy] += time.monotonic() - worker.since
        return seconds

    def _trials_until(self) -> float:
        """When trials have to be done, so that choosing, saving and testing end within the search's time."""
        if self.config.time is None:
            return float("inf")
        n_test = len(self.split.test)
        rate = min(self.schedule.rates.values(), default=UNMEASURED) * self.cores
        a_pass = n_test / rate
        # two passes over the test images always; more, for averages over views and networks, where there is time
        reserve = 10.0 + max(2.0 * a_pass, min(24.0 * a_pass, 0.1 * self.config.time))
        return self.began + self.config.time - min(reserve, 0.3 * self.config.time)

    def _trials_end(self) -> float:
        """The same, or Ctrl-C."""
        return self.interrupts.at or self._trials_until()

    def _listen(self) -> None:
        for worker, message in self.workers.messages(0.25):
            if message is None:
                self.supervision.lost(worker)
                continue
            kind, *rest = message
            if kind == "ready":
                worker.ready, worker.busy, worker.doing = True, False, "waiting"
            elif kind == "asked":
                worker.trial = rest[0]
            elif kind == "started":
                _, words, worker.strategy, _ = rest
                worker.doing = words
            elif kind == "doing":
                worker.doing = f"{worker.doing.split(' · at ')[0]} · at {rest[0]}"
            elif kind == "images":
                what, done, total, rate = rest
                if done > 2 * BATCH or done == total:  # the first batches are slower
                    self.schedule.rates[what.split()[0]] = rate / worker.slot.threads
                self.rate_now[worker.slot.name] = (time.monotonic(), rate)
                worker.doing = f"{worker.doing.split(' · at ')[0]} · at {what}: {done}/{total} images"
            elif kind == "say":
                if rest[0] not in self.said:  # each worker of a search may find out the same
                    self.progress.say(rest[0])
                self.said.add(rest[0])
            elif kind == "warn":
                self._warn(rest[0])
            elif kind == "fatal":
                raise BrokenPlugin(rest[0])
            elif kind in ("finished", "spoiled"):
                self._finished(worker, rest[0])
                if kind == "spoiled":
                    self.supervision.spoiled(worker, rest[0])
                else:
                    self.supervision.finished(worker)
            elif kind == "full":
                raise DiskFull(rest[0], Path(rest[1]))
            elif kind == "broken":
                self.progress.say(rest[0].strip().splitlines()[-1])

    def _warn(self, line: str) -> None:
        """What a plugin's failure costs, once, however many workers it fails in."""
        plugin_and_hook = line.partition(": ")[0]
        if plugin_and_hook not in self.said:
            self.said.add(plugin_and_hook)
            self.progress.say(line)

    def _finished(self, worker: Worker, number: int) -> None:
        worker.busy, worker.trial, worker.doing, worker.strategy = False, None, "waiting", ""
        worker.done += 1
        self._told(self.study.get_trials(deepcopy=False)[number])

    def _told(self, trial: FrozenTrial) -> None:
        """A trial is over, one way or the other."""
        best = self._count(trial)
        self.progress.trial(as_line(trial), best)

    def _count(self, trial: FrozenTrial) -> bool:
        """Take a finished trial into account; whether it is the best so far."""
        line = as_line(trial)
        self.counts[line.state] += 1
        self.schedule.finished(trial.params, line.seconds, line.value, trial.user_attrs.get("recording", 0.0))
        self.recent = [*self.recent, line][-12:]
        if line.value is None or (self.best and not self.metric.better(line.value, self.best.value or 0.0)):
            self._keep_few()
            return False
        self.best = line
        return True

    def _keep_few(self) -> None:
        """Fitted models fill disks: keep the best of each kind, which is what a model is made of."""
        folders = {int(f.name): f for f in (self.config.folder / "trials").glob("[0-9]*")}
        done = [t for t in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if t.number in folders]
        sign = -1 if self.metric.greater_is_better else 1
        done.sort(key=lambda t: (sign * (t.value or 0.0), t.user_attrs.get("log_loss", 0.0)))
        kinds: set[tuple[str, ...]] = set()
        for trial in done:
            recipe = trial.user_attrs["recipe"]
            kind = (recipe["strategy"], recipe["backbone"], recipe["head"])
            if kind in kinds:
                shutil.rmtree(folders[trial.number], ignore_errors=True)
            kinds.add(kind)

    # -- after the last trial

    def finish(self) -> dict[str, Any]:
        """Have a worker choose the members, save the model, and look at the test images."""
        if not self.counts["complete"]:
            if self.interrupts.at is not None:
                raise KeyboardInterrupt
            raise NoTrialSucceeded(self._why_none())
        now = time.monotonic()
        until = self.began + self.config.time if self.config.time else now + 60.0
        self.workers.set_deadline(until if self.config.time else float("inf"))
        if self.interrupts.at is not None:
            until = self.interrupts.at + INTERRUPTED
        facts = {"began": self.began, "trials": self.counts, "versions": self._versions()}
        seconds = {name: 1.3 / (rate * self.cores) for name, rate in self.schedule.rates.items()}
        for refit in (True, False):
            result = self._finish_with(Finish(until, seconds, facts, refit, brief=self.interrupts.at is not None))
            if result is not None:
                self.progress.end(result)
                return result
        raise AutotlError(
            f"The model could not be put together; the trials are kept. See {self.config.folder / 'logs'}"
        )

    def _finish_with(self, ticket: Finish) -> dict[str, Any] | None:
        """The result from the first worker that is ready; None where it was lost on the way."""
        given: Worker | None = None
        saved: dict[str, Any] | None = None
        lost = 0
        while lost < LOST_IN_A_ROW:
            if self.interrupts.at is not None:
                self.workers.set_deadline(0.0)
            for worker, message in self.workers.messages(0.25):
                if message is None:
                    lost += not worker.leaving
                    self.workers.drop(worker)
                    if not worker.leaving:
                        self.progress.say(f"{worker.slot.name}: {worker.cause_of_death()} (see {worker.log})")
                    if worker is given:
                        return None
                    continue
                if message[0] == "ready":
                    worker.ready, worker.busy = True, False
                elif message[0] == "result":
                    return message[1]
                elif message[0] == "saved":
                    saved = message[1]
                elif message[0] == "say":
                    self.progress.say(message[1])
                elif message[0] == "full":
                    raise DiskFull(message[1], Path(message[2]))
                elif message[0] == "warn":
                    self._warn(message[1])
                elif message[0] == "fatal":
                    raise BrokenPlugin(message[1])
                elif message[0] == "images":
                    worker.doing = f"{message[1]}: {message[2]}/{message[3]}"
                elif message[0] == "doing":
                    worker.doing = message[1]
            mine = [w for w in self.workers.workers if not w.joined and self.supervision.usable(w)]
            if not mine:
                sound = [slot for slot in self.slots if slot.place not in self.supervision.out_of_use]
                self.workers.add(sound[0] if sound else parse_devices("cpu")[0])
            if given is None:
                given = next((w for w in mine if w.ready and not w.busy), None)
                if given:
                    given.give(ticket)
                    given.doing = "choosing the model"
            elif time.monotonic() - given.heard > HANGS:
                self.workers.kill(given, f"it gave no sign of life for {HANGS:.0f} s, and was ended")
            if saved and self.interrupts.too_late():
                self.progress.say("There was no time to look at the test images: the same command goes on, and does.")
                return saved
            self._give_up_when_late()
            self.progress.update(self._snapshot())
        return None

    def _why_none(self) -> str:
        """The distinct causes, with how often each came."""
        causes: dict[str, int] = defaultdict(int)
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state in FINISHED:
                causes[trial.user_attrs.get("cause", "unknown")] += 1
        lines = [f"  {n} × {cause}" for cause, n in sorted(causes.items(), key=lambda c: -c[1])]
        lines += [f"  {place} is out of use: {why}" for place, why in self.supervision.out_of_use.items()]
        if not lines:
            return "No trial was finished in the time given. Give more: --time 10m"
        return (
            "No trial succeeded:\n"
            + "\n".join(lines)
            + f"\nMore: {self.config.folder / 'logs'}, and each trial's traceback in `autotl dashboard`"
        )

    def _versions(self) -> dict[str, str]:
        names = ("optuna", "torch", "timm", "scikit-learn")
        return {**{name: version(name) for name in names}, **self.registry.versions()}

    def _snapshot(self) -> Snapshot:
        now = time.monotonic()
        workers = tuple(
            WorkerLine(w.slot.name, f"trial {w.trial} · {w.doing}" if w.trial is not None else w.doing, now - w.since)
            for w in self.workers.workers
        )
        rates = [rate for moment, rate in self.rate_now.values() if now - moment < 2]
        finished = sum(self.counts.values())
        return Snapshot(
            seconds=now - self.began,
            seconds_left=max(0.0, self.began + self.config.time - now) if self.config.time else None,
            complete=self.counts["complete"],
            pruned=self.counts["pruned"],
            failed=self.counts["failed"],
            trials_left=max(0, self.config.trials + self.cut_short - finished) if self.config.trials else None,
            workers=workers,
            best=self.best,
            recent=tuple(self.recent),
            images_per_second=sum(rates) if rates else None,
        )
