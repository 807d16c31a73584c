"""The members of a model are fitted on all images that aren't test images, where there is time."""

import json
import math

import numpy as np
import pytest

from autotl.api import search
from autotl.coordinator.setup import kept_config, prepare
from autotl.devices import parse_devices
from autotl.model.member import load_member
from autotl.registry import load_registry
from autotl.trial import refit as refit_module
from autotl.trial.refit import refit
from autotl.trial.runner import Bench
from autotl.workers.messages import member_folder

CHOICES = {"backbones": ["efficientnet_lite0"], "strategies": ["fast_extraction", "fine_tuning"]}


@pytest.fixture(scope="module")
def found(cells, tmp_path_factory):
    """A nearest-neighbour trial, a linear one, and a fine-tuned one."""
    return search(
        str(cells),
        output=tmp_path_factory.mktemp("studies"),
        trials=6,
        heads=["knn", "linear"],
        devices="cpu",
        **CHOICES,
    )


@pytest.fixture
def bench(found):
    """A worker's, whose words are kept."""
    config = kept_config(found.folder)
    context = prepare(config, load_registry(), parse_devices("cpu"), lambda line: None)
    said = []
    bench = Bench.set_up(context, lambda *message: said.append(message), lambda: math.inf)
    bench.said = said
    return bench


def members(bench):
    """Of each finished trial, by its head's name and whether its base was tuned."""
    folders = [member_folder(bench.context.folder, trial.number) for trial in bench.study.get_trials()]
    found = [load_member(folder, bench.registry) for folder in folders if folder.exists()]
    return {(m.recipe.head, m.fitted.backbone_state is not None): m for m in found}


def test_a_search_says_which_trials_it_fitted_again(found):
    assert found.result["refitted"] == sorted(m["trial"] for m in found.result["members"])
    assert json.loads((found.folder / "model" / "model.json").read_text())["about"]["refitted"]


def test_an_estimator_has_then_seen_the_validation_images(bench):
    member = members(bench)["knn", False]
    assert member.fitted.head[0].n_samples_seen_ == 77  # what the scaler was fitted on
    assert refit(bench, [member], math.inf) == [member.trial]
    assert member.fitted.head[0].n_samples_seen_ == 77 + 19


@pytest.mark.parametrize("tuned", [False, True])
def test_what_trains_in_epochs_trains_as_many_as_its_trial_kept(bench, tuned, monkeypatch):
    member = members(bench)["linear", tuned]
    told = bench.study.get_trials()[member.trial].user_attrs["best_epoch"]
    trained = []
    train = refit_module.train
    monkeypatch.setattr(refit_module, "train", lambda *args: trained.append(train(*args)) or trained[-1])
    assert refit(bench, [member], math.inf) == [member.trial]
    assert len(trained[0].history) == trained[0].best_epoch == told


def test_other_weights_come_of_it_and_the_temperature_stays(bench):
    member = members(bench)["linear", False]
    weights, temperature = member.fitted.head.state_dict(), member.fitted.temperature
    refit(bench, [member], math.inf)
    again = member.fitted.head.state_dict()
    assert any(not np.array_equal(weights[name], again[name]) for name in weights)
    assert member.fitted.temperature == temperature


@pytest.mark.parametrize("out_of_time", ["the search's time", "Ctrl-C"])
def test_without_time_all_stays_as_it_was(bench, out_of_time):
    member = members(bench)["knn", False]
    before = member.fitted
    if out_of_time == "Ctrl-C":
        bench.deadline = lambda: 0.0
    assert refit(bench, [member], math.inf if out_of_time == "Ctrl-C" else 0.0) == []
    assert member.fitted is before


def test_what_fails_stays_as_it_was_and_the_others_go_on(bench, monkeypatch):
    one, other = members(bench)["knn", False], members(bench)["linear", False]
    before = one.fitted
    train = refit_module.train

    def fails(larger, recipe, *more):
        if recipe.head == "knn":
            raise RuntimeError("no neighbours")
        return train(larger, recipe, *more)

    monkeypatch.setattr(refit_module, "train", fails)
    assert refit(bench, [one, other], math.inf) == [other.trial]
    assert one.fitted is before
    assert ("say", f"trial {one.trial} stays as it was fitted on the training images: no neighbours") in bench.said
