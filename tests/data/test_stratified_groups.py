"""Folds of groups, drawn quickly: the same as scikit-learn's."""

import warnings

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from autotl.data.stratified_groups import QuickStratifiedGroupKFold


@pytest.mark.parametrize(
    ("n", "num_classes", "num_groups", "number"), [(12, 2, 6, 2), (90, 7, 80, 5), (200, 1, 50, 4), (300, 40, 299, 8)]
)
def test_folds_are_those_of_scikit_learn(n, num_classes, num_groups, number):
    rng = np.random.default_rng(n)
    labels, groups = rng.integers(0, num_classes, n) ** 2 // num_classes, rng.integers(0, num_groups, n)
    quick, known = (
        [fold.tolist() for _, fold in draws(splitter(number, shuffle=True, random_state=3), labels, groups)]
        for splitter in (QuickStratifiedGroupKFold, StratifiedGroupKFold)
    )
    assert quick == known


def test_the_step_that_is_replaced_is_the_one_that_scikit_learn_takes(monkeypatch):
    """Its name is private: under another one the folds would be right, and slow again."""
    calls = []
    step = QuickStratifiedGroupKFold._find_best_fold
    monkeypatch.setattr(
        QuickStratifiedGroupKFold, "_find_best_fold", lambda self, **given: calls.append(1) or step(self, **given)
    )
    labels = np.arange(20) % 2
    draws(QuickStratifiedGroupKFold(2), labels, np.arange(20) // 2)
    assert len(calls) == 10


def draws(splitter, labels, groups):
    with warnings.catch_warnings():  # of classes with fewer images than folds
        warnings.simplefilter("ignore")
        return list(splitter.split(labels, labels, groups))
