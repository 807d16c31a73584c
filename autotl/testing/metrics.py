"""What every metric promises, for 2 classes and for 7."""

import math
import re

import numpy as np

from autotl.metrics import Metric
from autotl.testing.check import Checks, expect

__all__ = ["METRIC"]

METRIC = Checks("metric", Metric)


@METRIC.promise(Metric)
def is_described(metric: Metric) -> None:
    """A metric has a name (letters, digits, _ and -) and says whether greater is better."""
    expect(isinstance(metric.name, str) and re.fullmatch(r"[\w-]+", metric.name), f"name is {metric.name!r}")
    expect(isinstance(metric.greater_is_better, bool), f"greater_is_better is {metric.greater_is_better!r}")


@METRIC.promise(Metric.__call__)
def is_a_finite_number(metric: Metric) -> None:
    """`compute` gives one finite number for labels [n] and probabilities [n, num_classes]."""
    for num_classes in (2, 7):
        labels, probabilities = _guesses(num_classes)
        score = metric.compute(labels, probabilities)
        number = np.ndim(score) == 0 and isinstance(score, int | float | np.number)
        expect(number, f"with {num_classes} classes came {score!r}")
        expect(math.isfinite(score), f"with {num_classes} classes came {score!r}")


@METRIC.promise(Metric.better)
def better_answers_have_better_scores(metric: Metric) -> None:
    """Certain and right is better than not to know, and that is better than certain and wrong."""
    for num_classes in (2, 7):
        labels = np.arange(70) % num_classes
        right = np.eye(num_classes)[labels]
        wrong = np.eye(num_classes)[(labels + 1) % num_classes]
        unsure = 0.5 * right + 0.5 / num_classes + np.random.default_rng(0).uniform(0, 1e-3, right.shape)
        unsure /= unsure.sum(1, keepdims=True)
        best, middle, worst = (metric(labels, p) for p in (right, unsure, wrong))
        order = f"right {best:.4g}, half sure {middle:.4g}, wrong {worst:.4g}, greater is "
        order += f"{'better' if metric.greater_is_better else 'worse'}, with {num_classes} classes"
        expect(not metric.better(middle, best) and not metric.better(worst, middle), order)
        expect(metric.better(best, worst), order)


@METRIC.promise(Metric.__call__)
def the_order_of_images_says_nothing(metric: Metric) -> None:
    """The same images in another order have the same score, and the arrays stay as they were."""
    for num_classes in (2, 7):
        labels, probabilities = _guesses(num_classes)
        kept = labels.copy(), probabilities.copy()
        score = metric(labels, probabilities)
        same = np.array_equal(labels, kept[0]) and np.array_equal(probabilities, kept[1])
        expect(same, "the arrays that it was given have changed")
        turned = metric(labels[::-1].copy(), probabilities[::-1].copy())
        expect(math.isclose(score, turned, rel_tol=1e-9), f"{score!r} one way round and {turned!r} the other")


@METRIC.promise(Metric)
def a_class_may_be_missing(metric: Metric) -> None:
    """A class that no label has leaves a finite number: small validation parts lack one now and then."""
    labels, probabilities = _guesses(7)
    score = metric(labels[labels != 2], probabilities[labels != 2])
    expect(math.isfinite(score), f"without class 2 came {score!r}")


def _guesses(num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(70) % num_classes
    scores = rng.uniform(size=(70, num_classes)) + 0.5 * np.eye(num_classes)[labels]
    return labels, scores / scores.sum(1, keepdims=True)
