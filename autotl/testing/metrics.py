"""The requirements of a metric, tested with 2 and with 7 classes."""

import math
import re

import numpy as np

from autotl.metrics import Metric
from autotl.testing.check import Checks, expect

__all__ = ["METRIC"]

METRIC = Checks("metric", Metric)


@METRIC.requires(Metric)
def is_described(metric: Metric) -> None:
    """A metric has a name (letters, digits, _ and -) and states whether greater is better."""
    expect(isinstance(metric.name, str) and re.fullmatch(r"[\w-]+", metric.name), f"name is {metric.name!r}")
    expect(isinstance(metric.greater_is_better, bool), f"greater_is_better is {metric.greater_is_better!r}")


@METRIC.requires(Metric)
def is_a_finite_number(metric: Metric) -> None:
    """`compute` returns one finite number for labels [n] and probabilities [n, num_classes]."""
    for num_classes in (2, 7):
        labels, probabilities = _predictions(num_classes)
        score = metric.compute(labels, probabilities)
        is_number = np.ndim(score) == 0 and isinstance(score, int | float | np.number)
        expect(is_number and math.isfinite(score), f"with {num_classes} classes the score is {score!r}")


@METRIC.requires(Metric.better)
def better_predictions_have_better_scores(metric: Metric) -> None:
    """Confident correct predictions score better than half confident ones, and those better than confident wrong
    ones."""
    for num_classes in (2, 7):
        labels = np.arange(70) % num_classes
        right = np.eye(num_classes)[labels]
        wrong = np.eye(num_classes)[(labels + 1) % num_classes]
        unsure = 0.5 * right + 0.5 / num_classes + np.random.default_rng(0).uniform(0, 1e-3, right.shape)
        unsure /= unsure.sum(1, keepdims=True)
        best, middle, worst = (metric(labels, p) for p in (right, unsure, wrong))
        order = f"right {best:.4g}, half confident {middle:.4g}, wrong {worst:.4g}, greater is "
        order += f"{'better' if metric.greater_is_better else 'worse'}, with {num_classes} classes"
        expect(not metric.better(middle, best) and not metric.better(worst, middle), order)
        expect(metric.better(best, worst), order)


@METRIC.requires(Metric)
def does_not_depend_on_the_order_of_images(metric: Metric) -> None:
    """The same images in another order have the same score, and `compute` doesn't change its arguments."""
    for num_classes in (2, 7):
        labels, probabilities = _predictions(num_classes)
        copies = labels.copy(), probabilities.copy()
        score = metric.compute(labels, probabilities)
        unchanged = np.array_equal(labels, copies[0]) and np.array_equal(probabilities, copies[1])
        expect(unchanged, "compute changed its arguments")
        reversed_score = metric(labels[::-1].copy(), probabilities[::-1].copy())
        expect(
            math.isclose(score, reversed_score, rel_tol=1e-9),
            f"the score is {score!r}, and {reversed_score!r} in reversed order",
        )


@METRIC.requires(Metric)
def a_class_may_be_missing(metric: Metric) -> None:
    """The score is finite where a class is missing from the labels: small validation subsets may lack one."""
    labels, probabilities = _predictions(7)
    score = metric.compute(labels[labels != 2], probabilities[labels != 2])
    expect(math.isfinite(score), f"without class 2 the score is {score!r}")


def _predictions(num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of which most, but not all, are right."""
    rng = np.random.default_rng(0)
    labels = np.arange(70) % num_classes
    scores = rng.uniform(size=(70, num_classes)) + 0.5 * np.eye(num_classes)[labels]
    return labels, scores / scores.sum(1, keepdims=True)
