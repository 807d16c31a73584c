"""The study of a search: its journal survives a kill, and its pruner compares like with like."""

import subprocess
import sys

import optuna
import pytest

from autotl.study.pruner import STEPS, SameStrategyPruner
from autotl.study.study import as_line, open_study

KINDS = optuna.distributions.CategoricalDistribution(("fast_extraction", "fine_tuning"))


def add(study, strategy, curve, state=optuna.trial.TrialState.COMPLETE):
    """A finished trial whose score went along `curve`."""
    study.add_trial(
        optuna.trial.create_trial(
            state=state,
            value=curve[-1] if state == optuna.trial.TrialState.COMPLETE else None,
            params={"strategy": strategy},
            distributions={"strategy": KINDS},
            intermediate_values=dict(zip(range(STEPS // 4, STEPS + 1, STEPS // 4), curve, strict=False)),
        )
    )


def is_pruned(study, strategy, step, score):
    study.enqueue_trial({"strategy": strategy})
    trial = study.ask({"strategy": KINDS})
    trial.report(score, step)
    return trial.should_prune()


@pytest.fixture
def study(tmp_path):
    return open_study(tmp_path, "cells", "maximize", seed=0)


# pruning


def test_a_trial_below_the_median_of_its_strategy_is_pruned(study):
    for _ in range(5):
        add(study, "fine_tuning", [0.6, 0.7, 0.8, 0.8])
    assert is_pruned(study, "fine_tuning", STEPS // 2, 0.65)
    assert not is_pruned(study, "fine_tuning", STEPS // 2, 0.75)


def test_another_strategys_trials_prune_nothing(study):
    for _ in range(8):
        add(study, "fast_extraction", [0.9, 0.9, 0.9, 0.9])
    add(study, "fine_tuning", [0.5, 0.6, 0.7, 0.8])
    assert not is_pruned(study, "fine_tuning", STEPS // 2, 0.1)
    for _ in range(5):
        add(study, "fine_tuning", [0.5, 0.6, 0.7, 0.8])
    assert not is_pruned(study, "fine_tuning", STEPS // 2, 0.65)


def test_nothing_is_pruned_before_a_few_trials_are_through(study):
    for _ in range(3):
        add(study, "fine_tuning", [0.6, 0.7, 0.8, 0.8])
    assert not is_pruned(study, "fine_tuning", STEPS // 2, 0.1)


def test_nothing_is_pruned_in_its_first_fifth(study):
    for _ in range(5):
        add(study, "fine_tuning", [0.6] * 4)
    assert not is_pruned(study, "fine_tuning", STEPS // 5 - 1, 0.0)


def test_where_less_is_better_the_larger_is_pruned(tmp_path):
    study = open_study(tmp_path, "cells", "minimize", seed=0)
    for _ in range(5):
        add(study, "fine_tuning", [0.9, 0.5, 0.4, 0.4])
    assert is_pruned(study, "fine_tuning", STEPS // 2, 0.7)
    assert not is_pruned(study, "fine_tuning", STEPS // 2, 0.45)


def test_the_study_prunes_with_it(study):
    assert isinstance(study.pruner, SameStrategyPruner)


# the journal


def test_the_same_name_opens_the_same_study(study, tmp_path):
    add(study, "fine_tuning", [0.5] * 4)
    assert len(open_study(tmp_path, "cells", "maximize", seed=1).trials) == 1


def test_many_processes_open_it_at_once(tmp_path):
    code = (
        "import sys; from pathlib import Path; from autotl.study.study import open_study; "
        "s = open_study(Path(sys.argv[1]), 'cells', 'maximize', 0); s.tell(s.ask(), 0.5)"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert sorted(t.number for t in open_study(tmp_path, "cells", "maximize", 0).trials) == [0, 1, 2]


# trials as people read them


@pytest.mark.parametrize(
    ("state", "word", "value"),
    [("COMPLETE", "complete", 0.8), ("PRUNED", "pruned", None), ("FAIL", "failed", None)],
)
def test_a_trial_becomes_a_line(state, word, value, study):
    add(study, "fine_tuning", [0.5, 0.6, 0.7, 0.8], optuna.trial.TrialState[state])
    line = as_line(study.trials[0])
    assert (line.number, line.state, line.value) == (0, word, value)
