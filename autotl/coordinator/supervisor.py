"""What happens to a worker that crashes, hangs or meets a device error, to its trial, and to its device."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree

from optuna.trial import FrozenTrial, TrialState

from autotl.clock import Clock
from autotl.coordinator.signals import Interrupts
from autotl.study.study import TrialAttribute
from autotl.study.trials import Trials, params_of
from autotl.workers.launcher import Ending
from autotl.workers.messages import member_folder
from autotl.workers.pool import MAX_CRASHES, CrashCounter, Worker, WorkerPool

__all__ = [
    "INTERRUPTED_SEARCH",
    "OVERTIME",
    "RESUMED_CAUSES",
    "SILENCE_LIMIT",
    "Supervisor",
    "end_trial",
    "retry_trial",
]

OVERTIME = "it was still busy when its time was up, and was killed"
"""Cause of trials that the deadline or Ctrl-C ended: they are pruned, since nothing about them failed."""
INTERRUPTED_SEARCH = "the search ended while the trial ran"
"""Cause of trials that a killed search left running."""
GIVEN_BACK = "its worker was taken out of the search"
"""Cause of trials of workers that joined and left: they are pruned, and run again."""
RESUMED_CAUSES = {INTERRUPTED_SEARCH, GIVEN_BACK}
"""Causes of trials whose recipes are tried again, beyond the number of trials that was asked for."""
SPARE_SECONDS = 1.0
"""Seconds after Ctrl-C in which running trials may end by themselves, before a spare worker is started."""
KILL_GRACE = 2.0
"""Seconds past the deadline after which a worker that is still busy is killed."""
SILENCE_LIMIT = 3600.0
"""Seconds without a message after which a worker counts as hung, unless --trial-timeout sets them: a fit inside of a
library sends none and may take long."""
LEAST_SILENCE = 30.0
"""The least that --trial-timeout sets them to: a worker sends no message while it converts and compiles a network,
which takes seconds, on a loaded machine many."""
START_LIMIT = 300.0
"""The same for a worker that starts."""
HOOK_NAMED_AFTER, HOOK_LIMIT = 10.0, 600.0
"""Seconds after which a plugin's hook that keeps a worker waiting is named, and after which the worker is ended."""
RESTART_SECONDS = 30.0
"""Seconds before the deadline from which no worker is restarted without need."""
MAX_TRIALS_PER_PROCESS = 300
"""Trials after which a worker's process is replaced: whatever a library has leaked goes with it."""


def end_trial(trials: Trials, folder: Path, number: int, cause: str, state: TrialState = TrialState.FAIL) -> None:
    """Tell the state of a running trial whose process is gone, and remove the model that it may have left."""
    trials.end(number, cause, state)
    rmtree(member_folder(folder, number), ignore_errors=True)


def retry_trial(trials: Trials, trial: FrozenTrial, *, worker_lost: bool = True) -> None:
    """Queue a trial's parameters again: the chosen ones and those that were enqueued.

    A trial that took a worker with it is retried once; one whose search ended is retried always.
    """
    params = params_of(trial)
    is_retry = TrialAttribute.RETRY_OF in trial.user_attrs
    if params and not (worker_lost and is_retry):
        relation = TrialAttribute.RETRY_OF if worker_lost or is_retry else TrialAttribute.RESUMES
        trials.enqueue(params, {relation: trial.number})


@dataclass
class Supervisor:
    """Keeps the workers of one search alive, and its trials told.

    Args:
        folder: the study's folder.
        trial_timeout: seconds without a message after which a worker hangs, at least LEAST_SILENCE; None for
            SILENCE_LIMIT.
        log: shows a line to the user.
        on_trial_over: called with each trial that ended without a TrialEnded message.
        trials_end: the moment at which trials have to be done, or at which Ctrl-C was pressed.
    """

    folder: Path
    trials: Trials
    pool: WorkerPool
    clock: Clock
    interrupts: Interrupts
    trial_timeout: float | None
    log: Callable[[str], None]
    on_trial_over: Callable[[FrozenTrial], None]
    trials_end: Callable[[], float]
    crashes: CrashCounter = field(default_factory=CrashCounter)
    """By device."""
    disabled: dict[str, str] = field(default_factory=dict)
    """Disabled devices, each with the cause of its last crash."""
    _has_spare: bool = False
    _named: set[str] = field(default_factory=set)
    """Hooks that were named to the user."""

    def watch(self) -> None:
        """Kill workers that run past the deadline (a fit inside of a library can't be interrupted) or hang."""
        now = self.clock.now()
        limit = max(self.trial_timeout, LEAST_SILENCE) if self.trial_timeout else SILENCE_LIMIT
        late = now > self.trials_end() + KILL_GRACE
        if self.interrupts.overdue(SPARE_SECONDS):
            self._start_spare()
        for worker in self.pool.workers:
            silent = now - worker.last_message
            if worker.killed:
                continue
            if worker.hook and worker.busy:
                self._watch_hook(worker, silent, limit)
            if worker.killed:
                continue
            if late and worker.busy and not self._needed():
                self.pool.kill(worker, OVERTIME)
            elif worker.busy and silent > limit:
                hint = "" if self.trial_timeout else ". Give trials more time: --trial-timeout 3h"
                self.pool.kill(worker, f"it sent no sign of life for {limit:.0f} s, and was killed{hint}")
            elif not worker.busy and not worker.ready and silent > START_LIMIT:
                self.pool.kill(worker, f"it was not ready after {START_LIMIT:.0f} s, and was killed")

    def _watch_hook(self, worker: Worker, seconds: float, limit: float) -> None:
        """Name a plugin's hook that takes long, and end the worker of one that hangs: its trial is told already."""
        if seconds > HOOK_NAMED_AFTER and worker.hook not in self._named:
            self._named.add(worker.hook)
            self.log(f"warning: {worker.slot.name} has been waiting for {worker.hook} for {seconds:.0f} s")
        if seconds > min(limit, HOOK_LIMIT):
            self.log(
                f"warning: {worker.slot.name}: {worker.hook} did not return in {seconds:.0f} s: its worker restarts. "
                f"The result of trial {worker.trial} is kept."
            )
            self.pool.kill(worker, f"{worker.hook} did not return")

    def _needed(self) -> bool:
        """After Ctrl-C whichever worker is idle first assembles the model: a busy one, or the spare."""
        return self.interrupts.moment is not None and not any(w.ready and not w.busy for w in self.pool.workers)

    def _start_spare(self) -> None:
        """Start one worker to assemble the model where a library may keep all the others busy for long."""
        workers = self.pool.workers
        if not self._has_spare and workers and all(w.busy for w in workers):
            self._has_spare = True
            slot = next((w.slot for w in workers if not w.joined), None)
            if slot is not None:
                self.pool.add(slot)

    def usable(self, worker: Worker) -> bool:
        """Whether the worker may get another job."""
        return not (worker.leaving or worker.killed or worker.slot.place in self.disabled)

    def job_ended(self, worker: Worker) -> None:
        """A worker has told its trial, or recorded features, so its device works."""
        self.crashes.succeeded(worker.slot.place)
        if worker.slot.place in self.disabled:
            self.pool.drop(worker)
        elif (
            worker.num_trials >= MAX_TRIALS_PER_PROCESS
            and not worker.joined
            and self.clock.now() < self.trials_end() - RESTART_SECONDS
        ):
            self.pool.leave(worker)

    def device_error(self, worker: Worker, trial: FrozenTrial | None, cause: str) -> None:
        """An accelerator error failed the job: a trial is retried once in another process, and this one ends."""
        if trial is not None:
            retry_trial(self.trials, trial)
        what = f"trial {trial.number}" if trial is not None else "recording features"
        self.log(f"{worker.slot.name}: {what}: {cause}: its worker restarts")
        self.pool.kill(worker, cause)

    def unusable(self, worker: Worker, reason: str) -> None:
        """The device of a worker that starts doesn't work: it is disabled."""
        self.disabled.setdefault(worker.slot.place, reason)
        self.log(f"{worker.slot.name} is not used: {reason}")
        self.pool.drop(worker)

    def ended(self, worker: Worker, ending: Ending) -> None:
        """A worker's process is gone: its trial fails and is retried once, and a new process replaces it."""
        late = self.clock.now() > self.trials_end()
        if ending.left:
            self._left(worker, late=late)
        elif worker.trial is not None:
            state = TrialState.PRUNED if worker.killed == OVERTIME else TrialState.FAIL
            self._over(worker.trial, ending.cause, state, retry=not late)
        elif not worker.leaving and not worker.killed:
            self.log(f"{worker.slot.name}: {ending.cause}{f' (see {ending.log})' if ending.log else ''}")
        if ending.slot_lost:
            self.pool.drop(worker, slot_lost=True)
        elif worker.leaving or ending.left or (worker.killed and (late or worker.hook)):
            self._replace(worker, late=late)
        elif self.crashes.crashed(worker.slot.place) and not late:
            self._disable(worker, ending.cause)
        else:
            self._replace(worker, late=late)

    def _left(self, worker: Worker, *, late: bool) -> None:
        """A worker that had joined was taken out: its trial is pruned, and queued again."""
        given_back = worker.trial is not None and self.trials.get(worker.trial).state == TrialState.RUNNING
        again = ": its trial is given back, and runs again" if given_back and not late else ""
        self.log(f"{worker.slot.name} has left the search{again}")
        if worker.trial is not None:
            self._over(worker.trial, GIVEN_BACK, TrialState.PRUNED, retry=not late, worker_lost=False)

    def _replace(self, worker: Worker, *, late: bool) -> None:
        """Start a process in the worker's place, unless another process restarts it or the others suffice."""
        if worker.joined or (late and len(self.pool.workers) > 1) or worker.slot.place in self.disabled:
            self.pool.drop(worker)
        else:
            self.pool.replace(worker)

    def _disable(self, crashed: Worker, cause: str) -> None:
        """Use a device no more. Its other workers finish the trials that they run."""
        place = crashed.slot.place
        self.disabled[place] = cause
        self.log(f"{place} is disabled after {MAX_CRASHES} crashed workers, the last because {cause}")
        for worker in list(self.pool.workers):
            if worker is crashed or (worker.slot.place == place and not worker.busy):
                self.pool.drop(worker)

    def _over(
        self,
        number: int,
        cause: str,
        state: TrialState = TrialState.FAIL,
        *,
        retry: bool,
        worker_lost: bool = True,
    ) -> None:
        """End a trial whose process is gone, unless it was told before, and queue it again."""
        trial = self.trials.get(number)
        if trial.state == TrialState.RUNNING:
            end_trial(self.trials, self.folder, number, cause, state)
            if retry:
                retry_trial(self.trials, trial, worker_lost=worker_lost)
        self.on_trial_over(self.trials.get(number))
