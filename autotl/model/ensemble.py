"""Which trials to average. Arrays only."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from autotl.metrics import Metric

__all__ = ["select"]

DRAWS = 200
"""Bootstrap samples of the validation images, for the standard error of a score."""


def select(
    probabilities: Sequence[np.ndarray],
    kinds: Sequence[Hashable],
    labels: np.ndarray,
    metric: Metric,
    limit: int,
    allowed: Callable[[frozenset[int]], bool] = lambda chosen: True,
) -> dict[int, float]:
    """Weights by index of the candidates to average, equal ones; at least one.

    After hundreds of trials the best few are those that fit the validation images by chance, and most of them are
    copies of one another. So only the best of each kind takes part, in the order of their scores, and of the averages
    of the first one, two, three, … the largest is taken that scores within one standard error of the best (Breiman et
    al., Classification and Regression Trees, 1984, section 3.4.3). Greedy selection (Caruana et al., ICML 2004) and
    the best average both did worse on test images: see studies/README.md.

    Args:
        probabilities: [n, num_classes] of each candidate on the validation images, best first.
        kinds: what each candidate is, as far as its errors go.
        limit: the most candidates.
        allowed: whether a set of candidates may be used together (an ensemble has to predict in time).
    """
    chosen: list[int] = []
    for i, kind in enumerate(kinds):
        new = kind not in {kinds[j] for j in chosen}
        if new and len(chosen) < limit and allowed(frozenset({*chosen, i})):
            chosen.append(i)
    chosen = chosen or [0]
    totals = np.cumsum([probabilities[i] for i in chosen], axis=0)
    averages = [total / n for n, total in enumerate(totals, 1)]
    scores = np.array([metric(labels, average) for average in averages])
    best = int(scores.argmax() if metric.greater_is_better else scores.argmin())
    near = np.abs(scores - scores[best]) <= _standard_error(averages[best], labels, metric)
    used = chosen[: int(np.flatnonzero(near).max()) + 1]
    return dict.fromkeys(used, 1 / len(used))


def _standard_error(average: np.ndarray, labels: np.ndarray, metric: Metric) -> float:
    """Of its score, over bootstrap samples of the images."""
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(DRAWS):
        drawn = rng.integers(len(labels), size=len(labels))
        try:
            scores.append(metric(labels[drawn], average[drawn]))
        except ValueError:  # a class that isn't in the sample
            continue
    return float(np.std(scores)) if scores else 0.0
