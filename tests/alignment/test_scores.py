"""Transferability scores against values that are worked out by hand in the comments."""

import math

import numpy as np
import pytest

from autotl.alignment.scores import BUILT_IN, Score, _evidence, loo_neighbours
from autotl.testing import CHECKS, ContractViolation


def compute(name, features, labels, logits=None):
    return BUILT_IN[name](np.asarray(features, float), np.asarray(labels), logits)


CLUSTERS = np.array([[1.0, 0.01 * i] for i in range(6)] + [[-1.0, 0.01 * i] for i in range(6)])


def test_knn_is_the_share_of_samples_whose_neighbours_are_right():
    labels = np.repeat([0, 1], 6)
    assert compute("knn", CLUSTERS, labels) == 1.0
    labels[0] = 1  # wrong itself; each of the others of its cluster still has four of five right
    assert compute("knn", CLUSTERS, labels) == pytest.approx(11 / 12)


def test_samples_of_one_group_are_no_neighbours():
    labels = np.repeat([0, 1], 6)
    assert (loo_neighbours(CLUSTERS, labels, groups=labels) == 1 - labels).all()
    assert (loo_neighbours(CLUSTERS, labels, groups=np.zeros(12)) == -1).all()


def test_ridge_loo_leaves_the_sample_out():
    # Of three samples at -1 and three at 1, one has the other class. Without a sample, those of its class are no longer
    # the majority where it lies, and the mean of all samples leans to the other class.
    features = [[-1.0]] * 3 + [[1.0]] * 3
    assert compute("ridge_loo", features, [0, 0, 1, 1, 1, 0]) == 0.0
    assert compute("ridge_loo", features, [0, 0, 0, 1, 1, 1]) == 1.0


def test_logme_is_the_maximum_evidence():
    # x = (2, 1, 0) and y = (1, 1, 0): with r = α/β the fixed point is 17r² + 80r - 25 = 0, so r = 5/17, α = 50/17 and
    # β = 10; ‖m‖² = 289/900, ‖Fm - y‖² = 37/180 and |A| = 900/17, and the two norms add up to n/2 = 3/2.
    log_p = 0.5 * math.log(1 / 18) + 1.5 * math.log(10) - 1.5 - 1.5 * math.log(2 * math.pi)
    u = np.array([[2.0], [1.0], [0.0]]) / math.sqrt(5)
    assert _evidence(u, np.array([5.0]), np.array([1.0, 1.0, 0.0]), (3, 1)) == pytest.approx(log_p / 3, abs=1e-5)


def test_logme_is_the_mean_over_the_classes():
    features, labels = np.array([[2.0], [1.0], [0.5]]), np.array([0, 0, 1])
    norm = math.sqrt(5.25)
    each = [_evidence(features / norm, np.array([5.25]), (labels == c).astype(float), (3, 1)) for c in (0, 1)]
    assert compute("logme", features, labels) == pytest.approx(np.mean(each))


def test_h_score_is_the_share_of_variance_between_the_classes():
    # the variance of 0, 2, 4, 6 is 5, that of the class means 1, 1, 5, 5 is 4
    assert compute("h_score", [[0.0], [2.0], [4.0], [6.0]], [0, 0, 1, 1]) == pytest.approx(4 / 5)


def test_nce_is_the_negative_conditional_entropy():
    # answers 0, 0, 0, 1 for classes 0, 0, 1, 1: p(y=0 | z=0) = 2/3, p(y=1 | z=0) = 1/3, p(y=1 | z=1) = 1
    logits = np.array([[1.0, 0.0], [2.0, 0.0], [0.5, 0.0], [0.0, 3.0]])
    expected = 2 / 4 * math.log(2 / 3) + 1 / 4 * math.log(1 / 3)
    assert compute("nce", np.zeros((4, 1)), [0, 0, 1, 1], logits) == pytest.approx(expected)


def test_leep_is_the_log_of_the_expected_prediction():
    # p(y=0 | z) = 0.7, 0.3 and p(y=1 | z) = 0.3, 0.7, so that the expected predictions are 0.62, 0.54, 0.66 and 0.5
    theta = np.array([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9], [0.5, 0.5]])
    expected = np.log([0.62, 0.54, 0.66, 0.5]).mean()
    assert compute("leep", np.zeros((4, 1)), [0, 0, 1, 1], np.log(theta)) == pytest.approx(expected)


def test_scores_of_the_source_head_are_absent_without_one():
    features, labels = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    absent = {name for name in BUILT_IN if compute(name, features, labels) is None}
    assert absent == {"nce", "leep"}


def test_a_score_that_raises_is_absent():
    assert Score("broken", lambda features, labels, logits: features.no_such_attribute)(CLUSTERS, np.arange(12)) is None


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_scores_meet_their_contract(name):
    for check in CHECKS["score"]:
        check(BUILT_IN[name])


@pytest.mark.parametrize(
    ("compute", "violated"),
    [
        (lambda features, labels, logits: features.mean(1), "is_one_number"),
        (lambda features, labels, logits: math.nan, "is_one_number"),
        (lambda features, labels, logits: 1.0, "is_greater_where_the_classes_lie_apart"),
        (lambda features, labels, logits: features[0].sum(), "does_not_depend_on_the_order_of_samples"),
    ],
)
def test_a_score_that_violates_its_contract(compute, violated):
    check = next(check for check in CHECKS["score"] if check.name == violated)
    with pytest.raises(ContractViolation):
        check(Score("wrong", compute))
