"""The requirements of a transferability score, tested with and without source logits."""

import math
import re

import numpy as np

from autotl.alignment.scores import Score
from autotl.testing.check import Checks, expect

__all__ = ["SCORE"]

SCORE = Checks("score", Score)


@SCORE.requires(Score)
def is_described(score: Score) -> None:
    """A score has a name of letters, digits, _ and -."""
    expect(isinstance(score.name, str) and re.fullmatch(r"[\w-]+", score.name), f"name is {score.name!r}")


@SCORE.requires(Score)
def is_one_number(score: Score) -> None:
    """`compute` returns one number, finite where there are source logits, also for features that outnumber the
    samples; without source logits it may be NaN."""
    for num_features in (4, 90):
        features, labels, logits = _samples(num_features, separation=1.0)
        for source_logits in (logits, None):
            value = score.compute(features, labels, source_logits)
            is_number = np.ndim(value) == 0 and isinstance(value, int | float | np.number)
            is_valid = is_number and (math.isfinite(value) or (source_logits is None and math.isnan(value)))
            given = "with" if source_logits is not None else "without"
            expect(is_valid, f"for {num_features} features, {given} source logits, the score is {value!r}")


@SCORE.requires(Score)
def is_greater_where_the_classes_lie_apart(score: Score) -> None:
    """Features, and source logits, that separate the classes score higher than those that have nothing to do with
    them."""
    apart, mixed = (score.compute(*_samples(6, separation)) for separation in (6.0, 0.0))
    expect(apart > mixed, f"{apart:.4g} where the classes lie apart, {mixed:.4g} where they are mixed")


@SCORE.requires(Score)
def does_not_depend_on_the_order_of_samples(score: Score) -> None:
    """The same samples in another order have the same score, and `compute` doesn't change its arguments."""
    given = _samples(6, separation=2.0)
    copies = [array.copy() for array in given]
    value = score.compute(*given)
    expect(all(map(np.array_equal, given, copies)), "compute changed its arguments")
    reversed_value = score.compute(*(array[::-1].copy() for array in given))
    expect(
        math.isclose(value, reversed_value, rel_tol=1e-4, abs_tol=1e-6),
        f"the score is {value!r}, and {reversed_value!r} in reversed order",
    )


def _samples(num_features: int, separation: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [60, num_features], labels [60] of three classes, and logits [60, 5] of a source head."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = rng.normal(size=(60, num_features)) + separation * np.eye(3, num_features)[labels]
    logits = rng.normal(size=(60, 5)) + separation * np.eye(3, 5)[labels]
    return features, labels, logits
