"""The last step of a search: which worker makes the model, and what happens where one crashes over it."""

import math

import pytest

from autotl.coordinator.finalization import finalize
from autotl.coordinator.search_time import LATE_SECONDS, PLUGIN_SECONDS
from autotl.coordinator.signals import INTERRUPT_SECONDS
from autotl.errors import AutotlError
from autotl.events import SearchFinished
from autotl.features.progress import ExtractionProgress
from autotl.workers.messages import Activity, Finalize, Finalized, Hello, ModelSaved, Ready


def finished(one):
    """A scene whose trials are done and whose workers are idle."""
    one.run()
    one.launcher.sent.clear()
    return one


def answer_finalize(one, *replies):
    """`replies`: for each Finalize the messages that come back; "crash", alone or as the last one, ends the worker."""
    replies = iter(replies)

    def send(worker, message):
        one.launcher.sent.append((worker, message))
        if isinstance(message, Finalize):
            reply = next(replies)
            one.launcher.deliver(worker, [] if reply == "crash" else [m for m in reply if m != "crash"])
            if "crash" in reply:
                one.launcher.dead.add(worker)

    one.launcher.send = send


def finalizes(one):
    return [message for _, message in one.launcher.sent if isinstance(message, Finalize)]


def test_one_idle_worker_makes_the_model(scene):
    one = finished(scene(trials=2))
    answer_finalize(one, [ModelSaved({"test": None}), Finalized({"test": {"accuracy": 1.0}})])
    assert finalize(one.search) == {"test": {"accuracy": 1.0}}
    (job,) = finalizes(one)
    assert job.facts.trials == {"complete": 2, "pruned": 0, "failed": 0}
    assert job.facts.elapsed == pytest.approx(one.clock.now() - one.search.started, abs=1)
    assert (job.refit, job.interrupted) == (True, False)
    assert isinstance(one.recorder.events[-1], SearchFinished)


def test_without_a_time_limit_the_last_step_has_none_either(scene):
    one = finished(scene(trials=2))
    answer_finalize(one, [Finalized({})])
    finalize(one.search)
    assert finalizes(one)[0].remaining is None


def test_with_a_time_limit_the_last_step_has_what_is_left(scene):
    one = finished(scene(time=60))
    left = one.search.started + 60 - one.clock.now()
    answer_finalize(one, [Finalized({})])
    finalize(one.search)
    assert finalizes(one)[0].remaining == pytest.approx(left, abs=1)


def test_measured_speeds_are_passed_on(scene):
    one = scene(trials=1)
    one.search.handle(one.pool.workers[0], ExtractionProgress("resnet18", "levels", "none", 500, 500, 80.0))
    answer_finalize(finished(one), [Finalized({})])
    finalize(one.search)
    assert finalizes(one)[0].seconds_per_image == {"resnet18": pytest.approx(0.5)}


def test_a_worker_that_crashes_over_the_model_is_replaced_and_nothing_is_refitted(scene):
    one = finished(scene(trials=2))
    answer_finalize(one, "crash", [Finalized({"second": True})])
    assert finalize(one.search) == {"second": True}
    assert [job.refit for job in finalizes(one)] == [True, False]


def test_a_worker_that_crashes_over_the_report_leaves_the_tested_model(scene):
    one = finished(scene(trials=2))
    answer_finalize(one, [ModelSaved({"test": 1}, is_tested=True), "crash"])
    assert finalize(one.search) == {"test": 1}
    assert len(finalizes(one)) == 1


def test_where_every_worker_crashes_over_the_model_the_error_says_that_trials_are_kept(scene):
    one = finished(scene(trials=2))
    answer_finalize(one, *["crash"] * 9)
    with pytest.raises(AutotlError, match="the trials are kept"):
        finalize(one.search)


def test_a_disabled_device_is_not_used_for_the_model(scene):
    one = finished(scene(trials=2, devices=("cuda:0", "cuda:1")))
    one.search.supervisor.disabled["cuda:0"] = "it is broken"
    answer_finalize(one, [Finalized({})])
    finalize(one.search)
    ((worker, _),) = [entry for entry in one.launcher.sent if isinstance(entry[1], Finalize)]
    assert worker.startswith("cuda:1")


def test_with_every_device_disabled_the_cpu_makes_the_model(scene):
    one = finished(scene(trials=2, devices=("cuda:0",)))
    one.search.supervisor.disabled["cuda:0"] = "it is broken"
    started = one.launcher.start
    answer_finalize(one, [Finalized({"cpu": True})])

    def start(slot):
        identity = started(slot)
        one.launcher.late += [(identity, Hello(identity, slot)), (identity, Ready())]
        return identity

    one.launcher.start = start
    assert finalize(one.search) == {"cpu": True}
    assert one.pool.workers[-1].slot.device_type == "cpu"


def test_a_saved_model_is_enough_where_a_user_waits_too_long_for_the_test_images(scene):
    one = finished(scene(trials=2))
    one.interrupts()
    answer_finalize(one, [ModelSaved({"test": None})])
    assert finalize(one.search) == {"test": None}
    assert finalizes(one)[0].interrupted
    assert finalizes(one)[0].remaining == pytest.approx(INTERRUPT_SECONDS, abs=1)
    assert not math.isinf(finalizes(one)[0].remaining)


def test_after_ctrl_c_a_tested_model_is_the_result_once_its_worker_is_done_and_nothing_is_said_to_hang(scene):
    one = finished(scene(trials=2))
    one.interrupts()
    answer_finalize(one, [ModelSaved({"test": 1}, is_tested=True)])
    poll = one.pool.poll

    def late(seconds):  # the worker reports its end a moment after the model
        if one.search.tested is not None:
            one.clock.sleep(0.2)
            return [*poll(seconds), (one.pool.workers[0], Finalized({"test": 1}))]
        return poll(seconds)

    one.pool.poll = late
    assert finalize(one.search) == {"test": 1}
    assert not any("was not done" in line for line in one.recorder.lines)


def test_a_plugin_that_hangs_after_the_model_costs_no_more_than_its_time_and_is_named(scene):
    one = finished(scene(time=60))
    end = one.search.started + 60
    answer_finalize(
        one, [ModelSaved({"test": 1}, is_tested=True), Activity("plugin 'uploads' in autotl_search_finished")]
    )
    assert finalize(one.search) == {"test": 1}
    assert one.clock.now() < end + PLUGIN_SECONDS
    named, overrun = one.recorder.lines[-2:]
    assert named.startswith("plugin 'uploads' in autotl_search_finished was not done ")
    took = round(one.clock.now() - end)
    assert overrun == f"The search took {took} s longer than the 60 s that it was given."
    assert took > 10


def test_ctrl_c_ends_the_wait_for_plugins_at_once(scene):
    one = finished(scene(trials=2))
    answer_finalize(one, [ModelSaved({"test": 1}, is_tested=True)])
    one.interrupts()
    before = one.clock.now()
    assert finalize(one.search) == {"test": 1}
    assert one.clock.now() - before < 2


def test_a_fit_that_runs_past_the_deadline_leaves_the_model_that_was_saved_before_it(scene):
    one = finished(scene(time=60))
    answer_finalize(one, [ModelSaved({"refitted": []})])
    assert finalize(one.search) == {"refitted": []}
    assert one.clock.now() - one.search.started < 60 + LATE_SECONDS + 1
