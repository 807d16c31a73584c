"""When the trials of a search end."""

import math
from collections import Counter
from types import SimpleNamespace

import pytest

from autotl.coordinator.search_time import (
    LATE_SECONDS,
    MAX_LATE_TRIALS,
    MODEL_SECONDS,
    NORMAL_START,
    OVERTIME_SECONDS,
    SearchTime,
)
from autotl.testing.scripted import VirtualClock


@pytest.fixture
def of():
    """`of(time, complete=0, finished=0, test=0)`: the time of a search whose passes over the test images take `test`
    seconds."""

    def make(time, complete=0, finished=0, test=0.0):
        clock = VirtualClock()
        scoreboard = SimpleNamespace(counts=Counter(complete=complete), num_finished=finished)
        interrupts = SimpleNamespace(moment=None, overdue=lambda: False)
        return SearchTime(time, clock.now(), clock, scoreboard, interrupts, lambda: test)

    return make


@pytest.mark.parametrize(
    ("time", "test", "reserved"),
    [(10, 0, 3), (600, 0, 15 + MODEL_SECONDS), (600, 60, 75 + MODEL_SECONDS), (600, 1000, 180)],
)
def test_time_is_reserved_for_the_model_and_its_test(of, time, test, reserved) -> None:
    search = of(time, complete=1, test=test)
    assert search.deadline() - search.started == pytest.approx(time - reserved)
    assert search.trials_end() == search.deadline()


def test_the_deadline_is_soft_until_a_trial_is_complete(of) -> None:
    search = of(10)
    assert search.trials_end() == search.deadline() + OVERTIME_SECONDS
    search.scoreboard.num_finished = MAX_LATE_TRIALS
    assert search.trials_end() == search.deadline()
    search = of(10)
    search.waits_for_hook = True
    assert search.trials_end() == search.deadline()
    search = of(10)
    search.stopped = search.started + 1
    assert search.trials_end() == search.started + 1
    search = of(10)
    search.interrupts.moment = search.started + 2
    assert search.trials_end() == search.started + 2
    assert of(None).trials_end() == math.inf


def test_a_late_first_trial_is_told_and_when_it_was_complete(of) -> None:
    search = of(10)
    assert search.lateness() == ""
    search.clock.sleep(9)
    assert search.lateness() == "The time is up, and no trial is complete: the search ends when the first one is."
    search.clock.sleep(3)
    search.scoreboard.counts["complete"] = 1
    assert search.lateness() == "The first trial was complete 5 s late."
    assert search.lateness() == ""


def test_a_search_that_ends_in_time_says_nothing(of) -> None:
    search = of(10, complete=1)
    search.clock.sleep(9)
    assert search.lateness() == ""


def test_a_machine_whose_workers_start_slowly_gets_more_time_for_the_model(of) -> None:
    search = of(600, complete=1)
    before = search.deadline()
    search.worker_started(0.0)
    assert search.deadline() == before
    search.worker_started(2 * NORMAL_START)
    assert search.deadline() == pytest.approx(before - MODEL_SECONDS)
    search.worker_started(3 * NORMAL_START)  # beside others
    search.worker_started(1.5 * NORMAL_START)
    assert search.deadline() == pytest.approx(before - 0.5 * MODEL_SECONDS)
    search.worker_started(0.5 * NORMAL_START)
    assert search.deadline() == before


def test_the_workers_are_told_of_a_deadline_that_has_moved(of) -> None:
    search = of(60)
    assert search.moved() == search.deadline() + OVERTIME_SECONDS
    assert search.moved() is None
    search.scoreboard.counts["complete"] = 1
    assert search.moved() == search.deadline()
    assert of(None).moved() is None


def test_a_search_says_by_how_much_it_was_late(of) -> None:
    search = of(60)
    search.clock.sleep(61)
    assert search.overrun() == ""
    assert not search.model_is_late()
    search.clock.sleep(LATE_SECONDS)
    assert search.overrun() == "The search took 9 s longer than the 60 s that it was given."
    assert search.model_is_late()
    search.model_saved = search.clock.now() - 1
    assert not search.model_is_late()
    search.interrupts.moment = search.clock.now()
    assert search.overrun() == ""
