"""What is frozen stays as it was, what is unfrozen learns, and where training starts makes no difference."""

from copy import deepcopy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from autotl.backbones.timm import autotl_find_backbone
from autotl.features import extractor as extract
from autotl.metrics import Metric
from autotl.recipe import Recipe
from autotl.strategies.base import OutOfTime
from autotl.strategies.fine_tuning import FineTuning, add_head
from autotl.strategies.training_loop import Diverged

FAMILIES = ["test_resnet", "test_efficientnet", "test_vit"]
LAST, TWO, ALL = 1, 2, 99


def recipe_of(backbone, head="linear", seed=3, **params):
    defaults = {**FineTuning().defaults(None), "epochs": 2, "lr": 1e-3}
    return Recipe(backbone.name, "fine_tuning", head, seed, {**defaults, **params}, {"dropout": 0.2})


def tuned(task, recipe):
    """A net that went through the five steps, and the base's tensors as they were before."""
    net = add_head(task, recipe, "cpu")
    before = deepcopy(net.base.state_dict())
    net.freeze_base()
    net.train_head()
    net.unfreeze_last(int(recipe.strategy_params["unfrozen_blocks"]))
    net.train_jointly(nothing)
    return net, before


def nothing(fraction, score):
    """A report that nobody reads."""


def fit(task, recipe, report=nothing):
    return FineTuning().fit(recipe, task, "cpu", report)


def losses(result):
    return [epoch["loss"] for epoch in result.history]


# frozen and unfrozen


@pytest.mark.parametrize("norms", ["frozen", "trained"])
@pytest.mark.parametrize(
    ("unfrozen", "recorded"),
    [(LAST, True), (TWO, True), (TWO, False), (ALL, False)],
    ids=["last", "two", "two from the images", "all"],
)
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_frozen_stays_bit_equal_and_what_is_not_changes(
    name, unfrozen, norms, recorded, tiny, task, monkeypatch
):
    if not recorded:
        monkeypatch.setattr(extract, "BOUNDARY_BYTES", 0)
    backbone = tiny(name)
    net, before = tuned(task(backbone, "linear"), recipe_of(backbone, unfrozen_blocks=unfrozen, norms=norms, epochs=1))
    after, learning = net.base.state_dict(), net.unfrozen_state()
    moved = {key for key, tensor in after.items() if not torch.equal(tensor, before[key])}
    assert moved <= set(learning)
    assert {name for name, p in net.base.named_parameters() if p.requires_grad} <= set(learning)
    for block in net.unfrozen:
        assert any(key.startswith(block.modules) or key in block.parameters for key in moved), block.name
    statistics = {key for key in learning if key.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert moved & statistics == (set() if norms == "frozen" else statistics)


def test_counts_in_frozen_norms_survive_the_moving_average(tiny, task, tmp_path, monkeypatch):
    monkeypatch.setattr(extract, "BOUNDARY_BYTES", 0)
    tensors = load_file(tiny("test_resnet").file)
    counts = {name: torch.tensor(12345) for name in tensors if name.endswith("num_batches_tracked")}
    save_file(tensors | counts, tmp_path / "counted.safetensors")
    backbone = autotl_find_backbone(f"test_resnet@{tmp_path}/counted.safetensors")
    net, before = tuned(task(backbone, "linear"), recipe_of(backbone, ema=0.99, epochs=3))
    after = net.base.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in counts)


def test_unfrozen_state_is_all_that_the_tuned_base_needs(tiny, task):
    backbone = tiny("test_vit")
    net, _ = tuned(task(backbone, "linear"), recipe_of(backbone, unfrozen_blocks=TWO))
    rebuilt = backbone.build()
    rebuilt.load_state_dict(net.unfrozen_state(), strict=False)
    assert all(torch.equal(tensor, net.base.state_dict()[key]) for key, tensor in rebuilt.state_dict().items())


def test_the_earlier_a_block_the_smaller_its_learning_rate(tiny, task):
    backbone = tiny("test_resnet")
    net = add_head(task(backbone, "linear"), recipe_of(backbone, lr=1e-3, lr_decay=0.5), "cpu")
    net.freeze_base()
    net.unfreeze_last(3)
    assert [group["lr"] for group in net._groups()] == [5e-3, 1e-3, 5e-4, 2.5e-4]
    everything = {id(p) for group in net._groups() for p in group["params"]}
    assert everything == {id(p) for p in [*net.base.parameters(), *net.head.parameters()] if p.requires_grad}


# where training starts


@pytest.mark.parametrize(("rows", "tolerance"), [("float32", 1e-4), ("float16", 2e-2)])
@pytest.mark.parametrize("name", FAMILIES)
def test_losses_are_the_same_from_the_boundary_and_from_the_images(name, rows, tolerance, tiny, task, monkeypatch):
    """In float32 but for the order of sums, which differs with the size of a batch; float16 has 11 bits."""
    monkeypatch.setattr(extract, "ROWS", rows)
    backbone = tiny(name)
    recipe = recipe_of(backbone, unfrozen_blocks=TWO, epochs=2, views=2, precision="fp32")
    problem = task(backbone, "linear")
    recorded = fit(problem, recipe)
    monkeypatch.setattr(extract, "BOUNDARY_BYTES", 0)
    lines = []
    problem.log = lines.append
    whole = fit(problem, recipe)
    assert lines  # it did run whole
    np.testing.assert_allclose(losses(recorded), losses(whole), rtol=tolerance)


def test_each_epoch_looks_at_the_next_view(tiny, task):
    backbone = tiny("test_resnet")
    problem = task(backbone, "linear")
    asked = []
    boundary = problem.features.boundary
    problem.features.boundary = lambda part, block, *view: (
        asked.append((part, *map(str, view))) or boundary(part, block, *view)
    )
    fit(problem, recipe_of(backbone, policy="crop", views=3))
    views = ["none", "crop-0", "crop-1", "crop-2"]
    assert [view for part, *view in asked if part == "train"] == [[view] for view in views]


def test_a_model_that_averages_looks_through_every_view(tiny, task):
    backbone = tiny("test_resnet")
    problem = task(backbone, "linear")
    recipe = recipe_of(backbone, policy="flip", epochs=3, precision="fp32")
    plain, both = (
        fit(problem, replace(recipe, strategy_params={**recipe.strategy_params, "tta": averaged}))
        for averaged in (False, True)
    )
    assert plain.history[-1]["loss"] == both.history[-1]["loss"]
    assert [str(view) for view in both.fitted.views] == ["none", "flip-0"]
    assert not np.allclose(plain.probabilities, both.probabilities)


# the same again


def test_the_same_recipe_and_seed_give_the_same_probabilities(tiny, task):
    backbone = tiny("test_resnet")
    recipe = recipe_of(backbone, mixup=0.8, ema=0.99, epochs=3)
    first = fit(task(backbone, "linear"), recipe)
    torch.rand(11)  # whatever else the process draws
    second = fit(task(backbone, "linear"), recipe)
    assert np.array_equal(first.probabilities, second.probabilities)
    assert losses(first) == losses(second)


def test_another_seed_trains_another_model(tiny, task):
    backbone = tiny("test_resnet")
    first, second = (fit(task(backbone, "linear"), recipe_of(backbone, seed=seed)) for seed in (1, 2))
    assert not np.allclose(first.probabilities, second.probabilities)


def test_training_leaves_the_random_numbers_of_others_alone(tiny, task):
    backbone = tiny("test_resnet")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(task(backbone, "linear"), recipe_of(backbone))
    assert torch.equal(torch.rand(3), expected)


def test_a_replay_of_what_time_cut_short_is_exact(tiny, task):
    backbone = tiny("test_resnet")
    left = [1e9]

    def report(fraction, score):
        if fraction >= 3 / 9:
            left[0] = 1e-9

    short = fit(task(backbone, "linear", seconds_left=lambda: left[0]), recipe_of(backbone, epochs=9), report)
    assert len(short.history) == 3
    assert (short.recipe.strategy_params["epochs"], short.recipe.strategy_params["stop_after"]) == (9, 3)
    again = fit(task(backbone, "linear"), short.recipe)
    assert np.array_equal(again.probabilities, short.probabilities)
    assert again.recipe == short.recipe


def test_a_replay_of_a_trial_that_planned_fewer_epochs_is_exact(tiny, task):
    backbone = tiny("test_resnet")
    short = fit(task(backbone, "linear", time_budget=1e-3), recipe_of(backbone, epochs=9))
    assert len(short.history) == short.recipe.strategy_params["epochs"] < 9
    again = fit(task(backbone, "linear"), short.recipe)
    assert np.array_equal(again.probabilities, short.probabilities)


# learning


SCORES = [0.5, 0.75, 0.9, 0.8, 0.85, 0.6, 0.7]


def scored(backbone, problem):
    """A net whose epochs have SCORES, its training, and what each epoch predicted."""
    found = []

    def score(labels, probabilities):
        found.append(probabilities)
        return SCORES[len(found) - 1]

    problem = replace(problem, metric=Metric("planned", score))
    net = add_head(problem, recipe_of(backbone, lr=0.2, epochs=len(SCORES), views=2, norms="trained"), "cpu")
    net.freeze_base()
    net.unfreeze_last(TWO)
    trained = net.train_jointly(nothing)
    assert [epoch["score"] for epoch in trained.history] == SCORES
    assert all(not np.allclose(one, other, atol=1e-3) for one, other in pairwise(found))
    return net, trained, found


def test_the_best_epoch_is_kept(tiny, task):
    backbone = tiny("test_resnet")
    net, trained, found = scored(backbone, task(backbone, "linear"))
    assert trained.best_epoch == 3
    np.testing.assert_array_equal(trained.probabilities, found[2])
    _, _, (validation,) = net._boundary()
    with torch.inference_mode():
        kept = net._network(len(net.blocks) - TWO).eval()(net._tensor(validation[:])).softmax(1).numpy()
    np.testing.assert_allclose(kept, trained.probabilities, atol=1e-5)


def test_a_refit_keeps_the_last_epoch_whatever_the_scores(tiny, task):
    backbone = tiny("test_resnet")
    _, trained, found = scored(backbone, task(backbone, "linear", refit_epochs=len(SCORES)))
    assert trained.best_epoch == len(SCORES)
    np.testing.assert_array_equal(trained.probabilities, found[-1])


def test_a_refit_has_neither_fewer_epochs_nor_more(tiny, task):
    backbone = tiny("test_resnet")
    result = fit(task(backbone, "linear", refit_epochs=9, time_budget=1e-3), recipe_of(backbone, lr=0.0, epochs=20))
    assert len(result.history) == 9


def test_a_refit_that_time_cuts_short_is_none(tiny, task):
    backbone = tiny("test_resnet")
    done = []
    problem = task(backbone, "linear", refit_epochs=8, seconds_left=lambda: 0.0 if len(done) == 2 else 9.0)
    with pytest.raises(OutOfTime, match="8 epochs"):
        fit(problem, recipe_of(backbone, epochs=8), lambda fraction, score: done.append(fraction))


def test_training_stops_where_nothing_gets_better(tiny, task):
    backbone = tiny("test_resnet")
    result = fit(task(backbone, "linear"), recipe_of(backbone, lr=0.0, epochs=20))
    assert len(result.history) == 5  # the first, and four without anything better
    assert result.recipe.strategy_params["epochs"] == 20


@pytest.mark.parametrize(
    "way",
    [
        {},
        {"mixup": 0.8, "unfrozen_blocks": TWO},
        {"ema": 0.9},
        {"balanced": True},
        {"label_smoothing": 0.2},
        {"norms": "trained"},
        {"policy": "none"},
    ],
    ids=str,
)
def test_it_learns(way, tiny, task):
    backbone = tiny("test_resnet")
    problem = task(backbone, "linear")
    result = fit(problem, recipe_of(backbone, lr=1e-2, epochs=6, **way))
    assert problem.metric(problem.validation_labels, result.probabilities) >= 0.75
    np.testing.assert_allclose(result.probabilities.sum(1), 1)


def test_an_mlp_can_be_trained_with_the_base(tiny, task):
    backbone = tiny("test_convnext")
    problem = task(backbone, "mlp")
    recipe = Recipe(
        backbone.name, "fine_tuning", "mlp", 1, {**FineTuning().defaults(None), "epochs": 2}, problem.head.defaults()
    )
    assert fit(problem, recipe).probabilities.shape == (12, 3)


def test_a_last_step_that_diverges_is_told_too(tiny, task):
    backbone = tiny("test_resnet")
    with pytest.raises(Diverged, match=r"weren't numbers after step 1 \(epoch 1\)"):
        fit(task(backbone, "linear"), recipe_of(backbone, lr=1e36, epochs=1))


def test_progress_is_reported_up_to_the_end(tiny, task):
    backbone = tiny("test_resnet")
    told = []
    fit(task(backbone, "linear"), recipe_of(backbone, epochs=3), lambda fraction, score: told.append((fraction, score)))
    assert [fraction for fraction, _ in told] == pytest.approx([1 / 3, 2 / 3, 1])
    scores = [score for _, score in told]
    assert scores == sorted(scores)  # the best so far
