"""Trials are fitted fold by fold: what is predicted of which images, and when the remaining folds are left out."""

import math
from dataclasses import replace

import numpy as np
import pytest
from optuna.trial import TrialState

from autotl.clock import Deadline
from autotl.heads.inference import MISSING, probabilities
from autotl.recipe import Recipe
from autotl.study.study import FOLD_FILE
from autotl.testing.scripted import VirtualClock
from autotl.trial import folds as module
from autotl.trial.folds import fit_folds
from autotl.workers.messages import member_folder

from .conftest import enqueue, run_next

pytestmark = pytest.mark.slow

KNN = {"components": 16, "n_neighbors": 5, "metric": "euclidean"}


@pytest.fixture
def folded(state):
    """The state of a worker whose split has four folds, and one image that is always trained on."""
    split = state.context.split
    folds = np.arange(len(split.train)) % 3 + 1
    folds[5] = -1
    choices = replace(state.context.choices, heads=("linear", "knn", "kernel_ridge"))
    context = replace(state.context, split=replace(split, folds=folds), choices=choices)
    return replace(state, context=context)


def out_of_fold(state, number):
    return np.load(member_folder(state.context.folder, number) / FOLD_FILE)


@pytest.mark.parametrize("head", ["kernel_ridge", "knn"])
def test_all_images_but_the_test_images_are_predicted(folded, head):
    enqueue(folded, "fast_extraction", head)
    run_next(folded)
    [trial] = folded.study.trials
    assert trial.state == TrialState.COMPLETE, trial.user_attrs
    assert (trial.user_attrs["folds"], trial.user_attrs["fitted_on_all"]) == (4, head == "kernel_ridge")
    array, split = out_of_fold(folded, 0), folded.context.split
    [unpredicted] = np.flatnonzero(np.isnan(array).any(1))
    assert split.development[unpredicted] == split.train[5]
    right = array.argmax(1) == folded.labels("development")
    assert trial.value == pytest.approx(np.delete(right, unpredicted).mean())
    assert trial.value > 0.6
    assert trial.user_attrs["holdout"] == pytest.approx(right[split.development_folds == 0].mean(), abs=1e-6)


def test_no_image_is_predicted_by_a_model_that_has_seen_it(folded, monkeypatch):
    seen = []

    def train(state, recipe, *arguments, **options):
        split = state.context.split
        seen.append((set(split.train.tolist()), set(split.validation.tolist())))
        return original(state, recipe, *arguments, **options)

    original = module.train
    monkeypatch.setattr(module, "train", train)
    enqueue(folded, "fast_extraction", "knn")
    run_next(folded)
    images = set(folded.context.split.development.tolist())
    assert all(trained | held_out == images and not trained & held_out for trained, held_out in seen)
    assert sum(len(held_out) for _, held_out in seen) == len(images) - 1


def test_a_trial_that_is_not_ahead_of_the_best_of_its_kind_ends_after_its_first_fold(folded):
    for _ in range(2):
        enqueue(folded, "fast_extraction", "knn")
        run_next(folded)
    best, other = folded.study.trials
    assert (best.state, other.state) == (TrialState.COMPLETE, TrialState.PRUNED)
    assert other.user_attrs["cause"] == "behind trial 0, the best of its kind, after 1 of 4 folds"
    assert other.value == pytest.approx(best.user_attrs["holdout"])


def test_without_time_for_the_other_folds_the_first_one_counts(folded):
    deadline = Deadline(clock=VirtualClock())
    deadline.move(0.001)
    enqueue(folded, "fast_extraction", "knn")
    run_next(replace(folded, deadline=deadline))
    [trial] = folded.study.trials
    assert (trial.state, trial.user_attrs["folds"]) == (TrialState.COMPLETE, 1)
    rows = ~np.isnan(out_of_fold(folded, 0)[:, 0])
    assert (rows == (folded.context.split.development_folds == 0)).all()


def test_without_time_a_trial_does_not_replace_the_best_of_its_kind(folded):
    enqueue(folded, "fast_extraction", "knn")
    run_next(folded)
    deadline = Deadline(clock=VirtualClock())
    deadline.move(0.001)
    enqueue(folded, "fast_extraction", "knn")
    run_next(replace(folded, deadline=deadline))
    assert folded.study.trials[1].user_attrs["cause"] == "no time for more than 1 of 4 folds"


def test_a_replay_predicts_as_many_folds_as_the_trial(folded):
    enqueue(folded, "fast_extraction", "knn")
    run_next(folded)
    recipe = Recipe.from_dict(folded.study.trials[0].user_attrs["recipe"])
    again = fit_folds(folded, recipe, math.inf, lambda fraction, score: None, folds=4)
    np.testing.assert_allclose(again.probabilities, out_of_fold(folded, 0))
    one = fit_folds(folded, recipe, math.inf, lambda fraction, score: None, folds=1)
    assert one.folds == 1


def test_the_temperature_of_logits_that_lie_far_apart_is_that_of_the_logits(folded, monkeypatch):
    def fitted(factor):
        def train(*arguments, **options):
            result = original(*arguments, **options)
            logits = factor * result.logits
            return replace(result, logits=logits, probabilities=probabilities(logits, 1.0))

        monkeypatch.setattr(module, "train", train)
        return fit_folds(folded, recipe, math.inf, lambda fraction, score: None, folds=4)

    original = module.train
    recipe = Recipe(folded.context.choices.backbones[0], "fast_extraction", "knn", 0, {"levels": "last"}, KNN)
    near, far = fitted(1.0), fitted(1e4)
    assert far.result.fitted.temperature == pytest.approx(1e4 * near.result.fitted.temperature, rel=1e-3)
    np.testing.assert_allclose(far.probabilities, near.probabilities, rtol=0.01)


def test_a_trial_whose_predictions_are_not_finite_fails(folded, monkeypatch):
    def train(*arguments, **options):
        result = original(*arguments, **options)
        result.logits[0] = np.nan
        return result

    original = module.train
    monkeypatch.setattr(module, "train", train)
    enqueue(folded, "fast_extraction", "knn")
    run_next(folded)
    [trial] = folded.study.trials
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["cause"] == "AutotlError: the predictions of knn are not finite"


def test_trials_are_judged_by_logits_that_lie_far_apart():
    logits = np.array([[0.0, -3000.0, MISSING], [-40.0, 0.0, -1000.0], [np.nan] * 3])
    softened = module._softened(logits)
    assert (softened[0, :2] > 0).all()
    assert (softened[1] > 0).all()
    assert softened[0, 2] == 0
    assert np.isnan(softened[2]).all()
    np.testing.assert_allclose(module._softened(logits[1:2, :2]), probabilities(logits[1:2, :2], 1.0))
