"""Each check of a metric finds its violation."""

import numpy as np
import pytest

from autotl.metrics import Metric


@pytest.mark.parametrize(
    ("metric", "check", "got"),
    [
        (Metric("a b", lambda y, p: 1.0), "is_described", "name is 'a b'"),
        (Metric("array", lambda y, p: p.max(1)), "is_a_finite_number", "the score is array"),
        (Metric("not_a_number", lambda y, p: float("nan")), "is_a_finite_number", "the score is nan"),
        (
            Metric("inverted", lambda y, p: -(p.argmax(1) == y).mean()),
            "better_predictions_have_better_scores",
            "right -1",
        ),
        (
            Metric("first", lambda y, p: float(p[0, 0])),
            "does_not_depend_on_the_order_of_images",
            "in reversed order",
        ),
        (
            Metric("in_place", lambda y, p: float(p.sort() or 0.5)),
            "does_not_depend_on_the_order_of_images",
            "compute changed its arguments",
        ),
        (
            Metric("log_of_counts", lambda y, p: float(np.log(np.bincount(y, minlength=p.shape[1])).min())),
            "a_class_may_be_missing",
            "without class 2 the score is -inf",
        ),
    ],
    ids=lambda value: getattr(value, "name", None),
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_metric_that_violates_its_contract(metric, check, got, violation):
    assert got in violation("metric", check, metric)
