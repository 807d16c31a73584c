"""Each check of a callback finds its violation."""

import pytest

from autotl.events import Callback


class Valid(Callback):
    name = "valid"

    def on_trial_finished(self, event):
        return event.is_best


class Nameless(Callback):
    pass


class Counting(Callback):
    name = "counting"

    def on_trial_finished(self, event):
        return event.number


class OnlyOnce(Callback):
    name = "only_once"
    started = False

    def on_search_started(self, event):
        if self.started:
            raise RuntimeError("it has started already")
        self.started = True


class Removing(Callback):
    name = "removing"

    def on_search_finished(self, event):
        event.result.pop("leaderboard", None)


@pytest.mark.parametrize(
    ("callback", "check", "got"),
    [
        (Nameless(), "has_a_name_of_its_own", "name is 'callback'"),
        (Counting(), "listens_to_a_whole_search", "on_trial_finished returned 0"),
        (OnlyOnce(), "listens_to_a_second_search", "RuntimeError: it has started already"),
        (Removing(), "leaves_events_unchanged", "on_search_finished changed its event"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_callback_that_violates_its_contract(callback, check, got, violation):
    assert got in violation("callback", check, callback)


def test_a_valid_callback_has_no_violation(violations):
    assert violations("callback", Valid()) == {}
