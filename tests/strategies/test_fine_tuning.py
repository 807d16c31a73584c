"""Frozen blocks stay unchanged, unfrozen blocks learn, and the block where training starts makes no difference."""

from copy import deepcopy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from autotl.backbones.timm import autotl_find_backbone
from autotl.clock import Deadline
from autotl.data.augmentation import BUILT_IN
from autotl.engines import passes
from autotl.features import extractor as extract
from autotl.features.resident import ResidentCache
from autotl.metrics import Metric
from autotl.recipe import Recipe
from autotl.strategies import fine_tuning
from autotl.strategies.base import OutOfTime
from autotl.strategies.fine_tuning import FineTuning, add_head
from autotl.strategies.training_loop import Diverged
from autotl.testing.problem import RandomSpace
from autotl.testing.scripted import VirtualClock

pytestmark = pytest.mark.slow

FAMILIES = ["test_resnet", "test_efficientnet", "test_vit"]
LAST, TWO, ALL = 1, 2, 99


def recipe_of(backbone, head="linear", seed=3, **params):
    defaults = {**FineTuning().defaults(None), "epochs": 2, "lr": 1e-3}
    return Recipe(backbone.name, "fine_tuning", head, seed, {**defaults, **params}, {"dropout": 0.2})


def tuned(task, recipe):
    """A net after the five steps, and the base's tensors before them."""
    net = add_head(task, recipe, "cpu")
    before = deepcopy(net.base.state_dict())
    net.freeze_base()
    net.train_head()
    params = recipe.strategy_params
    net.unfreeze(int(params["unfrozen_blocks"]), first=params["unfreeze"] == "first")
    net.train_jointly(ignore)
    return net, before


def ignore(fraction, score):
    """A report that keeps nothing."""


def fit(task, recipe, report=ignore):
    return FineTuning().fit(recipe, task, "cpu", report)


def losses(result):
    return [epoch["loss"] for epoch in result.history]


# frozen and unfrozen


@pytest.mark.parametrize("freeze_bn", [True, False], ids=["frozen batch norms", "trained batch norms"])
@pytest.mark.parametrize(
    ("unfrozen", "recorded"),
    [(LAST, True), (TWO, True), (TWO, False), (ALL, False)],
    ids=["last", "two", "two from the images", "all"],
)
@pytest.mark.parametrize("name", FAMILIES)
def test_frozen_blocks_stay_bit_equal_and_unfrozen_blocks_change(
    name, unfrozen, freeze_bn, recorded, tiny, task, monkeypatch
):
    if not recorded:
        monkeypatch.setattr(extract, "BOUNDARY_BYTES", 0)
    backbone = tiny(name)
    recipe = recipe_of(backbone, unfrozen_blocks=unfrozen, freeze_bn=freeze_bn, epochs=1)
    net, before = tuned(task(backbone, "linear"), recipe)
    after, learning = net.base.state_dict(), net.unfrozen_state()
    changed = {key for key, tensor in after.items() if not torch.equal(tensor, before[key])}
    assert changed <= set(learning)
    assert {name for name, p in net.base.named_parameters() if p.requires_grad} <= set(learning)
    for block in net.unfrozen:
        assert any(key.startswith(block.modules) or key in block.parameters for key in changed), block.name
    statistics = {key for key in learning if key.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert changed & statistics == (set() if freeze_bn else statistics)


def test_the_moving_average_keeps_the_counts_of_frozen_batch_norms(tiny, task, tmp_path, monkeypatch):
    monkeypatch.setattr(extract, "BOUNDARY_BYTES", 0)
    tensors = load_file(tiny("test_resnet").file)
    counts = {name: torch.tensor(12345) for name in tensors if name.endswith("num_batches_tracked")}
    save_file(tensors | counts, tmp_path / "counted.safetensors")
    backbone = autotl_find_backbone(f"test_resnet@{tmp_path}/counted.safetensors")
    net, before = tuned(task(backbone, "linear"), recipe_of(backbone, ema=0.99, epochs=3))
    after = net.base.state_dict()
    assert counts
    assert all(torch.equal(after[name], before[name]) for name in counts)


def test_unfrozen_state_over_the_pretrained_base_rebuilds_the_tuned_base(tiny, task):
    backbone = tiny("test_vit")
    net, _ = tuned(task(backbone, "linear"), recipe_of(backbone, unfrozen_blocks=TWO))
    rebuilt = backbone.build()
    rebuilt.load_state_dict(net.unfrozen_state(), strict=False)
    assert all(torch.equal(tensor, net.base.state_dict()[key]) for key, tensor in rebuilt.state_dict().items())


def test_the_first_blocks_can_be_trained_instead_of_the_last_ones(tiny, task):
    backbone = tiny("test_resnet")
    problem = task(backbone, "linear")
    net, before = tuned(problem, recipe_of(backbone, unfrozen_blocks=TWO, unfreeze="first", epochs=1))
    assert net.unfrozen == net.blocks[:TWO]
    assert net.graph_start == 0  # from the images: nothing before the first block is frozen
    after = net.base.state_dict()
    changed = {key for key, tensor in after.items() if not torch.equal(tensor, before[key])}
    assert changed
    assert changed <= set(net.unfrozen_state())
    assert {key.split(".")[0] for key in changed}.isdisjoint(net.blocks[-1].modules)


# where training starts


SWAPPED = torch.tensor([0.0, 1.0])
"""Gamma draws with which mixup replaces each input by its partner. Apart from no mixing this is the only case in which
mixing activations and mixing images are the same."""


@pytest.mark.parametrize("mixup", [0.0, 0.8])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float16", 2e-2)])
@pytest.mark.parametrize("name", FAMILIES)
def test_losses_are_the_same_from_the_boundary_and_from_the_images(
    name, dtype, tolerance, mixup, tiny, task, monkeypatch
):
    """Up to the order of sums in float32, which depends on the batch size; float16 has 11 bits of mantissa."""
    monkeypatch.setattr(extract, "FEATURE_DTYPE", dtype)
    monkeypatch.setattr(torch, "_standard_gamma", lambda alpha, generator: SWAPPED)
    backbone = tiny(name)
    recipe = recipe_of(backbone, unfrozen_blocks=TWO, epochs=2, views=2, precision="fp32", mixup=mixup)
    problem = task(backbone, "linear")
    recorded = fit(problem, recipe)
    monkeypatch.setattr(extract, "BOUNDARY_BYTES", 0)
    lines = []
    problem.log = lines.append
    whole = fit(problem, recipe)
    assert any("runs in every epoch" in line for line in lines)
    np.testing.assert_allclose(losses(recorded), losses(whole), rtol=tolerance)


def test_each_epoch_trains_on_the_next_view(tiny, task):
    backbone = tiny("test_resnet")
    problem = task(backbone, "linear")
    requests = []
    boundary = problem.features.boundary
    problem.features.boundary = lambda subset, block, *view: (
        requests.append((subset, *map(str, view))) or boundary(subset, block, *view)
    )
    fit(problem, recipe_of(backbone, policy="crop", views=3))
    views = ["none", "crop-0", "crop-1", "crop-2"]
    assert [view for subset, *view in requests if subset == "train"] == [[view] for view in views]


def test_with_tta_predictions_are_averaged_over_the_views(tiny, task):
    backbone = tiny("test_resnet")
    problem = task(backbone, "linear")
    recipe = recipe_of(backbone, policy="flip", epochs=3, precision="fp32")
    without, averaged = (
        fit(problem, replace(recipe, strategy_params={**recipe.strategy_params, "tta": tta})) for tta in (False, True)
    )
    assert without.history[-1]["loss"] == averaged.history[-1]["loss"]
    assert [str(view) for view in averaged.fitted.views] == ["none", "flip-0"]
    assert not np.allclose(without.probabilities, averaged.probabilities)


# repeating a trial


def test_the_same_recipe_and_seed_give_the_same_probabilities(tiny, task):
    backbone = tiny("test_resnet")
    recipe = recipe_of(backbone, mixup=0.8, ema=0.99, epochs=3)
    first = fit(task(backbone, "linear"), recipe)
    torch.rand(11)  # the process draws other random numbers in between
    second = fit(task(backbone, "linear"), recipe)
    assert np.array_equal(first.probabilities, second.probabilities)
    assert losses(first) == losses(second)


@pytest.mark.parametrize("unfrozen", [LAST, ALL])
def test_scoring_in_batches_of_one_size_changes_no_probability(unfrozen, tiny, task, monkeypatch):
    backbone = tiny("test_efficientnet")
    problem = task(backbone, "linear")
    recipe = recipe_of(backbone, unfrozen_blocks=unfrozen, precision="fp32")
    before = fit(problem, recipe)
    sizes = set()
    padded = passes.run_padded
    monkeypatch.setattr(passes, "has_plans", lambda device: True)
    monkeypatch.setattr(passes, "padded_size", lambda num_images, size: 16)
    monkeypatch.setattr(fine_tuning, "SCORING_BATCH", 16)

    def run_padded(network, images, size):
        return padded(lambda batch: sizes.add(len(batch)) or network(batch), images, size)

    monkeypatch.setattr(passes, "run_padded", run_padded)
    after = fit(problem, recipe)
    assert len(problem.validation_labels) % 16
    assert sizes == {16}
    np.testing.assert_allclose(after.probabilities, before.probabilities, atol=1e-5)


def test_another_seed_trains_another_model(tiny, task):
    backbone = tiny("test_resnet")
    first, second = (fit(task(backbone, "linear"), recipe_of(backbone, seed=seed)) for seed in (1, 2))
    assert not np.allclose(first.probabilities, second.probabilities)


def test_training_leaves_the_global_generators_unchanged(tiny, task):
    backbone = tiny("test_resnet")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(task(backbone, "linear"), recipe_of(backbone))
    assert torch.equal(torch.rand(3), expected)


def test_a_replay_of_a_trial_that_ran_out_of_time_is_exact(tiny, task):
    backbone = tiny("test_resnet")
    deadline = Deadline(1e9, VirtualClock())

    def report(fraction, score):
        if fraction >= 3 / 9:
            deadline.move(1e-6)

    short = fit(task(backbone, "linear", deadline=deadline), recipe_of(backbone, epochs=9), report)
    assert len(short.history) == 3
    assert (short.recipe.strategy_params["epochs"], short.recipe.strategy_params["stop_after"]) == (9, 3)
    again = fit(task(backbone, "linear"), short.recipe)
    assert np.array_equal(again.probabilities, short.probabilities)
    assert again.recipe == short.recipe


def test_a_replay_of_a_trial_with_reduced_epochs_is_exact(tiny, task):
    backbone = tiny("test_resnet")
    short = fit(task(backbone, "linear", time_budget=1e-3), recipe_of(backbone, epochs=9))
    assert len(short.history) == short.recipe.strategy_params["epochs"] < 9
    again = fit(task(backbone, "linear"), short.recipe)
    assert np.array_equal(again.probabilities, short.probabilities)


# learning


SCORES = [0.5, 0.75, 0.9, 0.8, 0.85, 0.6, 0.7]


def scored(backbone, problem):
    """A net whose epochs have SCORES, its training, and the probabilities of each epoch."""
    predictions = []

    def score(labels, probabilities):
        predictions.append(probabilities)
        return SCORES[len(predictions) - 1]

    problem = replace(problem, metric=Metric("scripted", score))
    params = {"lr": 0.02, "epochs": len(SCORES), "views": 2, "freeze_bn": False, "tuned_share": 1.0}
    net = add_head(problem, recipe_of(backbone, **params), "cpu")
    net.freeze_base()
    net.unfreeze(TWO)
    trained = net.train_jointly(ignore)
    assert [epoch["score"] for epoch in trained.history] == SCORES
    assert all(not np.allclose(one, other, atol=1e-3) for one, other in pairwise(predictions))
    return net, trained, predictions


def test_the_best_epoch_is_kept(tiny, task):
    backbone = tiny("test_resnet")
    net, trained, predictions = scored(backbone, task(backbone, "linear"))
    assert trained.best_epoch == 3
    np.testing.assert_array_equal(trained.probabilities, predictions[2])
    _, _, (validation,) = net._boundary()
    with torch.inference_mode():
        kept = net._network(len(net.blocks) - TWO).eval()(net._tensor(validation[:])).softmax(1).numpy()
    np.testing.assert_allclose(kept, trained.probabilities, atol=1e-5)


def test_a_refit_keeps_the_last_epoch_whatever_the_scores(tiny, task):
    backbone = tiny("test_resnet")
    _, trained, predictions = scored(backbone, task(backbone, "linear", refit_epochs=len(SCORES)))
    assert trained.best_epoch == len(SCORES)
    np.testing.assert_array_equal(trained.probabilities, predictions[-1])


def test_a_refit_trains_exactly_its_number_of_epochs(tiny, task):
    backbone = tiny("test_resnet")
    result = fit(task(backbone, "linear", refit_epochs=9, time_budget=1e-3), recipe_of(backbone, lr=0.0, epochs=20))
    assert len(result.history) == 9


def test_a_refit_that_runs_out_of_time_is_discarded(tiny, task):
    backbone = tiny("test_resnet")
    deadline = Deadline(9.0, VirtualClock())

    def report(fraction, score):
        if fraction >= 2 / 8:
            deadline.move(0.0)

    with pytest.raises(OutOfTime, match="8 epochs"):
        fit(task(backbone, "linear", refit_epochs=8, deadline=deadline), recipe_of(backbone, epochs=8), report)


def test_training_stops_where_the_score_no_longer_improves(tiny, task):
    backbone = tiny("test_resnet")
    result = fit(task(backbone, "linear"), recipe_of(backbone, lr=0.0, epochs=20))
    assert len(result.history) == 5  # the first, and four without a better score
    assert result.recipe.strategy_params["epochs"] == 20


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"mixup": 0.8, "unfrozen_blocks": TWO},
        {"mixup": 0.8, "unfrozen_blocks": ALL},
        {"ema": 0.9},
        {"class_weight": "balanced"},
        {"label_smoothing": 0.2},
        {"freeze_bn": False},
        {"policy": "flip"},
    ],
    ids=str,
)
def test_it_learns(params, tiny, task):
    backbone = tiny("test_resnet")
    problem = task(backbone, "linear")
    result = fit(problem, recipe_of(backbone, lr=1e-2, epochs=6, **params))
    assert problem.metric(problem.validation_labels, result.probabilities) >= 0.75
    np.testing.assert_allclose(result.probabilities.sum(1), 1)


def test_an_mlp_can_be_trained_with_the_base(tiny, task):
    backbone = tiny("test_convnext")
    problem = task(backbone, "mlp")
    recipe = Recipe(
        backbone.name, "fine_tuning", "mlp", 1, {**FineTuning().defaults(None), "epochs": 2}, problem.head.defaults()
    )
    assert fit(problem, recipe).probabilities.shape == (12, 3)


def test_a_divergence_in_the_last_step_is_noticed(tiny, task):
    backbone = tiny("test_resnet")
    with pytest.raises(Diverged, match=r"probabilities are not finite after step 1 \(epoch 1\)"):
        fit(task(backbone, "linear"), recipe_of(backbone, lr=1e36, epochs=1))


def test_progress_is_reported_up_to_the_end(tiny, task):
    backbone = tiny("test_resnet")
    reported = []
    fit(
        task(backbone, "linear"),
        recipe_of(backbone, epochs=3),
        lambda fraction, score: reported.append((fraction, score)),
    )
    assert [fraction for fraction, _ in reported] == pytest.approx([1 / 3, 2 / 3, 1])
    scores = [score for _, score in reported]
    assert scores == sorted(scores)  # the best so far


# accelerators, for which the CPU stands in


@pytest.fixture
def resident(monkeypatch):
    """`resident(task)`: the task on a device whose memory holds its images and activations."""
    monkeypatch.setattr(extract, "is_accelerator", lambda device: True)

    def move(problem):
        problem.features.extractor = replace(problem.features.extractor, resident=ResidentCache(lambda: 10**9))
        return problem

    return move


@pytest.mark.parametrize("unfrozen", [TWO, ALL])
def test_training_from_memory_is_training_from_disk(unfrozen, tiny, task, resident):
    backbone = tiny("test_resnet")
    recipe = recipe_of(backbone, unfrozen_blocks=unfrozen, policy="flip", views=1, precision="fp32", tta=True)
    on_disk = fit(task(backbone, "linear"), recipe)
    in_memory = fit(resident(task(backbone, "linear")), recipe)
    assert np.allclose(on_disk.probabilities, in_memory.probabilities, atol=0.01)
    assert in_memory.recipe == on_disk.recipe


def test_images_in_memory_are_augmented_anew_in_every_epoch(tiny, task, resident, monkeypatch):
    drawn = []
    draw = BUILT_IN["crop"].draw_batch
    monkeypatch.setattr(BUILT_IN["crop"], "draw_batch", lambda *args: drawn.append(draw(*args)) or drawn[-1])
    backbone = tiny("test_resnet")
    params = {"policy": "crop", "views": 3, "draws_batches": True, "precision": "fp32"}
    recipe = recipe_of(backbone, unfrozen_blocks=ALL, **params)
    result = fit(resident(task(backbone, "linear")), recipe)
    assert len(drawn) == 2
    assert not torch.equal(*drawn)
    assert result.recipe.strategy_params["draws_batches"] is True
    again = fit(resident(task(backbone, "linear")), result.recipe)
    assert np.array_equal(again.probabilities, result.probabilities)


def test_fp16_scales_the_loss_and_learns(tiny, task):
    backbone = tiny("test_resnet")
    recipe = recipe_of(backbone, unfrozen_blocks=TWO, epochs=2, precision="fp16")
    trained = losses(fit(task(backbone, "linear"), recipe))
    expected = losses(
        fit(task(backbone, "linear"), replace(recipe, strategy_params={**recipe.strategy_params, "precision": "fp32"}))
    )
    assert trained[-1] < trained[0]
    assert np.allclose(trained, expected, atol=0.05)


def test_a_larger_batch_makes_fewer_steps_with_a_higher_learning_rate(tiny, task):
    backbone = tiny("test_resnet")
    peaks = {}
    for batch in (8, 32):
        net = add_head(task(backbone, "linear"), recipe_of(backbone, batch=batch), "cpu")
        net.unfreeze(LAST)
        peaks[batch] = net._groups()[0]["lr"]
        assert net.batch == batch
    assert peaks[32] == pytest.approx(2 * peaks[8])


def test_batch_sizes_are_searched_on_accelerators_alone(tiny):
    backbone = tiny("test_resnet")

    def searched(num_train, accelerator):
        space = RandomSpace(0)
        space.num_train, space.accelerator = num_train, accelerator
        asked = {}
        space.categorical = lambda name, choices: asked.setdefault(name, choices)[0]
        FineTuning().suggest(space, backbone, None)
        return asked.get("batch")

    assert searched(12_000, accelerator=False) == (None,)
    assert searched(100, accelerator=True) == (None,)
    assert searched(440, accelerator=True) == (None, 32, 64)
    assert searched(12_000, accelerator=True) == (None, 64, 128, 256)


@pytest.mark.parametrize(("num_images", "batch"), [(100, 32), (1100, 64), (12_000, 256)])
def test_the_usual_batch_follows_from_the_images_and_is_stated(num_images, batch, tiny, task, monkeypatch):
    problem = task(tiny("test_resnet"), "linear")
    recipe = recipe_of(problem.backbone)
    problem.train_labels = np.zeros(num_images, int)
    assert add_head(problem, recipe, "cpu").batch == 32
    monkeypatch.setattr(fine_tuning, "is_accelerator", lambda device: True)
    net = add_head(problem, recipe, "cpu")
    assert net.batch == batch
    assert net.executed(recipe).strategy_params["batch"] == (batch if batch != 32 else None)


def test_the_share_of_tuned_weights_is_stated_and_replayed(tiny, task):
    backbone = tiny("test_resnet")
    result = fit(task(backbone, "linear"), recipe_of(backbone, unfrozen_blocks=ALL, lr=0.05, epochs=3, freeze_bn=False))
    share = result.recipe.strategy_params["tuned_share"]
    assert 0 < share < 1  # so high a learning rate harms the pretrained weights
    again = fit(task(backbone, "linear"), result.recipe)
    assert np.array_equal(again.probabilities, result.probabilities)
    assert again.recipe == result.recipe
