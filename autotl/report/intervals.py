"""How far a score on some images may be from the score on all images like them."""

import math
import time

import numpy as np

from autotl.metrics import Metric, wilson_interval

__all__ = ["bootstrap_interval"]

SAMPLES = 200
MAX_SECONDS = 0.5


def bootstrap_interval(metric: Metric, labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of a score from bootstrap samples of the images; None where too few were drawn in MAX_SECONDS, or
    the metric has no score for most of them."""
    if metric.name == "accuracy":
        return wilson_interval(metric(labels, probabilities), len(labels))
    rng, scores, began = np.random.default_rng(0), [], time.monotonic()
    for _ in range(SAMPLES):
        if time.monotonic() - began > MAX_SECONDS:
            break
        sample = rng.integers(len(labels), size=len(labels))
        score = metric.score_or_nan(labels[sample], probabilities[sample])
        if not math.isnan(score):
            scores.append(score)
    if len(scores) < SAMPLES / 4:
        return None
    low, high = np.quantile(scores, [0.025, 0.975])
    return float(low), float(high)
