"""How far a score on some images may be from the score on all images like them."""

import math
import time

import numpy as np

from autotl.metrics import Metric

__all__ = ["Z", "bootstrap_interval", "wilson_interval"]

Z = 1.959964
"""Standard errors from the middle of a 95 % interval to its ends."""
SAMPLES = 200
MAX_SECONDS = 0.5


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a share of `n` images (Wilson, JASA 1927).

    >>> low, high = wilson_interval(0.88, 100)
    >>> round(low, 3), round(high, 3)
    (0.802, 0.93)
    """
    if n == 0:
        return 0.0, 1.0
    centre = share + Z * Z / (2 * n)
    spread = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    scale = 1 + Z * Z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


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
