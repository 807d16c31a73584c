"""One conditional space: names that say whose they are, and known-good values that lie in it."""

import json
import warnings
from dataclasses import replace

import optuna
import pytest

from autotl.recipe import Recipe
from autotl.study.portfolio import cheap_portfolio
from autotl.study.space import Choices, seed_of, suggest


@pytest.fixture(scope="module")
def choices(tiny, registry):
    """Two backbones, and all that is built in."""
    backbones = (tiny("test_efficientnet").name, tiny("test_vit").name)
    heads = "linear mlp logistic_regression linear_svm rbf_svm knn lda random_forest extra_trees hist_gradient_boosting"
    return Choices(backbones, ("fast_extraction", "extract_augment", "fine_tuning"), tuple(heads.split()), 1600, 3)


@pytest.fixture(params=[False, True], ids=["cpu", "accelerator"])
def either(request, choices):
    return replace(choices, accelerator=request.param)


def random_trials(choices, registry, n=60):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(n):
        trial = study.ask()
        yield trial, suggest(trial, choices, registry, study_seed=5)


def test_every_parameter_is_named_by_its_owner(either, registry):
    for trial, recipe in random_trials(either, registry):
        owners = {name.partition(".")[0] for name in trial.params}
        assert (
            {"strategy", "backbone", recipe.strategy}
            <= owners
            <= {"strategy", "backbone", recipe.strategy, recipe.head}
        )


def test_a_recipe_holds_what_was_chosen(either, registry):
    for trial, recipe in random_trials(either, registry):
        assert (recipe.strategy, recipe.backbone) == (trial.params["strategy"], trial.params["backbone"])
        assert recipe.head == trial.params[f"{recipe.strategy}.head"]
        chosen = {f"{recipe.strategy}.{k}" for k in recipe.strategy_params} | {
            f"{recipe.head}.{k}" for k in recipe.head_params
        }
        assert chosen | {"strategy", "backbone", f"{recipe.strategy}.head"} == set(trial.params)


def test_all_strategies_and_heads_come_up(choices, registry):
    recipes = [recipe for _, recipe in random_trials(choices, registry, 200)]
    assert {r.strategy for r in recipes} == set(choices.strategies)
    assert {r.head for r in recipes} == set(choices.heads)
    assert {r.backbone for r in recipes} == set(choices.backbones)


def test_only_dense_heads_are_fine_tuned(choices, registry):
    heads = {recipe.head for _, recipe in random_trials(choices, registry, 100) if recipe.strategy == "fine_tuning"}
    assert heads == {"linear", "mlp"}


@pytest.mark.parametrize(("accelerator", "deepest"), [(False, {1, 2, 3}), (True, set(range(1, 8)))])
def test_on_a_cpu_only_the_last_blocks_are_unfrozen(accelerator, deepest, choices, registry):
    vit = replace(choices, backbones=choices.backbones[1:], strategies=("fine_tuning",), accelerator=accelerator)
    found = {recipe.strategy_params["unfrozen_blocks"] for _, recipe in random_trials(vit, registry, 100)}
    assert found == deepest


def test_a_recipe_survives_json(either, registry):
    for _, recipe in random_trials(either, registry, 20):
        again = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
        assert again == recipe
        assert again.digest == recipe.digest


def test_a_digest_is_over_every_part():
    recipe = Recipe("a", "b", "c", 1, {"lr": 0.1}, {"width": 2})
    changes = [
        {"backbone": "x"},
        {"strategy": "x"},
        {"head": "x"},
        {"seed": 2},
        {"strategy_params": {}},
        {"head_params": {}},
    ]
    assert len({recipe.digest, *(replace(recipe, **change).digest for change in changes)}) == 7


@pytest.mark.parametrize("data", [{}, {"backbone": "a"}, {**Recipe("a", "b", "c", 1).to_dict(), "colour": "red"}])
def test_what_is_no_recipe_is_refused(data):
    with pytest.raises(TypeError):
        Recipe.from_dict(data)


# known-good recipes


def test_known_good_values_lie_within_what_is_offered(either, registry):
    """And they say everything: nothing of these trials is left to chance."""
    study = optuna.create_study()
    for enqueued in cheap_portfolio(either, registry):
        study.enqueue_trial(enqueued)
        trial = study.ask()
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Optuna only warns of a fixed value that is out of range
            suggest(trial, either, registry, study_seed=0)
        assert trial.params == enqueued


def test_known_good_covers_every_strategy_and_each_head_on_each_backbone(choices, registry):
    enqueued = cheap_portfolio(choices, registry)
    assert {p["strategy"] for p in enqueued} == set(choices.strategies)
    recorded = {(p["backbone"], p["fast_extraction.head"]) for p in enqueued if "fast_extraction.head" in p}
    assert recorded == {(backbone, head) for backbone in choices.backbones for head in choices.heads}
    levels = {(p["backbone"], p["fast_extraction.levels"]) for p in enqueued if "fast_extraction.levels" in p}
    assert levels >= {(backbone, levels) for backbone in choices.backbones for levels in ("inner+max", "stages+max")}


def test_the_first_is_the_cheapest(choices, registry):
    first = cheap_portfolio(choices, registry)[0]
    assert (first["strategy"], first["backbone"]) == ("fast_extraction", choices.backbones[0])
    assert first["fast_extraction.head"] == "logistic_regression"


@pytest.mark.parametrize(
    ("strategies", "heads"),
    [(("fine_tuning",), ("linear",)), (("fast_extraction",), ("knn",)), (("extract_augment", "fine_tuning"), ("mlp",))],
)
def test_known_good_keeps_to_what_the_study_chose(strategies, heads, choices, registry):
    few = replace(choices, strategies=strategies, heads=heads)
    enqueued = cheap_portfolio(few, registry)
    assert {p["strategy"] for p in enqueued} == set(strategies)
    assert {p[f"{p['strategy']}.head"] for p in enqueued} == set(heads)


# seeds


def test_a_trials_seed_depends_on_study_and_number_alone():
    assert seed_of(0, 7) == seed_of(0, 7)
    assert len({seed_of(study, number) for study in range(30) for number in range(30)}) == 900


def test_a_seed_fits_what_numpy_and_sklearn_take():
    assert all(0 <= seed_of(study, number) < 2**31 for study in range(30) for number in range(30))


def test_a_recipe_has_its_trials_seed(choices, registry):
    for trial, recipe in random_trials(choices, registry, 3):
        assert recipe.seed == seed_of(5, trial.number)


def test_heads_that_cannot_take_so_many_rows_are_left_out(registry):
    choices = Choices(("efficientnet_lite0",), tuple(registry.strategies), ("rbf_svm", "linear"), 4000, 2)
    assert choices.heads_for("fast_extraction", registry) == ("rbf_svm", "linear")
    assert choices.heads_for("extract_augment", registry) == ("linear",)  # a view of each image doubles the rows
