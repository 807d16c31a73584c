"""Fast extraction: heads of both types learn from the features that the recipe names."""

import numpy as np
import pytest

from autotl.backbones.levels import BUILT_IN as LEVELS
from autotl.strategies.fast_extraction import FastExtraction


@pytest.mark.parametrize("head", ["linear", "mlp", "logistic_regression", "rbf_svm", "knn"])
def test_every_head_learns(head, resnet, task, fit):
    problem = task(resnet, head)
    result = fit(FastExtraction(), problem, levels="stages")
    assert result.probabilities.shape == (12, 3)
    np.testing.assert_allclose(result.probabilities.sum(1), 1)
    assert problem.metric(problem.validation_labels, result.probabilities) >= 0.75


@pytest.mark.parametrize("levels", LEVELS)
def test_the_head_is_trained_on_the_levels_of_the_recipe(levels, resnet, task, fit):
    problem = task(resnet, "logistic_regression")
    requests, read = [], problem.features.levels

    def record(subset, which, *view):
        requests.append((subset, which, *map(str, view)))
        return read(subset, which, *view)

    problem.features.levels = record
    result = fit(FastExtraction(), problem, levels=levels)
    assert requests == [("train", levels), ("validation", levels, "none")]
    assert result.fitted.levels == levels
    assert result.fitted.backbone_state is None


@pytest.mark.parametrize("head", ["linear", "random_forest"])
def test_the_same_recipe_and_seed_give_the_same_probabilities(head, resnet, task, fit):
    first, second = (fit(FastExtraction(), task(resnet, head)) for _ in range(2))
    assert np.array_equal(first.probabilities, second.probabilities)


def test_by_default_the_head_is_trained_on_the_networks_own_output(resnet, task):
    assert FastExtraction().defaults(task(resnet, "linear").head)["levels"] == "last"
