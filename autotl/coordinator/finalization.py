"""The end of a search, as the coordinator sees it: one worker assembles, saves and tests the model."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autotl.coordinator.coordinator import POLL_SECONDS, Coordinator
from autotl.coordinator.scoreboard import why_none_is_within, why_none_succeeded
from autotl.coordinator.supervisor import SILENCE_LIMIT
from autotl.devices import Slot, parse_devices
from autotl.errors import AutotlError, NoTrialSucceeded
from autotl.events import SearchFinished
from autotl.study.kept_database import DatabaseLost
from autotl.workers.launcher import Ending
from autotl.workers.local import LocalLauncher
from autotl.workers.messages import NO_TIME_TO_TEST, Context, Finalize, SearchFacts
from autotl.workers.pool import MAX_CRASHES, Worker, remaining_or_none
from autotl.workers.rendezvous import Rendezvous

__all__ = ["finalize", "finalize_copy", "require_success"]


def finalize(search: Coordinator) -> Mapping[str, Any]:
    """Have a worker select the members, refit them, save the model and predict the test images; returns what
    `result.json` holds, with the leaderboard.

    A worker that crashes over it is replaced, and the second attempt refits nothing.

    Raises:
        NoTrialSucceeded: no trial is complete.
        AutotlError: no worker could assemble the model.
        KeyboardInterrupt: Ctrl-C came too early for a model, or there was no time for one.
    """
    require_success(search)
    search.time.finalizing_since = search.clock.now()
    end = search.time.end
    search.pool.set_deadline(end)
    for refit in (True, False):
        result = _attempt(search, min(end, search.interrupts.deadline), refit=refit)
        if result is not None:
            if line := search.time.overrun():
                search.log(line)
            search.emit("on_search_finished", SearchFinished(result, search.config.folder))
            return result
    raise AutotlError(f"The model could not be assembled; the trials are kept. See {search.config.folder / 'logs'}")


def finalize_copy(search: Coordinator, context: Context, lost: DatabaseLost) -> Mapping[str, Any]:
    """The result where the study's database is gone for good: a worker on this machine makes the model of the trials
    that this process knows.

    Raises:
        DatabaseLost: none of them is complete.
    """
    complete = search.scoreboard.counts["complete"]
    if not complete:
        raise lost
    search.log(f"warning: {lost}")
    search.log(f"The model is made of the {complete} trials that were complete before.")
    pool, copy = search.pool, search.config.folder / "cache" / "copy"
    search.trials = search.trials.copy_to(copy)
    for worker in list(pool.workers):
        pool.drop(worker)
    if pool.launcher.serves_study:
        pool.slots, pool.service = [], None
        pool.fall_back(LocalLauncher(search.config.folder / "logs", Rendezvous(search.config.folder)))
    pool.set_up(replace(context, copy=copy))
    return finalize(search)


def require_success(search: Coordinator) -> None:
    """Raises NoTrialSucceeded with the distinct causes where no trial is complete, or KeyboardInterrupt after
    Ctrl-C."""
    board, limits = search.scoreboard, search.config.limits
    trials = search.trials.all()
    is_beyond = board.nearest is not None or (
        search.scheduler.unusable.issuperset(search.scheduler.choices.backbones)
        and any(limits.exceeded(trial.user_attrs) for trial in trials)
    )
    if board.best is None and is_beyond:
        raise NoTrialSucceeded(why_none_is_within(limits, trials, board.nearest))
    if board.counts["complete"]:
        return
    if search.interrupts.moment is not None:
        raise KeyboardInterrupt
    disabled, early = search.supervisor.disabled, search.scoreboard.hopeless
    raise NoTrialSucceeded(why_none_succeeded(trials, disabled, search.config.folder, early=early))


def _job(search: Coordinator, end: float, *, refit: bool) -> Finalize:
    facts = SearchFacts(search.clock.now() - search.started, search.scoreboard.counts, search.versions)
    return Finalize(
        remaining_or_none(end - search.clock.now()),
        search.scheduler.measured_speeds(),
        facts,
        refit,
        interrupted=search.interrupts.moment is not None,
    )


def _attempt(search: Coordinator, end: float, *, refit: bool) -> Mapping[str, Any] | None:
    """The result from the first idle worker; None where that worker crashed."""
    pool = search.pool
    chosen: Worker | None = None
    crashes = 0
    while crashes < MAX_CRASHES:
        if search.interrupts.moment is not None:
            pool.set_deadline(search.started)
        for worker, message in pool.poll(POLL_SECONDS):
            if isinstance(message, Ending):
                crashes += not (worker.leaving or message.left)
                pool.drop(worker, slot_lost=message.slot_lost)
                if not worker.leaving:
                    search.log(f"{worker.slot.name}: {message.cause}{f' (see {message.log})' if message.log else ''}")
                if worker is chosen:
                    # a worker that crashes over the report or a plugin leaves a model that is saved and tested
                    return search.result or (search.saved if search.tested is not None else None)
            else:
                search.handle(worker, message)
        if search.result is not None:
            return search.result
        own = [worker for worker in pool.workers if not worker.joined and search.supervisor.usable(worker)]
        if not own:
            slot = _sound_slot(search)
            if pool.launcher.serves_study and not slot.host:
                search.log("The cluster is gone: this machine makes the model.")
                pool.fall_back(LocalLauncher(search.config.folder / "logs", Rendezvous(search.config.folder)))
            pool.add(slot)
        if chosen is None:
            idle = [worker for worker in own if worker.ready and not worker.busy]
            # an accelerator predicts the test images, and has its own features for a refit
            chosen = next((worker for worker in idle if worker.slot.is_accelerator), idle[0] if idle else None)
            if chosen:
                pool.give(chosen, _job(search, end, refit=refit), "selecting the model")
        elif search.clock.now() - chosen.last_message > SILENCE_LIMIT:
            pool.kill(chosen, f"it sent no sign of life for {SILENCE_LIMIT:.0f} s, and was killed")
        search.acknowledge_interrupt()
        if search.saved and (reason := _why_wait_no_longer(search, chosen)):
            search.log(reason)
            return search.saved
        search.give_up_when_overdue()
        search.redraw()
    return None


def _why_wait_no_longer(search: Coordinator, worker: Worker | None) -> str:
    """Why the saved model is the result now, though its worker is busy with it; "" while there is time."""
    if search.tested is None:
        return NO_TIME_TO_TEST if search.time.model_is_late() else ""
    if search.time.plugins_are_late(search.tested):
        doing, seconds = worker.activity if worker else "a plugin", search.clock.now() - search.tested
        return f"{doing} was not done {seconds:.0f} s after the model, and is ended. The model is complete."
    return ""


def _sound_slot(search: Coordinator) -> Slot:
    """A slot for the last step: on a device that is not disabled, else on the CPU."""
    slots = [slot for slot in search.pool.slots if slot.place not in search.supervisor.disabled]
    return slots[0] if slots else parse_devices("cpu")[0]
