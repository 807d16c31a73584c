"""Members are fitted again on all images that are not test images, if there is time."""

import math

import numpy as np
import pytest

from autotl.model.member import load_member
from autotl.trial import refit as module
from autotl.trial.refit import refit
from autotl.workers.messages import Activity, Log, member_folder

pytestmark = pytest.mark.slow


@pytest.fixture
def members(finished):
    """Of each trial, by its head's name and whether its backbone was tuned."""
    folders = [member_folder(finished.context.folder, trial.number) for trial in finished.study.trials]
    loaded = [load_member(folder, finished.registry) for folder in folders]
    return {(member.recipe.head, member.fitted.backbone_state is not None): member for member in loaded}


def test_an_estimator_is_fitted_on_training_and_validation_images(finished, members, messages):
    member = members["knn", False]
    assert member.fitted.head[0].n_samples_seen_ == 36  # the scaler's
    assert refit(finished, [member], math.inf) == [member.trial]
    assert member.fitted.head[0].n_samples_seen_ == 36 + 12
    assert messages[0] == Activity(f"fitting trial {member.trial} on training and validation images")


@pytest.mark.parametrize("tuned", [False, True])
def test_a_network_trains_as_many_epochs_as_its_trial_kept(finished, members, tuned, monkeypatch):
    member = members["linear", tuned]
    best_epoch = finished.study.trials[member.trial].user_attrs["best_epoch"]
    results = []
    train = module.train
    monkeypatch.setattr(module, "train", lambda *args: results.append(train(*args)) or results[-1])
    assert refit(finished, [member], math.inf) == [member.trial]
    assert len(results[0].history) == results[0].best_epoch == best_epoch


def test_the_weights_change_and_the_temperature_stays(finished, members):
    member = members["linear", False]
    before, temperature = member.fitted.head.state_dict(), member.fitted.temperature
    refit(finished, [member], math.inf)
    after = member.fitted.head.state_dict()
    assert any(not np.array_equal(before[name], after[name]) for name in before)
    assert member.fitted.temperature == temperature


@pytest.mark.parametrize("cause", ["no time is left", "Ctrl-C"])
def test_without_time_a_member_keeps_its_fit(finished, members, cause):
    member = members["knn", False]
    before = member.fitted
    if cause == "Ctrl-C":
        finished.deadline.move(-1)
    assert refit(finished, [member], 0.0 if cause == "no time is left" else math.inf) == []
    assert member.fitted is before


def test_ctrl_c_ends_a_refit_after_the_member_that_is_fitted(finished, members, monkeypatch):
    train = module.train

    def interrupt(*args):
        result = train(*args)
        finished.deadline.move(-1)
        return result

    monkeypatch.setattr(module, "train", interrupt)
    assert len(refit(finished, [members["knn", False], members["linear", False]], math.inf)) == 1


def test_fast_fits_come_first(finished, members, monkeypatch):
    trials = []
    monkeypatch.setattr(module, "train", lambda state, recipe, *more: trials.append(recipe.head) or 1 / 0)
    slow, fast = members["linear", True], members["knn", False]
    attributes = [{"fit_seconds": 8.0}, {}, {"fit_seconds": 8.5}]
    stored = [type("Trial", (), {"number": n, "user_attrs": a}) for n, a in enumerate(attributes)]
    monkeypatch.setattr(finished.study, "get_trials", lambda deepcopy: stored)
    refit(finished, [slow, fast], math.inf)
    assert trials == ["knn", "linear"]


def test_a_member_whose_refit_fails_keeps_its_fit_and_the_others_go_on(finished, members, messages, monkeypatch):
    one, other = members["knn", False], members["linear", False]
    before = one.fitted
    train = module.train

    def fails_for_knn(larger, recipe, *more):
        if recipe.head == "knn":
            raise RuntimeError("no neighbours")
        return train(larger, recipe, *more)

    monkeypatch.setattr(module, "train", fails_for_knn)
    assert refit(finished, [one, other], math.inf) == [other.trial]
    assert one.fitted is before
    line = f"Trial {one.trial} keeps its fit on the training images alone: no neighbours"
    assert Log(line) in messages


def test_a_refit_leaves_the_state_of_the_worker_as_it_was(finished, members):
    split, deadline = finished.context.split, finished.deadline
    refit(finished, [members["knn", False]], math.inf)
    assert finished.context.split is split
    assert finished.extractor.split is split
    assert finished.extractor.deadline is deadline
