"""Median pruning among the trials of one strategy."""

import optuna
import pytest
from optuna.trial import TrialState

from autotl.study.pruner import STEPS, SameStrategyPruner
from autotl.study.study import open_study

STRATEGIES = optuna.distributions.CategoricalDistribution(("fast_extraction", "fine_tuning"))


def add(study, strategy, scores):
    """A complete trial with scores after each quarter of its budget."""
    study.add_trial(
        optuna.trial.create_trial(
            state=TrialState.COMPLETE,
            value=scores[-1],
            params={"strategy": strategy},
            distributions={"strategy": STRATEGIES},
            intermediate_values=dict(zip(range(STEPS // 4, STEPS + 1, STEPS // 4), scores, strict=True)),
        )
    )


def is_pruned(study, strategy, step, score):
    study.enqueue_trial({"strategy": strategy})
    trial = study.ask({"strategy": STRATEGIES})
    trial.report(score, step)
    return trial.should_prune()


@pytest.fixture
def study(tmp_path):
    return open_study(tmp_path, "cells", "maximize", seed=0)


def test_a_trial_below_the_median_of_its_strategy_is_pruned(study):
    for _ in range(5):
        add(study, "fine_tuning", [0.6, 0.7, 0.8, 0.8])
    assert is_pruned(study, "fine_tuning", STEPS // 2, 0.65)
    assert not is_pruned(study, "fine_tuning", STEPS // 2, 0.75)


def test_trials_of_another_strategy_are_not_compared(study):
    for _ in range(8):
        add(study, "fast_extraction", [0.9, 0.9, 0.9, 0.9])
    add(study, "fine_tuning", [0.5, 0.6, 0.7, 0.8])
    assert not is_pruned(study, "fine_tuning", STEPS // 2, 0.1)
    for _ in range(5):
        add(study, "fine_tuning", [0.5, 0.6, 0.7, 0.8])
    assert not is_pruned(study, "fine_tuning", STEPS // 2, 0.65)


def test_nothing_is_pruned_before_a_few_trials_are_complete(study):
    for _ in range(3):
        add(study, "fine_tuning", [0.6, 0.7, 0.8, 0.8])
    assert not is_pruned(study, "fine_tuning", STEPS // 2, 0.1)


def test_no_trial_is_pruned_in_the_first_fifth_of_its_budget(study):
    for _ in range(5):
        add(study, "fine_tuning", [0.6] * 4)
    assert not is_pruned(study, "fine_tuning", STEPS // 5 - 1, 0.0)


def test_where_less_is_better_the_larger_score_is_pruned(tmp_path):
    study = open_study(tmp_path, "cells", "minimize", seed=0)
    for _ in range(5):
        add(study, "fine_tuning", [0.9, 0.5, 0.4, 0.4])
    assert is_pruned(study, "fine_tuning", STEPS // 2, 0.7)
    assert not is_pruned(study, "fine_tuning", STEPS // 2, 0.45)


def test_studies_use_this_pruner(study):
    assert isinstance(study.pruner, SameStrategyPruner)
