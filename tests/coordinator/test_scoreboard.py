"""The score of a search: each trial once, and of each strategy, backbone and head the best fitted model."""

from pathlib import Path

import optuna
import pytest

from autotl.config import Limits
from autotl.coordinator.scoreboard import HOPELESS_FAILURES, Scoreboard, why_none_is_within, why_none_succeeded
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


def test_a_lucky_score_on_the_validation_images_is_no_better_than_a_lower_one_out_of_fold(board):
    scoreboard, add = board()
    for number in range(6):  # 0.1 more on the validation images means 0.05 more out of fold
        add(0.70 + 0.02 * number, f"head {number}", folds=5, holdout=0.70 + 0.04 * number)
    assert not add(0.86, "lda", folds=1, holdout=0.86).is_best  # 0.78 out of fold
    assert scoreboard.best.number == 5
    assert add(0.95, "mlp", folds=1, holdout=0.95).is_best
    assert scoreboard.best.value == 0.95


def test_trials_of_one_kind_are_compared_on_the_images_that_both_have_predicted(board, tmp_path):
    _, add = board()
    add(0.9, folds=1, holdout=0.9)
    add(0.8, folds=5, holdout=0.92)
    assert kept(tmp_path) == [1]
    add(0.85, folds=1, holdout=0.85)
    assert kept(tmp_path) == [1]


def test_a_trial_whose_model_is_gone_replaces_none_that_is_there(board, tmp_path):
    scoreboard, add = board()
    scoreboard.is_resuming = True
    add(0.5)
    (tmp_path / "trials" / "00000" / "member.json").write_text("")
    add(0.6)
    assert kept(tmp_path) == [0]


def test_many_causes_are_told_in_few_lines():
    study = optuna.create_study()
    for number in range(50):
        trial = study.ask()
        trial.set_user_attr("cause", f"cause {number % 20}")
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    text = why_none_succeeded(study.trials, {}, Path("studies"), early=False)
    assert "  3 × cause 0" in text
    assert "and 12 other causes" in text
    assert len(text.splitlines()) == 11


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


@pytest.mark.parametrize("costs", [{}, {"log_loss": None}, {"log_loss": float("nan")}, {"log_loss": "a stranger's"}])
def test_a_trial_without_log_loss_is_no_better_than_its_equals(costs, board, tmp_path):
    scoreboard, add = board()
    add(0.5, **costs)
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


def test_what_the_former_best_predicted_stays_and_its_model_goes(board, tmp_path):
    _, add = board()
    folder = tmp_path / "trials" / "00000"
    add(0.5)
    for name in ("out_of_fold.npy", "member.json"):
        (folder / name).write_text("")
    (folder / "weights").mkdir()
    add(0.6)
    assert [path.name for path in folder.iterdir()] == ["earlier.npy"]
    add(0.4)
    assert kept(tmp_path) == [0, 1]


def test_the_networks_of_kept_models_are_counted_with_their_views(board):
    scoreboard, add = board()
    add(0.5, passes=1)
    add(0.5, "knn", passes=4)
    add(0.6, "mlp", passes=1, tuned=True)
    assert scoreboard.networks() == {"b": ("b", False, 4), "b/2": ("b", True, 1)}


def test_any_trial_on_more_images_is_better_than_one_on_a_sample(board, tmp_path):
    scoreboard, add = board()
    add(0.9, sample=100)
    assert add(0.5).is_best
    assert not add(0.95, sample=200).is_best
    assert kept(tmp_path) == [1]
    assert scoreboard.best.value == 0.5
