"""Recipes: serialisable, and identified by a digest over all their fields."""

import json
from dataclasses import replace

import pytest

from autotl.recipe import Recipe

RECIPE = Recipe("lite0", "fine_tuning", "mlp", 1, {"lr": 0.00123456, "epochs": 4}, {"width": 256, "norm": None})


def test_a_recipe_survives_json():
    copy = Recipe.from_dict(json.loads(json.dumps(RECIPE.to_dict())))
    assert copy == RECIPE
    assert copy.digest == RECIPE.digest


def test_the_digest_depends_on_every_field():
    changes = [
        {"backbone": "x"},
        {"strategy": "x"},
        {"head": "x"},
        {"seed": 2},
        {"strategy_params": {}},
        {"head_params": {}},
    ]
    assert len({RECIPE.digest, *(replace(RECIPE, **change).digest for change in changes)}) == 7


@pytest.mark.parametrize("data", [{}, {"backbone": "a"}, {**RECIPE.to_dict(), "colour": "red"}])
def test_missing_and_unknown_keys_are_refused(data):
    with pytest.raises(TypeError):
        Recipe.from_dict(data)


def test_the_description_is_one_line_with_at_most_four_parameters_of_each():
    assert RECIPE.describe() == "lite0 · fine_tuning (lr 0.00123, epochs 4) · mlp (width 256, norm None)"
    many = replace(RECIPE, strategy_params=dict.fromkeys("abcdef", 1), head_params={})
    assert many.describe() == "lite0 · fine_tuning (a 1, b 1, c 1, d 1) · mlp"
