"""The warm-start portfolio: complete, valid recipes, the cheapest first."""

import warnings
from dataclasses import replace

import optuna
import pytest

from autotl.study.portfolio import cheap_portfolio, expensive_heads, expensive_portfolio, learnt_recipes
from autotl.study.space import Choices, suggest

HEADS = "linear mlp logistic_regression linear_svm rbf_svm knn lda random_forest extra_trees hist_gradient_boosting"
HEADS += " ridge kernel_ridge"


@pytest.fixture(scope="module")
def choices(tiny, registry):
    """Two backbones, all built-in strategies and heads."""
    backbones = (tiny("test_efficientnet").name, tiny("test_vit").name)
    return Choices(backbones, ("fast_extraction", "extract_augment", "fine_tuning"), tuple(HEADS.split()), 1600, 3)


def assert_complete(params, choices, registry):
    """The space accepts the parameters, and none is left to the sampler."""
    study = optuna.create_study()
    study.enqueue_trial(params)
    trial = study.ask()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Optuna only warns of a fixed value that is out of range
        suggest(trial, choices, registry, study_seed=0)
    assert trial.params == params


@pytest.mark.parametrize("accelerator", [False, True], ids=["cpu", "accelerator"])
def test_recipes_of_the_cheap_portfolio_are_complete_and_valid(accelerator, choices, registry):
    space = replace(choices, accelerator=accelerator)
    for params in cheap_portfolio(space, registry):
        assert_complete(params, space, registry)


def test_recipes_of_the_expensive_portfolio_are_complete_and_valid(choices, registry):
    num_recipes = 0
    for strategy in choices.strategies:
        for head in expensive_heads(choices, registry, strategy):
            for params in expensive_portfolio(choices, registry, choices.backbones[0], strategy, head, 8):
                assert_complete(params, choices, registry)
                num_recipes += 1
    assert num_recipes >= 4


def test_where_there_is_no_time_for_a_pass_no_recipe_is_expensive(choices, registry):
    backbone = choices.backbones[0]
    for strategy in choices.strategies:
        for head in expensive_heads(choices, registry, strategy):
            assert expensive_portfolio(choices, registry, backbone, strategy, head, 0) == []


def test_the_cheap_portfolio_covers_every_strategy_and_each_head_on_each_backbone(choices, registry):
    recipes = cheap_portfolio(choices, registry)
    assert {p["strategy"] for p in recipes} == set(choices.strategies)
    pairs = {(p["backbone"], p["fast_extraction.head"]) for p in recipes if "fast_extraction.head" in p}
    assert pairs == {(backbone, head) for backbone in choices.backbones for head in choices.heads}
    levels = {(p["backbone"], p["fast_extraction.levels"]) for p in recipes if "fast_extraction.levels" in p}
    assert levels >= {(backbone, levels) for backbone in choices.backbones for levels in ("last", "stages+max")}
    assert len(recipes) == len({str(params) for params in recipes})


def test_the_learnt_recipes_come_first_in_their_order(choices, registry):
    learnt = learnt_recipes()
    assert 2 <= len(learnt) <= 12
    on_first = [params for params in cheap_portfolio(choices, registry) if params["backbone"] == choices.backbones[0]]
    for params, recipe in zip(on_first[: len(learnt)], learnt, strict=True):
        assert params["fast_extraction.head"] == recipe["head"]
        of_head = {f"{recipe['head']}.{name}": value for name, value in recipe["head_params"].items()}
        assert of_head.items() <= params.items()


def test_the_second_backbone_and_its_join_come_before_the_rest_of_the_learnt_recipes(choices, registry):
    first, second = choices.backbones
    with_joins = replace(choices, backbones=(first, second, f"{first} + {second}"))
    queue = [params["backbone"] for params in cheap_portfolio(with_joins, registry)]
    assert queue[:9] == [first] * 5 + [second] * 2 + [f"{first} + {second}"] * 2
    assert queue[9:16] == [first] * 7


def test_the_first_recipe_is_the_cheapest(choices, registry):
    first = cheap_portfolio(choices, registry)[0]
    assert (first["strategy"], first["backbone"]) == ("fast_extraction", choices.backbones[0])
    assert first["fast_extraction.head"] == "logistic_regression"


@pytest.mark.parametrize(
    ("strategies", "heads"),
    [(("fine_tuning",), ("linear",)), (("fast_extraction",), ("knn",)), (("extract_augment", "fine_tuning"), ("mlp",))],
)
def test_the_cheap_portfolio_uses_only_strategies_and_heads_of_the_study(strategies, heads, choices, registry):
    recipes = cheap_portfolio(replace(choices, strategies=strategies, heads=heads), registry)
    assert {p["strategy"] for p in recipes} == set(strategies)
    assert {p[f"{p['strategy']}.head"] for p in recipes} == set(heads)


def test_a_default_that_the_study_does_not_search_is_left_to_the_sampler(choices, registry):
    fewer = replace(choices, augmentations=("crop",), losses=("focal",), levels=("last",))
    recipes = cheap_portfolio(fewer, registry)
    for strategy in fewer.strategies:
        params = next(recipe for recipe in recipes if recipe["strategy"] == strategy)
        assert f"{strategy}.loss" not in params
        assert params.get(f"{strategy}.levels", "last") == "last"
        assert params.get(f"{strategy}.policy", "none") == "none"
