"""What the strategies' tests share."""

import pytest

from autotl.recipe import Recipe


@pytest.fixture
def resnet(tiny):
    return tiny("test_resnet")


@pytest.fixture
def fit():
    """`fit(strategy, problem, **params)`: train the strategy's defaults, updated by `params`."""

    def run(strategy, problem, report=lambda fraction, score: None, seed=3, **params):
        head = problem.head
        strategy_params = {**strategy.defaults(head), **params}
        recipe = Recipe(problem.backbone.name, strategy.name, head.name, seed, strategy_params, head.defaults())
        return strategy.fit(recipe, problem, "cpu", report)

    return run
