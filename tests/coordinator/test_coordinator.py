"""A coordinator, whole, with scripted workers, a virtual clock and a study in memory: no process, no image."""

from pathlib import Path

import pytest
from optuna.distributions import IntDistribution
from optuna.trial import TrialState, create_trial

from autotl.atomic_io import DiskFull
from autotl.coordinator.finalization import finalize, require_success
from autotl.coordinator.scoreboard import HOPELESS_FAILURES
from autotl.coordinator.searching import tried_params
from autotl.coordinator.signals import INTERRUPT_SECONDS
from autotl.coordinator.supervisor import OVERTIME
from autotl.devices import Slot
from autotl.engines.probe import ProbeResult
from autotl.errors import BrokenPlugin, NoTrialSucceeded
from autotl.events import Callback, EpochEnded, SearchStarted, TrialFinished, TrialStarted
from autotl.features.progress import ExtractionProgress
from autotl.study.needs import Recording
from autotl.workers import messages
from autotl.workers.messages import (
    Crashed,
    DeviceError,
    DiskIsFull,
    Finalized,
    Log,
    PluginFailed,
    PluginIsBroken,
    Probed,
    Ready,
    Record,
    Recorded,
    RecordTest,
    RunTrial,
    SetDeadline,
    TrialEnded,
    TrialProgress,
)


def event(folder=Path("studies/cells")):
    return SearchStarted("cells", folder, "cells", ("a", "b"), {"train": 1}, "accuracy", ("cpu:0",), ("b",))


# jobs


def test_as_many_jobs_as_trials_are_handed_out(scene):
    one = scene(trials=5).run()
    assert len(one.jobs) == 5
    assert [trial.state for trial in one.study.trials] == [TrialState.COMPLETE] * 5
    assert [trial.params["x"] for trial in one.study.trials] == [0.0, 0.01, 0.02, 0.03, 0.04]
    assert [number for *_, number in one.scheduler.budgets] == [0, 1, 2, 3, 4]


def test_a_worker_that_is_not_ready_gets_no_job(scene):
    one = scene(trials=3)
    slow = one.pool.workers[1]
    one.start()
    one.launcher.inbox.pop()  # its Ready
    one.search.handle(one.pool.workers[0], Ready())
    one.launcher.late.append((slow.identity, Ready()))
    one.search.run()
    assert len(one.study.trials) == 3


def test_without_a_time_limit_trials_have_no_time_budget(scene):
    assert scene(trials=2).run().jobs == [RunTrial(0, None), RunTrial(1, None)]


def test_a_trial_plans_for_its_share_of_the_search_and_no_longer_than_the_trial_timeout(scene):
    assert scene(time=1000).run().jobs[0] == RunTrial(0, 500.0)
    assert scene(time=1000, trial_timeout=40).run().jobs[0] == RunTrial(0, 40.0)


def test_a_time_limit_ends_the_trials_before_it(scene):
    one = scene(time=60).run()
    assert 30 < one.clock.now() - one.search.started < 60
    assert len(one.study.trials) > 10


def test_the_first_trial_may_be_late_and_no_other(scene):
    one = scene(time=10)
    one.seconds = 25.0
    one.run()
    assert one.search.scoreboard.counts["complete"] >= 1
    assert 25 <= one.clock.now() - one.search.started < 60


def test_late_trials_that_fail_end_the_search(scene):
    one = scene(time=10, devices=("cpu:0",))
    one.seconds = 25.0
    one.answer(*["ValueError: no"] * 20)
    one.run()
    assert one.search.scoreboard.counts == {"complete": 0, "pruned": 0, "failed": 3}


def test_a_search_whose_first_trial_was_in_time_starts_no_late_one(scene):
    one = scene(time=60, devices=("cpu:0",))
    one.seconds = 13.0
    one.run()
    assert one.clock.now() - one.search.started < 60
    assert not any("time is up" in line for line in one.recorder.lines)


def test_later_workers_start_once_the_first_is_ready(scene):
    one = scene(trials=3, devices=("cpu:0",))
    one.search.later_slots = [Slot("cpu:1", "cpu", "cpu", 1), Slot("cpu:2", "cpu", "cpu", 1)]
    assert [worker.slot.name for worker in one.pool.workers] == ["cpu:0"]
    one.start()
    next(iter(one.pool.poll(0)))
    one.search.handle(one.pool.workers[0], Ready())
    assert [worker.slot.name for worker in one.pool.workers] == ["cpu:0", "cpu:1", "cpu:2"]
    one.search.handle(one.pool.workers[0], Ready())
    assert len(one.pool.workers) == 3


def test_test_images_are_recorded_before_the_trials_end_and_once(scene):
    none, many = scene(time=60).run(), scene(time=60, num_test=1000).run()
    jobs = [message for _, message in many.launcher.sent if isinstance(message, RecordTest)]
    assert len(jobs) == 1
    assert not any(isinstance(message, RecordTest) for _, message in none.launcher.sent)
    assert none.clock.now() - many.clock.now() < 2  # nothing is kept for what is recorded


def test_no_worker_at_all_ends_the_search(scene):
    one = scene(trials=3)
    one.pool.workers.clear()
    one.search.run()
    with pytest.raises(NoTrialSucceeded, match="No trial was finished in the time given"):
        require_success(one.search)


def test_what_the_time_has_cut_short_or_had_a_sample_alone_is_tried_again():
    attributes = [{}, {"sample": 20}, {"out_of_time": True}, {"cause": OVERTIME}, {"cause": "behind trial 3"}]
    trials = [
        create_trial(
            state=TrialState.PRUNED,
            params={"x": i},
            distributions={"x": IntDistribution(0, 9)},
            user_attrs=some,
            system_attrs={"fixed_params": {"x": 7, "y": 1}},
        )
        for i, some in enumerate(attributes)
    ]
    assert tried_params(trials) == [{"x": 0, "y": 1}, {"x": 4, "y": 1}]


@pytest.mark.parametrize("attributes", [{}, {"sample": 20}])
def test_a_trial_on_a_sample_tells_nothing_about_those_on_all_images(scene, attributes):
    one = scene(trials=1)
    trial = one.study.ask()
    for name, value in {"recipe": {"strategy": "s", "backbone": "b", "head": "h"}, **attributes}.items():
        trial.set_user_attr(name, value)
    one.study.tell(trial, 0.5)
    one.search.resume()
    assert [value for _, value in one.scheduler.results] == ([] if attributes else [0.5])


def test_a_search_of_which_no_backbone_can_be_had_any_more_ends(scene):
    one = scene(trials=3)
    one.scheduler.unusable = {"resnet18"}  # its download has failed
    one.run()
    assert one.jobs == []


# messages


def test_each_trial_is_counted_and_announced_once(scene):
    one = scene(trials=4)
    one.answer(0.5, "ValueError: no", 0.75, 0.6)
    one.run()
    assert one.search.scoreboard.counts == {"complete": 3, "pruned": 0, "failed": 1}
    finished = [e for e in one.recorder.events if isinstance(e, TrialFinished)]
    assert [(e.number, e.value, e.is_best) for e in finished] == [
        (0, 0.5, True),
        (1, None, False),
        (2, 0.75, True),
        (3, 0.6, False),
    ]
    assert finished[1].cause == "ValueError: no"
    assert [value for _, value in one.scheduler.results] == [0.5, None, 0.75, 0.6]


def test_a_backbone_with_spaces_keeps_its_name(scene):
    one = scene(trials=1)
    name = "resnet18@/my photos · at home/weights 2.safetensors"
    one.search.handle(one.pool.workers[0], ExtractionProgress(name, "levels", "none", 500, 500, 80.0))
    assert one.scheduler.speeds == [(name, "levels", "cpu", 40.0)]
    assert one.pool.workers[0].activity == f"{name} none: 500/500 images"


def test_the_first_batches_and_the_test_images_say_nothing_of_a_backbones_speed(scene):
    one = scene(trials=1)
    one.search.handle(one.pool.workers[0], ExtractionProgress("b", "levels", "none", 32, 500, 80.0))
    one.search.handle(one.pool.workers[0], ExtractionProgress("", "levels", "", 500, 500, 80.0))
    assert one.scheduler.speeds == []


def test_a_line_that_every_worker_logs_is_shown_once(scene):
    one = scene(trials=1)
    for worker in one.pool.workers:
        one.search.handle(worker, Log("torch is used instead"))
        one.search.handle(worker, PluginFailed("p", "autotl_trial_finished", f"failed in process {worker.identity}"))
    one.search.handle(worker, PluginFailed("p", "autotl_search_finished", "another hook"))
    assert one.recorder.lines == ["torch is used instead", "failed in process cpu:0-1", "another hook"]


def test_a_broken_plugin_and_a_full_disk_end_the_search(scene):
    one = scene(trials=1)
    with pytest.raises(BrokenPlugin, match="it is broken"):
        one.search.handle(one.pool.workers[0], PluginIsBroken("it is broken"))
    with pytest.raises(DiskFull) as full:
        one.search.handle(one.pool.workers[0], DiskIsFull("no room", Path("/full")))
    assert full.value.path == Path("/full")


def test_of_a_crash_the_last_line_is_shown(scene):
    one = scene(trials=1)
    one.search.handle(one.pool.workers[0], Crashed("Traceback:\n  File x\nValueError: this one\n"))
    assert one.recorder.lines == ["ValueError: this one"]


def test_a_device_error_is_retried_in_another_process(scene):
    one = scene(trials=1)
    worker = one.pool.workers[0]
    one.study.enqueue_trial({"x": 0.5})
    trial = one.study.ask()
    trial.suggest_float("x", 0, 1)
    one.study.tell(trial, state=TrialState.FAIL)
    worker.ready = worker.busy = True
    worker.trial = 0
    one.search.handle(worker, DeviceError(0, "CUDA error"))
    assert worker.identity in one.launcher.killed
    assert one.study.trials[1].user_attrs == {"retry_of": 0}
    assert one.search.scoreboard.counts["failed"] == 1


def test_a_snapshot_shows_what_workers_do(scene):
    one = scene(trials=9)
    worker = one.pool.workers[0]
    worker.ready = worker.busy = True
    worker.trial = 3
    one.search.handle(worker, messages.TrialStarted(3, "fine_tuning", "b", "linear", "b · fine_tuning · linear"))
    one.search.handle(worker, TrialProgress(3, 0.5, 0.875))
    one.search.redraw()
    line = one.recorder.snapshots[-1].workers[0]
    assert (line.name, line.trial, line.description) == ("cpu:0", 3, "b · fine_tuning · linear")
    assert line.activity == "50%, best 0.8750"
    assert one.recorder.snapshots[-1].trials_left == 9


# features that an accelerator records ahead


def test_a_trial_that_found_no_features_is_queued_again_for_when_they_are_recorded(scene):
    one = scene(trials=2, devices=("cuda:0", "cpu:0"))
    forgotten = []
    one.search.dispatcher.forget = forgotten.append
    worker = one.pool.workers[1]
    one.study.enqueue_trial({"x": 0.5})
    trial = one.study.ask()
    trial.suggest_float("x", 0, 1)
    trial.set_user_attr("not_recorded", True)
    one.study.tell(trial, state=TrialState.PRUNED)
    worker.ready = worker.busy = True
    worker.trial = 0
    one.search.handle(worker, TrialEnded(0))
    assert [trial.number for trial in forgotten] == [0]
    assert one.study.trials[1].state == TrialState.WAITING
    assert one.study.trials[1].system_attrs["fixed_params"] == {"x": 0.5}
    assert one.search.scoreboard.counts["pruned"] == 1


def test_features_that_cannot_be_recorded_cost_a_line_and_no_trial(scene):
    one = scene(trials=2, devices=("cuda:0", "cpu:0"))
    worker = one.pool.workers[0]
    for _ in range(2):
        one.pool.give(worker, Record(Recording("resnet18", "flip", 1)), "")
        one.search.handle(worker, Recorded(None, "ValueError: no such layer"))
    assert one.recorder.lines == ["cuda:0: recording resnet18, 1 view of flip: ValueError: no such layer"]
    assert not worker.busy
    assert one.search.scoreboard.num_finished == 0


def test_a_device_error_while_features_are_recorded_replaces_the_process(scene):
    one = scene(trials=2, devices=("cuda:0", "cpu:0"))
    worker = one.pool.workers[0]
    one.pool.give(worker, Record(Recording("resnet18")), "")
    one.search.handle(worker, Recorded(None, "CUDA error", is_device_error=True))
    assert worker.identity in one.launcher.killed


def test_a_device_that_turns_out_not_to_work_is_left_out(scene):
    one = scene(trials=2, devices=("cuda:0", "cpu:0"))
    one.search.handle(one.pool.workers[0], Probed(ProbeResult("cuda:0", usable=False, reason="its memory is full")))
    assert [worker.slot.name for worker in one.pool.workers] == ["cpu:0"]
    assert one.recorder.lines == ["cuda:0 is not used: its memory is full"]
    one.run()
    assert len(one.study.trials) == 2


# failures


def test_ten_failures_of_one_cause_end_the_search_early_with_that_cause(scene):
    one = scene(trials=100)
    one.answer(*["RuntimeError: no such thing"] * 100)
    one.run()
    assert HOPELESS_FAILURES <= len(one.study.trials) <= HOPELESS_FAILURES + 1
    with pytest.raises(NoTrialSucceeded, match=r"ended early.*\n  1\d × RuntimeError: no such thing"):
        finalize(one.search)


@pytest.mark.parametrize("kind", ["causes differ", "one succeeded"])
def test_failures_that_differ_or_a_success_let_the_search_go_on(kind, scene):
    one = scene(trials=30)
    one.answer(*([0.5] if kind == "one succeeded" else []), *[f"RuntimeError: {i % 2}" for i in range(30)])
    if kind == "one succeeded":
        one.answer(0.5, *["RuntimeError: the same"] * 29)
    one.run()
    assert len(one.study.trials) == 30


def test_failures_of_an_earlier_search_do_not_end_this_one(scene):
    one = scene(trials=20)
    for _ in range(HOPELESS_FAILURES):
        trial = one.study.ask()
        trial.suggest_float("x", 0, 1)
        trial.set_user_attr("cause", "RuntimeError: of old")
        one.study.tell(trial, state=TrialState.FAIL)
    one.search.resume()
    one.run()
    assert one.search.scoreboard.counts == {"complete": 10, "pruned": 0, "failed": 10}


# resuming


def test_what_a_killed_search_left_running_fails_and_is_queued_again(scene):
    one = scene(trials=2)
    one.study.enqueue_trial({"x": 0.125})
    one.study.ask().suggest_float("x", 0, 1)
    one.search.resume()
    lost, again = one.study.trials
    assert (lost.state, lost.user_attrs["cause"]) == (TrialState.FAIL, "the search ended while the trial ran")
    assert again.user_attrs == {"resumes": 0}
    one.run()
    assert one.search.scoreboard.counts == {"complete": 2, "pruned": 0, "failed": 1}
    assert one.study.trials[1].params == {"x": 0.125}


# callbacks


class Notes(Callback):
    """Notes what it hears, and answers as it is told."""

    def __init__(self, stop_at=None, fail_at=None):
        self.name, self.heard, self.stop_at, self.fail_at = "notes", [], stop_at, fail_at

    def _hear(self, event):
        self.heard.append(type(event).__name__)
        if self.fail_at is type(event):
            raise RuntimeError("no good")
        return self.stop_at is type(event)

    on_search_started = on_trial_started = on_epoch_ended = on_trial_finished = on_search_finished = _hear


def test_callbacks_hear_everything_in_order(scene):
    notes = Notes()
    one = scene(trials=1, callbacks=[notes], devices=("cpu:0",))
    one.search.start(event())
    worker = one.pool.workers[0]
    one.search.handle(worker, messages.TrialStarted(0, "s", "b", "h", "b · s · h"))
    one.search.handle(worker, TrialProgress(0, 0.5, 0.875))
    one.run()
    one.launcher.deliver(worker.identity, [Finalized({"test": None})])
    finalize(one.search)
    assert notes.heard == ["SearchStarted", "TrialStarted", "EpochEnded", "TrialFinished", "SearchFinished"]


@pytest.mark.parametrize("stop_at", [SearchStarted, TrialFinished])
def test_a_callback_stops_the_search(stop_at, scene):
    one = scene(trials=100, callbacks=[Notes(stop_at)])
    one.search.start(event())
    one.run()
    assert len(one.study.trials) <= 2
    assert "A callback stops the search" in one.recorder.lines[-1]


@pytest.mark.parametrize("event_type", [TrialStarted, EpochEnded])
def test_a_callback_stops_running_trials(event_type, scene):
    one = scene(trials=100, callbacks=[Notes(event_type)])
    worker = one.pool.workers[0]
    one.search.handle(worker, messages.TrialStarted(0, "s", "b", "h", "b · s · h"))
    one.search.handle(worker, TrialProgress(0, 0.5, 0.875))
    one.run()
    assert one.study.trials == []
    assert any(isinstance(message, SetDeadline) for _, message in one.launcher.sent)


def test_an_exception_in_a_users_callback_ends_the_search(scene):
    one = scene(trials=100, callbacks=[Notes(fail_at=TrialFinished)])
    with pytest.raises(RuntimeError, match="no good"):
        one.run()


def test_an_exception_in_a_plugins_callback_costs_one_warning(scene):
    one = scene(trials=3, plugin_callbacks=[Notes(fail_at=TrialFinished)])
    one.run()
    assert one.recorder.lines == ["warning: callback 'notes' failed in on_trial_finished: RuntimeError: no good"]
    assert len(one.study.trials) == 3


def test_with_strict_plugins_an_exception_in_a_plugins_callback_ends_the_search(scene):
    one = scene(trials=3, plugin_callbacks=[Notes(fail_at=TrialFinished)], strict_plugins=True)
    with pytest.raises(BrokenPlugin, match="failed in on_trial_finished: RuntimeError: no good"):
        one.run()


# Ctrl-C


def test_after_ctrl_c_no_trial_is_started(scene):
    one = scene(trials=100)
    one.interrupts()
    one.run()
    assert one.jobs == []
    with pytest.raises(KeyboardInterrupt):
        finalize(one.search)


def test_a_trial_that_never_ends_after_ctrl_c_ends_the_wait(scene):
    one = scene(trials=100)
    worker = one.pool.workers[0]
    worker.busy = worker.ready = True
    one.interrupts()
    with pytest.raises(KeyboardInterrupt):
        one.search.run()
    assert INTERRUPT_SECONDS < one.clock.now() - one.search.started < INTERRUPT_SECONDS + 2


def test_failures_of_one_cause_end_a_resumed_search_too_whatever_was_complete_before(scene):
    one = scene(trials=100)
    one.study.tell(one.study.ask(), 0.5)
    one.search.resume()
    one.answer(*[f"OSError: cannot map 0x{i:x} in process {4000 + i}" for i in range(100)])
    one.run()
    assert one.search.scoreboard.counts["failed"] <= HOPELESS_FAILURES + 1


def test_ctrl_c_is_acknowledged_once(scene):
    one = scene(trials=3)
    one.search.scoreboard.counts["complete"] = 1
    one.interrupts()
    for _ in range(2):
        one.search.acknowledge_interrupt()
    assert one.recorder.lines == ["stopping: saving the model; Ctrl-C again ends at once"]
