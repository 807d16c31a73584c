"""The sampler of a search: TPE over the joint parameters of a strategy and a head."""

import math
import subprocess
import sys
import time

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from autotl.config import Limits
from autotl.study.sampler import NUM_STARTUP_TRIALS, ConditionalTPESampler
from autotl.study.study import open_study


def suggest(trial: optuna.Trial) -> float:
    """Two strategies, two heads with parameters of their own; the best score is 0."""
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


def params_of(study: optuna.Study) -> list[dict]:
    return [trial.params for trial in study.trials]


@pytest.mark.slow
def test_it_scores_better_than_random_search():
    scores = [run(ConditionalTPESampler(seed)).best_value for seed in range(5)]
    random_scores = [run(RandomSampler(seed)).best_value for seed in range(5)]
    assert sum(scores) > sum(random_scores)
    assert sum(a > b for a, b in zip(scores, random_scores, strict=True)) >= 4


def test_it_learns_where_a_head_scores_well():
    late = [t.params["svm.C"] for t in run(ConditionalTPESampler(0), 120).trials[60:] if "svm.C" in t.params]
    assert sum(1 < c < 100 for c in late) > 0.6 * len(late)  # random search: a third of them


def test_strategies_are_learnt_separately():
    """Parameters of a head that are good after fine-tuning may be bad on recorded features."""
    study = optuna.create_study(direction="maximize", sampler=ConditionalTPESampler(0))
    gamma = optuna.distributions.FloatDistribution(0.0, 1.0)
    strategies = optuna.distributions.CategoricalDistribution(("fast", "slow"))
    for i in range(60):
        for strategy, best in (("fast", 0.1), ("slow", 0.9)):
            x = i / 60
            study.add_trial(
                optuna.trial.create_trial(
                    params={"strategy": strategy, "svm.gamma": x},
                    distributions={"strategy": strategies, "svm.gamma": gamma},
                    value=-abs(x - best) - (5 if strategy == "fast" else 0),
                )
            )
    for strategy, best in (("fast", 0.1), ("slow", 0.9)):
        drawn = []
        for _ in range(20):
            study.enqueue_trial({"strategy": strategy})
            trial = study.ask()
            trial.suggest_categorical("strategy", ("fast", "slow"))
            drawn.append(trial.suggest_float("svm.gamma", 0.0, 1.0))
            study.tell(trial, state=TrialState.FAIL)
        assert sum(abs(x - best) < 0.3 for x in drawn) > 14


def test_enqueued_parameters_are_fixed():
    study = run(ConditionalTPESampler(0), 30)
    study.enqueue_trial({"strategy": "slow", "slow.head": "svm", "svm.C": 3.0})
    trial = study.ask()
    suggest(trial)
    assert (trial.params["strategy"], trial.params["svm.C"]) == ("slow", 3.0)
    assert 0 <= trial.params["svm.gamma"] <= 1


def test_a_parameter_whose_range_has_changed_is_drawn_within_the_new_range():
    """The number of blocks depends on the backbone."""
    study = optuna.create_study(direction="maximize", sampler=ConditionalTPESampler(0))
    for _ in range(3 * NUM_STARTUP_TRIALS):
        trial = study.ask()
        trial.suggest_categorical("strategy", ("fine_tuning",))
        study.tell(trial, float(trial.suggest_int("fine_tuning.unfrozen_blocks", 1, 16)))
    for _ in range(10):
        trial = study.ask()
        trial.suggest_categorical("strategy", ("fine_tuning",))
        assert trial.suggest_int("fine_tuning.unfrozen_blocks", 1, 4) <= 4
        study.tell(trial, 0.0)


@pytest.mark.parametrize("state", [TrialState.PRUNED, TrialState.COMPLETE])
def test_pruned_trials_are_learnt_from_and_failed_ones_are_not(state):
    sampler = ConditionalTPESampler(0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for end in (state, TrialState.FAIL):
        trial = study.ask()
        trial.report(suggest(trial), 1)
        study.tell(trial, 1.0 if end == TrialState.COMPLETE else None, state=end)
    suggest(study.ask())
    assert sampler._learnt == {0}


# seeds


def test_draws_depend_on_the_seed():
    assert params_of(run(ConditionalTPESampler(3), 40)) == params_of(run(ConditionalTPESampler(3), 40))
    assert params_of(run(ConditionalTPESampler(3), 40)) != params_of(run(ConditionalTPESampler(4), 40))


def test_a_replaced_worker_draws_what_its_predecessor_would_have_drawn_next():
    """It began with the seed of its predecessor, and repeated its draws."""
    study = optuna.create_study(direction="maximize")
    for _ in range(40):
        study.sampler = ConditionalTPESampler(3)  # a new process
        trial = study.ask()
        study.tell(trial, suggest(trial))
    assert params_of(study) == params_of(run(ConditionalTPESampler(3), 40))
    assert len({str(params) for params in params_of(study)}) > 30


def test_parameters_of_one_trial_are_drawn_independently_while_there_is_nothing_to_learn_from():
    """Each group of a trial must not start the trial's generator anew."""
    study = optuna.create_study(direction="maximize", sampler=ConditionalTPESampler(0))
    draws = []
    for _ in range(200):
        trial = study.ask()
        trial.suggest_categorical("strategy", ("fast",))
        trial.suggest_categorical("fast.head", ("svm",))
        draws.append([trial.suggest_float(name, 0, 1) for name in ("svm.C", "svm.gamma")])
        study.tell(trial, state=TrialState.FAIL)
    assert sum(abs(a - b) for a, b in draws) / len(draws) > 0.25  # a third where they are independent


# running trials


def finished_study(study: optuna.Study) -> optuna.Study:
    """60 finished trials of one head, the best of them at svm.C = 10, svm.gamma = 0.3."""
    study.sampler = RandomSampler(0)
    for _ in range(60):
        study.enqueue_trial({"strategy": "fast", "fast.head": "svm"})
        trial = study.ask()
        study.tell(trial, suggest(trial))
    return study


def next_draws(study: optuna.Study, n: int) -> list[tuple[float, float]]:
    """What several seeds would draw for the next trial; none of these draws is left running."""
    draws = []
    for seed in range(n):
        study.sampler = ConditionalTPESampler(seed)
        study.enqueue_trial({"strategy": "fast", "fast.head": "svm"})
        trial = study.ask()
        suggest(trial)
        draws.append((math.log10(trial.params["svm.C"]), trial.params["svm.gamma"]))
        study.tell(trial, state=TrialState.FAIL)
    return draws


def distance(draws: list[tuple[float, float]]) -> float:
    """Mean distance to the optimum, where the running trials are, with both ranges scaled to 1."""
    return sum(math.hypot((c - 1) / 6, gamma - 0.3) for c, gamma in draws) / len(draws)


def near_optimum(i: int) -> dict:
    return {"strategy": "fast", "fast.head": "svm", "svm.C": 10.0 + i / 10, "svm.gamma": 0.3 + (i - 4) / 100}


@pytest.mark.parametrize("suggested", [True, False], ids=["suggested", "enqueued"])
def test_draws_keep_away_from_running_trials(suggested):
    study = finished_study(optuna.create_study(direction="maximize"))
    before = distance(next_draws(study, 20))
    for i in range(8):
        study.enqueue_trial(near_optimum(i))
        trial = study.ask()
        if suggested:
            suggest(trial)
    assert distance(next_draws(study, 20)) > 1.3 * before


@pytest.mark.slow
def test_draws_keep_away_from_the_running_trials_of_another_process(tmp_path):
    study = finished_study(open_study(tmp_path, "cells", "maximize", 0))
    before = distance(next_draws(study, 20))
    code = f"""
from pathlib import Path
import sys
sys.path.insert(0, {str(__file__.rpartition("/")[0])!r})
from autotl.study.study import open_study
from test_sampler import near_optimum, suggest
study = open_study(Path({str(tmp_path)!r}), "cells", "maximize", 0)
for i in range(8):
    study.enqueue_trial(near_optimum(i))
    suggest(study.ask())
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert distance(next_draws(study, 20)) > 1.3 * before


def test_workers_that_ask_at_the_same_time_draw_different_points(tmp_path):
    """Two processes, here two Study objects on one journal."""
    finished_study(open_study(tmp_path, "cells", "maximize", 0))
    studies = [open_study(tmp_path, "cells", "maximize", 0) for _ in range(2)]
    drawn = []
    for study in studies * 4:
        study.enqueue_trial({"strategy": "fast", "fast.head": "svm"})
        trial = study.ask()
        suggest(trial)
        drawn.append(trial.params["svm.C"])
    assert len(set(drawn)) == 8


def test_an_invalid_enqueued_parameter_of_a_running_trial_is_ignored():
    study = finished_study(optuna.create_study(direction="maximize"))
    study.enqueue_trial({"strategy": "fast", "fast.head": "svm", "svm.C": "large", "svm.gamma": 0.3})
    study.ask()
    assert len(next_draws(study, 2)) == 2


def test_trials_that_are_drawn_in_turns_do_not_repeat_each_other():
    study = optuna.create_study(direction="maximize", sampler=ConditionalTPESampler(0))
    first, second = study.ask(), study.ask()
    draws = [trial.suggest_float(name, 0, 1) for name in ("a", "b") for trial in (first, second)]
    assert len(set(draws)) == 4


# cost


def test_a_draw_after_a_thousand_trials_is_fast():
    study = finished_study(optuna.create_study(direction="maximize"))
    for trial in [trial for trial in study.trials for _ in range(16)]:
        study.add_trial(trial)
    for i in range(8):
        study.enqueue_trial(near_optimum(i))
        suggest(study.ask())
    study.sampler = ConditionalTPESampler(0)
    suggest(study.ask())  # reads all trials
    started = time.process_time()
    for _ in range(5):
        suggest(study.ask())
    assert (time.process_time() - started) / 5 < 0.1  # about 10 ms


def test_it_learns_to_keep_limits():
    """The best scores are beyond the limit, which a quarter of the values keeps."""

    def within(limits: Limits) -> int:
        study = optuna.create_study(direction="maximize", sampler=ConditionalTPESampler(0, limits))
        for _ in range(60):
            trial = study.ask()
            trial.suggest_categorical("strategy", ("fast",))
            views = trial.suggest_int("fast.views", 1, 20)
            trial.set_user_attr("milliseconds", 2.0 * views)
            study.tell(trial, views / 20)
        return sum(trial.params["fast.views"] <= 5 for trial in study.trials[30:])

    assert within(Limits(milliseconds=10.0)) >= 15
    assert within(Limits()) <= 5
