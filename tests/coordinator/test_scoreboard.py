"""The score of a search: each trial once, and of each strategy, backbone and head the best fitted model."""

import optuna
import pytest

from autotl.config import Limits
from autotl.coordinator.scoreboard import HOPELESS_FAILURES, Scoreboard, why_none_is_within
from autotl.metrics import Metric

ACCURACY = Metric("accuracy", lambda labels, probabilities: 0.0)
LOSS = Metric("log_loss", lambda labels, probabilities: 0.0, greater_is_better=False)


@pytest.fixture
def board(tmp_path):
    """`board(metric)` → a scoreboard and `add(value, head=…, cause=…)`, which makes a trial with a fitted model."""

    def make(metric=ACCURACY):
        scoreboard, study = Scoreboard(tmp_path, metric), optuna.create_study(direction=metric.direction)

        def add(value=None, head="linear", cause="", *, worker_lost=False, **attributes):
            trial = study.ask()
            trial.set_user_attr("recipe", {"strategy": "fast", "backbone": "b", "head": head})
            for name, attribute in {**attributes, **({"cause": cause} if cause else {})}.items():
                trial.set_user_attr(name, attribute)
            (tmp_path / "trials" / f"{trial.number:05}").mkdir(parents=True)
            state = optuna.trial.TrialState.FAIL if value is None else None
            return scoreboard.add(study.tell(trial, value, state=state), worker_lost=worker_lost)

        return scoreboard, add

    return make


def kept(folder):
    return sorted(int(path.name) for path in (folder / "trials").iterdir())


@pytest.mark.parametrize(("metric", "best"), [(ACCURACY, [True, False, True]), (LOSS, [True, True, False])])
def test_the_best_so_far_is_marked(metric, best, board):
    _, add = board(metric)
    assert [add(value).is_best for value in (0.5, 0.4, 0.6)] == best


def test_of_each_strategy_backbone_and_head_the_best_model_is_kept(board, tmp_path):
    _, add = board()
    for value, head in [(0.5, "linear"), (0.7, "linear"), (0.6, "linear"), (0.1, "mlp")]:
        add(value, head)
    assert kept(tmp_path) == [1, 3]


def test_of_equal_scores_the_smaller_log_loss_is_kept_then_the_earlier_trial(board, tmp_path):
    _, add = board()
    for log_loss in (0.4, 0.3, 0.3):
        add(0.5, log_loss=log_loss)
    assert kept(tmp_path) == [1]


def test_one_cause_alone_is_hopeless(board):
    scoreboard, add = board()
    for _ in range(HOPELESS_FAILURES - 1):
        add(cause="ValueError: no")
    assert not scoreboard.hopeless
    add(cause="ValueError: no")
    assert scoreboard.hopeless
    add(0.5)
    assert not scoreboard.hopeless


def test_trials_that_lost_their_worker_are_no_reason_to_give_up(board):
    scoreboard, add = board()
    for _ in range(2 * HOPELESS_FAILURES):
        add(cause="the worker ended (killed by signal 9, SIGKILL)", worker_lost=True)
    assert not scoreboard.hopeless


def test_two_causes_are_not(board):
    scoreboard, add = board()
    for number in range(2 * HOPELESS_FAILURES):
        add(cause=f"ValueError: {number % 2}")
    assert not scoreboard.hopeless


def test_a_trial_without_log_loss_is_no_better_than_its_equals(board, tmp_path):
    scoreboard, add = board()
    add(0.5)
    add(0.5, log_loss=0.4)
    assert kept(tmp_path) == [1]
    assert scoreboard.best.number == 1


def test_a_trial_beyond_the_limits_is_never_the_best(board, tmp_path):
    scoreboard, add = board()
    scoreboard.limits = Limits(milliseconds=20.0)
    add(0.9, milliseconds=30.0)
    assert scoreboard.best is None
    message = why_none_is_within(scoreboard.limits, [], scoreboard.nearest)
    assert "takes 30 ms an image, and --max-latency allows 20. Type --max-latency 31ms" in message
    add(0.5, milliseconds=10.0)
    assert scoreboard.best.number == 1
    assert kept(tmp_path) == [1]
