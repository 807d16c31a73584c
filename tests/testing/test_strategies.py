"""Each check of a strategy finds its violation."""

from contextlib import suppress

import numpy as np
import pytest

from autotl.strategies.base import Fitted, Result
from autotl.strategies.fast_extraction import FastExtraction


class Halved(FastExtraction):
    """Returns probabilities whose sum is a half."""

    def fit(self, recipe, task, device, report):
        result = super().fit(recipe, task, device, report)
        return Result(result.recipe, result.probabilities / 2, result.fitted)


class OtherHead(FastExtraction):
    """Returns another head than the one that gave the probabilities."""

    def fit(self, recipe, task, device, report):
        result = super().fit(recipe, task, device, report)
        other = super().fit(recipe, type(task)(**{**vars(task), "train_labels": 1 - task.train_labels}), device, report)
        return Result(result.recipe, result.probabilities, Fitted(result.fitted.levels, other.fitted.head))


class CatchesPruning(FastExtraction):
    """Catches what `report` raises, and reports decreasing fractions."""

    def fit(self, recipe, task, device, report):
        report(0.5, 0.9)
        with suppress(Exception):
            report(0.4, 0.9)
        return super().fit(recipe, task, device, lambda fraction, score: None)


class Seedless(FastExtraction):
    """Draws without the seed of the recipe."""

    def fit(self, recipe, task, device, report):
        result = super().fit(recipe, task, device, report)
        noise = np.random.default_rng().uniform(0, 1e-3, result.probabilities.shape)
        noisy = result.probabilities + noise
        return Result(result.recipe, noisy / noisy.sum(1, keepdims=True), result.fitted)


class NeedsNetwork(FastExtraction):
    """Asks for the network of any backbone."""

    def suggest(self, space, backbone, head):
        backbone.build(pretrained=False)
        return super().suggest(space, backbone, head)


class IgnoresRefit(FastExtraction):
    """Ignores `refit_epochs`."""

    def fit(self, recipe, task, device, report):
        return super().fit(recipe, type(task)(**{**vars(task), "refit_epochs": None}), device, report)


@pytest.mark.parametrize(
    ("strategy", "check", "got"),
    [
        (IgnoresRefit, "refits_exactly_as_many_epochs", "epochs, not 2"),
        (NeedsNetwork, "joins_backbones", "can't be built or trained as one"),
        (Halved, "results_are_complete", "rows of probabilities whose sum is off by 0.5"),
        (OtherHead, "the_saved_model_predicts_the_same", "probabilities differ by up to"),
        (CatchesPruning, "reports_its_progress", "the reported fractions are [0.5, 0.4]: they decrease"),
        (Seedless, "is_deterministic", "probabilities of a second training differ by up to"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_strategy_that_violates_its_contract(strategy, check, got, violation):
    assert got in violation("strategy", check, strategy())
