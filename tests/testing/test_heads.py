"""Each check of a head finds its violation."""

import numpy as np
import pytest
from torch import nn

from autotl.heads.base import Head


class ValidHead(Head):
    name, type = "valid", "estimator"

    def suggest(self, space):
        return {"C": space.float("C", 1e-3, 10.0, log=True)}

    def defaults(self):
        return {"C": 1.0}

    def build(self, params, num_features, num_classes, seed):
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), LogisticRegression(C=params["C"]))


class Spaced(ValidHead):
    name = "a valid head"


class OutsideItsRange(ValidHead):
    def defaults(self):
        return {"C": 100.0}


class Forgetful(ValidHead):
    def defaults(self):
        return {}

    def build(self, params, num_features, num_classes, seed):
        return super().build({"C": 1.0}, num_features, num_classes, seed)


class Listing(ValidHead):
    def suggest(self, space):
        return {"C": [space.float("C", 1e-3, 10.0, log=True)]}


class Guessing(ValidHead):
    def build(self, params, num_features, num_classes, seed):
        from sklearn.dummy import DummyClassifier

        return DummyClassifier(strategy="stratified", random_state=seed)


class Constant(ValidHead):
    def build(self, params, num_features, num_classes, seed):
        from sklearn.dummy import DummyClassifier

        return DummyClassifier(strategy="most_frequent")


class Seedless(ValidHead):
    def build(self, params, num_features, num_classes, seed):
        from sklearn.ensemble import ExtraTreesClassifier

        return ExtraTreesClassifier(50)


class Trusting(ValidHead):
    trusted = ("os.system",)


class NeedsEveryClass(ValidHead):
    def build(self, params, num_features, num_classes, seed):
        return EveryClass(num_classes)


class EveryClass:
    def __init__(self, num_classes):
        self.num_classes = num_classes

    def fit(self, x, y):
        assert len(np.unique(y)) == self.num_classes, "needs every class"
        return self

    predict_proba = None


class SmallLogits(Head):
    name, type = "small_logits", "dense"

    def suggest(self, space):
        return {}

    def build(self, params, num_features, num_classes, seed):
        return nn.Linear(num_features, 1)


@pytest.mark.parametrize(
    ("head", "check", "got"),
    [
        (Spaced, "is_described", "name is 'a valid head'"),
        (OutsideItsRange, "defaults_match_suggest", "out of the range of suggest: C = 100.0"),
        (Forgetful, "defaults_match_suggest", "no default for C"),
        (Listing, "suggests_values_a_recipe_can_hold", "a list"),
        (Guessing, "learns_a_separable_problem", "with 2 classes"),
        (Constant, "defaults_beat_the_majority_class", "of 48 samples are right"),
        (Seedless, "is_deterministic_with_a_seed", "logits of a second training differ by up to"),
        (Trusting, "trusts_no_more_than_it_needs", "trusted names os.system"),
        (NeedsEveryClass, "a_missing_class_keeps_its_column", "AssertionError: needs every class"),
        (SmallLogits, "builds_what_its_type_states", "the output for 8 samples and 3 classes has the shape [8, 1]"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_head_that_violates_its_contract(head, check, got, violation):
    assert got in violation("head", check, head())


def test_a_valid_head_has_no_violations(violations):
    assert violations("head", ValidHead()) == {}
