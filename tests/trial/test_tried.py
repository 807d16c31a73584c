"""What a search has tried, by component."""

from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from autotl.study.study import TrialAttribute
from autotl.trial.tried import tried

STRATEGIES = CategoricalDistribution(("fast_extraction", "fine_tuning"))


def trial(strategy, value, holdout, *, folds, state=TrialState.COMPLETE):
    attributes = {TrialAttribute.HOLDOUT: holdout, TrialAttribute.FOLDS: folds, TrialAttribute.SECONDS: 2.0}
    return create_trial(
        state=state, value=value, params={"strategy": strategy}, distributions={"strategy": STRATEGIES},
        user_attrs=attributes,
    )  # fmt: skip


def test_scores_on_easy_validation_images_do_not_lead_those_of_all_folds():
    trials = [trial("fast_extraction", score, score + 0.1, folds=5) for score in (0.80, 0.84)]
    trials += [
        trial("fine_tuning", 0.92, 0.92, folds=1),
        trial("fine_tuning", None, 0.0, folds=1, state=TrialState.PRUNED),
    ]
    best = {row["name"]: round(row["best"], 6) for row in tried(trials, maximize=True)["strategy"]}
    assert best == {"fast_extraction": 0.84, "fine_tuning": 0.82}


def test_rows_count_trials_and_seconds_and_have_no_best_without_a_complete_trial():
    trials = [trial("fine_tuning", None, 0.0, folds=1, state=TrialState.PRUNED)] * 2
    assert tried(iter(trials), maximize=True)["strategy"] == [
        {"name": "fine_tuning", "trials": 2, "seconds": 4.0, "best": None}
    ]
