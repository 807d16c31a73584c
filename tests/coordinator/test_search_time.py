"""When the trials of a search end."""

import math
from collections import Counter
from types import SimpleNamespace

import pytest

from autotl.coordinator.search_time import MAX_LATE_TRIALS, OVERTIME_SECONDS, SearchTime
from autotl.testing.scripted import VirtualClock


@pytest.fixture
def of():
    """`of(time, complete=0, finished=0, num_test=0)`: the time of a search that extracts an image in 0.1 s."""

    def make(time, complete=0, finished=0, num_test=0):
        clock = VirtualClock()
        scheduler = SimpleNamespace(measured_speeds=lambda: {"b": 0.1}, default_seconds_per_image=1.0)
        scoreboard = SimpleNamespace(counts=Counter(complete=complete), num_finished=finished)
        interrupts = SimpleNamespace(moment=None)
        return SearchTime(time, clock.now(), num_test, clock, scheduler, scoreboard, interrupts)

    return make


@pytest.mark.parametrize(("time", "num_test", "reserved"), [(10, 0, 3), (600, 0, 25), (600, 100, 85), (600, 1000, 180)])
def test_time_is_reserved_for_the_model_and_its_test(of, time, num_test, reserved) -> None:
    search = of(time, complete=1, num_test=num_test)
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
