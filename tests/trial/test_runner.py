"""Every trial reaches a final state in the study, and its messages reach the coordinator."""

import errno
import math
from dataclasses import replace

import numpy as np
import pytest
from optuna.pruners import BasePruner
from optuna.trial import TrialState

from autotl.atomic_io import DiskFull
from autotl.coordinator import replay
from autotl.errors import BrokenPlugin
from autotl.features.progress import ExtractionProgress
from autotl.features.sharing import StoreTimeout
from autotl.features.store import StoreUnavailable
from autotl.metrics import Metric
from autotl.strategies.base import OutOfTime
from autotl.study.study import FOLD_FILE
from autotl.trial.runner import run_trial
from autotl.trial.selection import kept_candidates
from autotl.workers.messages import (
    DeviceError,
    Log,
    TrialEnded,
    TrialProgress,
    TrialStarted,
    member_folder,
)

from .conftest import enqueue, fitted_result, run_next

pytestmark = pytest.mark.slow


def types(messages):
    return [type(message).__name__ for message in messages]


def of_type(messages, cls):
    return [message for message in messages if isinstance(message, cls)]


def fit(recipe, task, report):
    return fitted_result(recipe, task)


class PruneAlways(BasePruner):
    def prune(self, study, trial):
        return True


# a trial that completes


@pytest.fixture(scope="module")
def linear_trial(make_context, tmp_path_factory):
    """State and messages of a worker that has run a linear head on features, which it extracted first."""
    from autotl.clock import Deadline
    from autotl.trial.state import WorkerState

    messages = []
    context = make_context(tmp_path_factory.mktemp("studies"), cache=tmp_path_factory.mktemp("empty"))
    state = WorkerState.set_up(context, messages.append, Deadline())
    enqueue(state, "fast_extraction", "linear")
    assert run_next(state)
    return state, messages


def test_a_complete_trial_sends_its_messages_in_order(linear_trial):
    state, messages = linear_trial
    backbone = state.context.choices.backbones[0]
    started, *between, ended = messages
    description = state.study.trials[0].user_attrs["description"]
    assert started == TrialStarted(0, "fast_extraction", backbone, "linear", description)
    assert ended == TrialEnded(0)
    extracting, progress = of_type(between, ExtractionProgress), of_type(between, TrialProgress)
    extracted = [(m.backbone, m.ran, m.view, m.done, m.total) for m in extracting]
    assert extracted[-1] == (backbone, "levels", "none", 12, 12)
    assert progress[-1].number == 0
    assert 0 < progress[-1].fraction <= 1


def test_a_complete_trial_has_its_attributes(linear_trial):
    state, _ = linear_trial
    trial = state.study.trials[0]
    attributes = trial.user_attrs
    assert trial.state == TrialState.COMPLETE
    assert attributes["recipe"]["strategy"] == "fast_extraction"
    assert "fast_extraction (levels last" in attributes["description"]
    assert attributes["device"] == "cpu:0"
    assert 0 < attributes["extraction_seconds"] < attributes["seconds"]
    assert 1 <= attributes["best_epoch"] <= attributes["epochs"]
    assert {"accuracy", "balanced_accuracy", "macro_f1", "log_loss", "auroc"} <= attributes.keys()
    assert attributes["accuracy"] == pytest.approx(trial.value, abs=1e-6)
    assert not {"cause", "traceback"} & attributes.keys()


def test_a_complete_trial_leaves_its_model(linear_trial):
    state, _ = linear_trial
    folder = member_folder(state.context.folder, 0)
    assert (folder / "member.json").exists()
    assert np.isnan(np.load(folder / FOLD_FILE)).all(1).sum() == len(state.context.split.train)


def test_plugins_are_notified_of_a_complete_trial_before_it_ends(scripted, messages, monkeypatch):
    worker, notified = scripted(fit), []

    def notify(event, **arguments):
        notified.append((event, arguments["trial"].state, "TrialEnded" in types(messages)))

    monkeypatch.setattr(worker.registry, "notify", notify)
    run_next(worker)
    assert notified == [("autotl_trial_finished", TrialState.COMPLETE, False)]
    assert types(messages)[-1] == "TrialEnded"


def test_a_recipe_that_time_cut_short_replaces_the_drawn_one(scripted):
    def cut_short(recipe, task, report):
        return fitted_result(replace(recipe, strategy_params={"stop_after": 3}), task)

    worker = scripted(cut_short)
    run_next(worker)
    attributes = worker.study.trials[0].user_attrs
    assert attributes["recipe"]["strategy_params"] == {"stop_after": 3}
    assert "stop_after 3" in attributes["description"]


def test_a_task_has_the_deadline_of_the_worker_and_the_time_budget_of_its_job(scripted):
    tasks = []

    def remember(recipe, task, report):
        tasks.append(task)
        return fitted_result(recipe, task)

    worker = scripted(remember)
    run_next(worker, 30.0)
    run_next(worker)
    assert [task.time_budget for task in tasks] == [30.0, math.inf]
    assert all(task.deadline is worker.deadline for task in tasks)
    assert tasks[0].verdicts == worker.context.config.cache / "engines"
    worker.deadline.move(5)
    assert tasks[0].deadline.remaining() == pytest.approx(5, abs=1)


def test_draws_depend_on_the_seed_of_the_study_and_not_on_the_worker(make_state, tmp_path):
    recipes = []
    for slot in ("cpu:0", "cpu:1"):
        state = make_state(tmp_path / slot.replace(":", "-"), slot=slot, seed=7)
        trial = state.study.ask()
        recipes.append([trial.suggest_float(name, 0, 1) for name in "abc"])
    assert recipes[0] == recipes[1]


# a trial that does not complete


@pytest.mark.parametrize("error", [OutOfTime("no time for an epoch"), StoreTimeout("no time to extract")])
def test_a_trial_without_time_is_pruned_with_its_cause(scripted, messages, error):
    def late(recipe, task, report):
        raise error

    worker = scripted(late)
    assert run_next(worker)
    trial = worker.study.trials[0]
    assert (trial.state, trial.user_attrs["cause"]) == (TrialState.PRUNED, str(error))
    assert trial.user_attrs["out_of_time"] is True
    assert messages[-1] == TrialEnded(0)


def test_a_trial_is_pruned_when_the_pruner_says_so(scripted, messages):
    def reports(recipe, task, report):
        report(0.5, 0.25)
        return fitted_result(recipe, task)

    worker = scripted(reports)
    worker.study.pruner = PruneAlways()
    assert run_next(worker)
    trial = worker.study.trials[0]
    assert (trial.state, trial.value) == (TrialState.PRUNED, 0.25)
    assert trial.user_attrs["cause"] == "worse than the median of its strategy"
    assert of_type(messages, TrialProgress) == [TrialProgress(0, 0.5, 0.25)]


def test_a_trial_is_not_pruned_at_its_last_report(scripted):
    def reports(recipe, task, report):
        report(1.0, 0.25)
        return fitted_result(recipe, task)

    worker = scripted(reports)
    worker.study.pruner = PruneAlways()
    run_next(worker)
    assert worker.study.trials[0].state == TrialState.COMPLETE


def test_an_exception_fails_the_trial_and_the_worker_goes_on(scripted, messages):
    def broken(recipe, task, report):
        raise ValueError("the moon is full")

    worker = scripted(broken)
    assert run_next(worker)
    trial = worker.study.trials[0]
    assert (trial.state, trial.user_attrs["cause"]) == (TrialState.FAIL, "ValueError: the moon is full")
    assert "in broken" in trial.user_attrs["traceback"]
    assert messages[-1] == TrialEnded(0)
    worker.registry.strategies["scripted"]._fit = fit
    assert run_next(worker)
    assert worker.study.trials[1].state == TrialState.COMPLETE


def test_after_a_device_error_the_worker_must_end(scripted, messages):
    def broken(recipe, task, report):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    worker = scripted(broken)
    assert not run_next(worker)
    trial = worker.study.trials[0]
    assert trial.state == TrialState.FAIL
    assert messages[-1] == DeviceError(0, trial.user_attrs["cause"])
    assert "TrialEnded" not in types(messages)


def test_a_full_disk_leaves_the_trial_running_and_ends_the_worker(scripted):
    def broken(recipe, task, report):
        raise OSError(errno.ENOSPC, "No space left on device")

    worker = scripted(broken)
    with pytest.raises(DiskFull):
        run_next(worker)
    assert worker.study.trials[0].state == TrialState.RUNNING


def test_without_its_cache_a_trial_keeps_features_in_the_study(scripted, messages):
    attempts = []

    def cache_fails_once(recipe, task, report):
        attempts.append(task)
        if len(attempts) == 1:
            raise StoreUnavailable("The cache is gone.")
        return fitted_result(recipe, task)

    worker = scripted(cache_fails_once)
    run_next(worker)
    assert worker.study.trials[0].state == TrialState.COMPLETE
    assert len(attempts) == 2
    assert worker.extractor.store.root == worker.context.folder / "cache" / "features"
    assert [m.text.startswith("warning: The cache is gone.") for m in of_type(messages, Log)] == [True]


def test_a_study_whose_own_folder_fails_too_fails_the_trial(scripted):
    def cache_fails(recipe, task, report):
        raise StoreUnavailable("The cache is gone.")

    worker = scripted(cache_fails)
    run_next(worker)
    assert worker.study.trials[0].user_attrs["cause"] == "StoreUnavailable: The cache is gone."
    assert run_next(worker)


def test_a_broken_plugin_ends_a_strict_search_after_the_trial(scripted, messages, monkeypatch):
    worker = scripted(fit)

    def notify(event, **arguments):
        raise BrokenPlugin("plugin 'moon' failed")

    monkeypatch.setattr(worker.registry, "notify", notify)
    with pytest.raises(BrokenPlugin):
        run_next(worker)
    assert messages[-1] == TrialEnded(0)
    assert worker.study.trials[0].state == TrialState.COMPLETE


# scores that are not numbers


def with_metric(worker, name, compute):
    """The worker with one more metric, which the search optimises."""
    worker.registry.metrics[name] = Metric(name, compute)
    config = worker.context.config.model_copy(update={"metric": name})
    return replace(worker, context=replace(worker.context, config=config))


def test_a_metric_that_returns_nan_fails_the_trial_and_the_worker_goes_on(scripted, messages):
    worker = with_metric(scripted(fit), "moonlight", lambda labels, probabilities: math.nan)
    assert run_next(worker)
    assert run_next(worker)
    for trial in worker.study.trials:
        assert trial.state == TrialState.FAIL
        assert "'moonlight' returned nan" in trial.user_attrs["cause"]
    assert of_type(messages, TrialEnded) == [TrialEnded(0), TrialEnded(1)]


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_reported_score_that_is_not_finite_fails_the_trial(scripted, score):
    def reports(recipe, task, report):
        report(0.5, score)
        return fitted_result(recipe, task)

    worker = scripted(reports)
    assert run_next(worker)
    trial = worker.study.trials[0]
    assert trial.state == TrialState.FAIL
    assert "'accuracy'" in trial.user_attrs["cause"]
    assert str(score) in trial.user_attrs["cause"]


def test_other_metrics_that_fail_are_left_out(scripted):
    def broken(labels, probabilities):
        raise ZeroDivisionError

    worker = scripted(fit)
    worker.registry.metrics["broken"] = Metric("broken", broken)
    worker.registry.metrics["nan"] = Metric("nan", lambda labels, probabilities: math.nan)
    run_next(worker)
    trial = worker.study.trials[0]
    assert trial.state == TrialState.COMPLETE
    assert "accuracy" in trial.user_attrs
    assert not {"broken", "nan"} & trial.user_attrs.keys()


@pytest.mark.parametrize(
    ("error", "hook", "cause"),
    [
        (ValueError("the features are empty"), "autotl_trial_failed", "ValueError: the features are empty"),
        (OutOfTime("one epoch needs longer"), "autotl_trial_pruned", "one epoch needs longer"),
    ],
    ids=["failed", "pruned"],
)
def test_plugins_are_notified_of_a_trial_without_a_result(scripted, monkeypatch, error, hook, cause):
    def fail(recipe, task, report):
        raise error

    worker, heard = scripted(fail), []
    monkeypatch.setattr(worker.registry, "notify", lambda event, **arguments: heard.append((event, arguments)))
    run_next(worker)
    ((event, arguments),) = heard
    assert (event, arguments["cause"], arguments["trial"].number) == (hook, cause, 0)
    assert arguments["study"] is worker.study


def test_a_trial_on_a_sample_is_kept_until_there_is_one_on_all_images(state, monkeypatch) -> None:
    enqueue(state, "fast_extraction", "logistic_regression")
    assert run_trial(state, state.study.ask().number, sample=20)
    (trial,) = state.study.trials
    assert trial.state.name == "COMPLETE"
    assert trial.user_attrs["sample"] == 20
    assert "holdout" not in trial.user_attrs
    (candidate,) = kept_candidates(state)
    images = state.context.split
    predicted = ~np.isnan(candidate.out_of_fold[:, 0])
    assert 0 < predicted.sum() < len(images.validation)
    assert not predicted[images.development_folds != 0].any()
    monkeypatch.setattr(replay, "open_state", lambda *_: state)
    outcome = replay._replay(state.context.config, trial, None, print)
    assert outcome["replayed"] == pytest.approx(trial.value)
    enqueue(state, "fast_extraction", "knn")
    assert run_next(state)
    assert [candidate.number for candidate in kept_candidates(state)] == [1]
