"""Selection of the trials that a model averages. Takes and returns arrays and numbers only."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from autotl.metrics import Metric, bootstrap_scores

__all__ = ["select"]


def select(
    probabilities: Sequence[np.ndarray],
    groups: Sequence[Hashable],
    labels: np.ndarray,
    metric: Metric,
    limit: int,
    allowed: Callable[[frozenset[int]], bool] = lambda chosen: True,
) -> dict[int, float]:
    """Select the candidates to average: their indices, with equal weights that sum to 1.

    After hundreds of trials the best few are those that fit the validation images by chance, and most of them are
    near copies of one another. So only the best candidate of each group is used. They are averaged in the order of
    their scores, and among the averages of the first one, two, three, … candidates the largest is taken whose score
    lies within one standard error of the best average's (Breiman et al., Classification and Regression Trees, 1984,
    section 3.4.3). Greedy selection (Caruana et al., ICML 2004) and taking the best average both did worse on test
    images: see studies/README.md.

    Args:
        probabilities: [n, num_classes] of each candidate on the validation images, best candidate first.
        groups: one value for each candidate; candidates with the same value make similar errors.
        labels: of the validation images, [n].
        metric: the score to compare averages by.
        limit: maximum number of candidates.
        allowed: whether a set of candidates may be used together, within a limit on prediction time for example.
            Where no set is allowed, the first candidate alone is selected.
    """
    chosen: list[int] = []
    for i, group in enumerate(groups):
        is_new = group not in {groups[j] for j in chosen}
        if is_new and len(chosen) < limit and allowed(frozenset({*chosen, i})):
            chosen.append(i)
    chosen = chosen or [0]
    totals = np.cumsum([probabilities[i] for i in chosen], axis=0)
    averages = [total / n for n, total in enumerate(totals, 1)]
    scores = np.array([metric.score_or_nan(labels, average) for average in averages])
    if np.isnan(scores).all():
        return {chosen[0]: 1.0}
    best = int(np.nanargmax(scores) if metric.greater_is_better else np.nanargmin(scores))
    near = np.abs(scores - scores[best]) <= _standard_error(averages[best], labels, metric)
    near[best] = True  # also where the scores are so large that the standard error overflows
    used = chosen[: int(np.flatnonzero(near).max()) + 1]
    return dict.fromkeys(used, 1 / len(used))


def _standard_error(average: np.ndarray, labels: np.ndarray, metric: Metric) -> float:
    """Standard error of the score of `average`, from bootstrap samples of the images."""
    scores = bootstrap_scores(labels, average, metric)
    return float(scores.std()) if len(scores) else 0.0
