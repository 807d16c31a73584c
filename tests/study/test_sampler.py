"""The sampler of a search: TPE over the parameters of a head with its strategy."""

import math

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from autotl.study.sampler import STARTUP, ConditionalTPESampler


def suggest(trial: optuna.Trial) -> float:
    """Two strategies, two heads with parameters of their own; the best of all is 0."""
    strategy = trial.suggest_categorical("strategy", ("fast", "slow"))
    head = trial.suggest_categorical(f"{strategy}.head", ("svm", "mlp"))
    if head == "svm":
        c, gamma = trial.suggest_float("svm.C", 1e-3, 1e3, log=True), trial.suggest_float("svm.gamma", 0, 1)
        loss = abs(math.log10(c) - 1) + abs(gamma - 0.3)
    else:
        loss = 1.5 + abs(trial.suggest_int("mlp.width", 1, 100) - 50) / 100
    return -loss - (2.0 if strategy == "slow" else 0.0)


def run(sampler: optuna.samplers.BaseSampler, trials: int = 80) -> optuna.Study:
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for _ in range(trials):
        trial = study.ask()
        study.tell(trial, suggest(trial))
    return study


def test_it_finds_more_than_chance_does():
    found = [run(ConditionalTPESampler(seed)).best_value for seed in range(5)]
    chance = [run(RandomSampler(seed)).best_value for seed in range(5)]
    assert sum(found) > sum(chance)
    assert sum(a > b for a, b in zip(found, chance, strict=True)) >= 4


def test_it_learns_where_one_head_is_good():
    late = [t.params["svm.C"] for t in run(ConditionalTPESampler(0), 120).trials[60:] if "svm.C" in t.params]
    assert sum(1 < c < 100 for c in late) > 0.6 * len(late)  # a third of them by chance


def test_the_same_seed_asks_for_the_same():
    first, second = (run(ConditionalTPESampler(3), 40) for _ in range(2))
    assert [t.params for t in first.trials] == [t.params for t in second.trials]


def test_strategies_dont_teach_each_other():
    """What is good for a head after fine-tuning may be bad for it on recorded features."""
    study = optuna.create_study(direction="maximize", sampler=ConditionalTPESampler(0))
    wide = optuna.distributions.FloatDistribution(0.0, 1.0)
    kinds = optuna.distributions.CategoricalDistribution(("fast", "slow"))
    for i in range(60):
        for strategy, good in (("fast", 0.1), ("slow", 0.9)):
            x = i / 60
            study.add_trial(
                optuna.trial.create_trial(
                    params={"strategy": strategy, "svm.gamma": x},
                    distributions={"strategy": kinds, "svm.gamma": wide},
                    value=-abs(x - good) - (5 if strategy == "fast" else 0),
                )
            )
    for strategy, good in (("fast", 0.1), ("slow", 0.9)):
        drawn = []
        for _ in range(20):
            study.enqueue_trial({"strategy": strategy})
            trial = study.ask()
            trial.suggest_categorical("strategy", ("fast", "slow"))
            drawn.append(trial.suggest_float("svm.gamma", 0.0, 1.0))
            study.tell(trial, state=TrialState.FAIL)
        assert sum(abs(x - good) < 0.3 for x in drawn) > 14


def test_what_is_enqueued_is_taken_as_it_is():
    study = run(ConditionalTPESampler(0), 30)
    study.enqueue_trial({"strategy": "slow", "slow.head": "svm", "svm.C": 3.0})
    trial = study.ask()
    suggest(trial)
    assert (trial.params["strategy"], trial.params["svm.C"]) == ("slow", 3.0)
    assert 0 <= trial.params["svm.gamma"] <= 1


def test_a_parameter_whose_range_has_changed_is_drawn_within_the_new_one():
    """The number of blocks depends on the backbone."""
    study = optuna.create_study(direction="maximize", sampler=ConditionalTPESampler(0))
    for _ in range(3 * STARTUP):
        trial = study.ask()
        trial.suggest_categorical("strategy", ("fine_tuning",))
        study.tell(trial, float(trial.suggest_int("fine_tuning.unfrozen_blocks", 1, 16)))
    for _ in range(10):
        trial = study.ask()
        trial.suggest_categorical("strategy", ("fine_tuning",))
        assert trial.suggest_int("fine_tuning.unfrozen_blocks", 1, 4) <= 4
        study.tell(trial, 0.0)


@pytest.mark.parametrize("state", [TrialState.PRUNED, TrialState.COMPLETE])
def test_pruned_trials_count_and_failed_ones_do_not(state):
    sampler = ConditionalTPESampler(0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for end in (state, TrialState.FAIL):
        trial = study.ask()
        trial.report(suggest(trial), 1)
        study.tell(trial, 1.0 if end == TrialState.COMPLETE else None, state=end)
    suggest(study.ask())
    assert sampler._learnt == {0}
