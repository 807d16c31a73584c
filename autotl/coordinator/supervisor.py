"""What becomes of a worker that dies, hangs or is spoiled, of its trial, and of its device."""

import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import optuna
from optuna.trial import FrozenTrial, TrialState

from autotl.config import StudyConfig
from autotl.coordinator.signals import Interrupts
from autotl.workers.messages import member_folder
from autotl.workers.pool import LocalWorkers, Worker

__all__ = ["CUT_SHORT", "GRACE", "HANGS", "LOST_IN_A_ROW", "RECYCLED", "Supervision", "fail", "try_again"]

CUT_SHORT = "its search was ended while it ran"
GRACE = 2.0
"""Seconds past a deadline after which a worker that hasn't looked at it is ended."""
HANGS = 3600.0
"""Seconds without a sign of life that are too many where --trial-timeout says nothing: a fit inside a library gives
none, and may take long."""
STARTING = 300.0
"""The same for a worker that imports what it needs."""
LOST_IN_A_ROW = 3
"""A device that loses so many workers one after another is taken out of use."""
RECYCLED = 300
"""Trials after which a worker's process is replaced: whatever a library has leaked goes with it."""


def fail(study: optuna.Study, config: StudyConfig, trial: FrozenTrial, cause: str) -> None:
    """Tell a running trial whose process is gone. What it may have left is no part of the search."""
    optuna.Trial(study, trial._trial_id).set_user_attr("cause", cause)
    study.tell(trial.number, state=TrialState.FAIL)
    shutil.rmtree(member_folder(config.folder, trial.number), ignore_errors=True)


def try_again(study: optuna.Study, trial: FrozenTrial, of_worker: bool = True) -> None:
    """Queue a trial's recipe once more: all that was chosen of it. One that has taken a worker along twice is left; one
    whose search ended can't help that."""
    params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    again = "retry_of" in trial.user_attrs
    if params and not (of_worker and again):
        study.enqueue_trial(params, user_attrs={"retry_of" if of_worker or again else "resumes": trial.number})


@dataclass
class Supervision:
    """Keeps the workers of one search alive, and its trials told.

    Args:
        told: hears of each trial that is over without its worker having said so.
        until: time.monotonic() at which trials have to be done; Ctrl-C makes it the moment it came.
    """

    config: StudyConfig
    study: optuna.Study
    workers: LocalWorkers
    say: Callable[[str], None]
    told: Callable[[FrozenTrial], None]
    until: Callable[[], float]
    interrupts: Interrupts
    losses: Counter[str] = field(default_factory=Counter)
    """Workers lost one after another, by device."""
    out_of_use: dict[str, str] = field(default_factory=dict)
    """Devices that are, with what happened there last."""
    _strays: bool = False

    def watch(self) -> None:
        """End what doesn't look at the clock (a fit inside a library can't be told to stop), and what hangs."""
        now = time.monotonic()
        patience = self.config.trial_timeout or HANGS
        for worker in self.workers.workers:
            silent = now - worker.heard
            if worker.ended:
                continue
            if worker.busy and now > self.until() + GRACE and not self._needed():
                self.workers.kill(worker, "it was still busy when its time was up, and was ended")
            elif worker.busy and silent > patience:
                more = "" if self.config.trial_timeout else ". Give its trials more time: --trial-timeout 3h"
                self.workers.kill(worker, f"it gave no sign of life for {patience:.0f} s, and was ended{more}")
            elif not worker.busy and not worker.ready and silent > STARTING:
                self.workers.kill(worker, f"it wasn't ready after {STARTING:.0f} s, and was ended")
        self._reap_strays()

    def _needed(self) -> bool:
        """After Ctrl-C no time is left for a new worker: one of those that are late has to do what is left to do."""
        return self.interrupts.at is not None and not any(w.ready and not w.busy for w in self.workers.workers)

    def usable(self, worker: Worker) -> bool:
        """Whether another ticket may go to it."""
        return not (worker.leaving or worker.ended or worker.slot.place in self.out_of_use)

    def finished(self, worker: Worker) -> None:
        """A worker has told its trial: its device is sound."""
        self.losses[worker.slot.place] = 0
        if worker.slot.place in self.out_of_use:
            self.workers.drop(worker)
        elif worker.done >= RECYCLED and not worker.joined and time.monotonic() < self.until() - 30:
            worker.leave()

    def spoiled(self, worker: Worker, number: int) -> None:
        """An accelerator error ended its trial: never again in that process, once more in another."""
        trial = self.study.get_trials(deepcopy=False)[number]
        try_again(self.study, trial)
        self.say(f"{worker.slot.name}: trial {number}: {trial.user_attrs.get('cause')}: its worker starts anew")
        worker.ended = trial.user_attrs.get("cause", "an accelerator error")

    def lost(self, worker: Worker) -> None:
        """A worker ended: its trial is over, its siblings never notice, and a new one takes its place."""
        late = time.monotonic() > self.until()
        cause = worker.cause_of_death()
        if worker.trial is not None:
            self._over(worker.trial, cause, again=not late)
        elif worker.busy:
            self._strays = True  # between asking for a trial and saying so
        elif not worker.leaving and not worker.ended:
            self.say(f"{worker.slot.name}: {cause} (see {worker.log})")
        if worker.leaving or (worker.ended and late):
            self._next(worker, late)
            return
        place = worker.slot.place
        self.losses[place] += 1
        if self.losses[place] >= LOST_IN_A_ROW and not late:
            self._take_out(worker, cause)
        else:
            self._next(worker, late)

    def _next(self, worker: Worker, late: bool) -> None:
        """Another process in this one's place, unless it isn't ours to start, or the siblings can finish the search."""
        if worker.joined or (late and len(self.workers.workers) > 1) or worker.slot.place in self.out_of_use:
            self.workers.drop(worker)
        else:
            self.workers.replace(worker)

    def _take_out(self, lost: Worker, cause: str) -> None:
        """Its other workers may end what they are at."""
        place = lost.slot.place
        self.out_of_use[place] = cause
        self.say(f"{place} is taken out of use: it lost {LOST_IN_A_ROW} workers in a row, the last because {cause}")
        for worker in list(self.workers.workers):
            if worker is lost or (worker.slot.place == place and not worker.busy):
                self.workers.drop(worker)

    def _over(self, number: int, cause: str, again: bool) -> None:
        """Tell a trial whose process is gone; once, its recipe is queued again."""
        trial = self.study.get_trials(deepcopy=False)[number]
        if trial.state == TrialState.RUNNING:
            fail(self.study, self.config, trial, cause)
            if again:
                try_again(self.study, trial)
        self.told(self.study.get_trials(deepcopy=False)[number])

    def _reap_strays(self) -> None:
        """Tell a trial that a worker had asked for and died before it could say so: nobody owns up to it."""
        busy = [worker for worker in self.workers.workers if worker.busy]
        if not self._strays or any(worker.trial is None for worker in busy):
            return
        self._strays = False
        owned = {worker.trial for worker in busy}
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number not in owned:
                self._over(trial.number, "its worker ended as it began", again=True)
