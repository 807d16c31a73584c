"""Kinds of trials that a model would be made of get equal shares of the time."""

from collections import Counter

from autotl.study.scheduler import TUNED, Kinds

MANY = [("backbone", f"head {i}") for i in range(TUNED + 5)]


def told(greater_is_better=True, seconds=lambda i: 1.0):
    """Of each of MANY a trial, the later the greater its score."""
    kinds = Kinds(greater_is_better)
    for i, kind in enumerate(MANY):
        kinds.finished("fast", kind, seconds(i), i / 100)
    return kinds


def shares(kinds, strategy="fast", n=3000):
    return Counter(kinds.choose(strategy, MANY) for _ in range(n))


def test_the_best_are_tuned():
    assert set(shares(told())) == set(MANY[-TUNED:])


def test_of_a_metric_that_should_be_small_the_best_is_the_smallest():
    assert set(shares(told(greater_is_better=False))) == set(MANY[:TUNED])


def test_each_gets_as_much_time_as_another():
    seconds = [1.0 + i % 4 for i in range(len(MANY))]
    found = shares(told(seconds=seconds.__getitem__))
    spent = [found[kind] * seconds[MANY.index(kind)] for kind in MANY[-TUNED:]]
    assert max(spent) < 1.4 * min(spent)


def test_what_one_strategy_found_another_tries_too():
    assert set(shares(told(), "slow")) == set(MANY[-TUNED:])


def test_kinds_that_no_trial_was_finished_with_come_last():
    kinds = Kinds(True)
    for kind in MANY[: TUNED + 1]:
        kinds.finished("fast", kind, 1.0, 0.5)
    for kind in MANY[TUNED + 1 :]:
        kinds.finished("fast", kind, 0.1, None)
    assert set(shares(kinds)) <= set(MANY[: TUNED + 1])


def test_before_any_trial_every_kind_may_be_chosen():
    assert {Kinds(True).choose("fast", MANY[:2]) for _ in range(100)} == set(MANY[:2])
