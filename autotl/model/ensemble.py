"""Which trials to average: greedy selection on validation probabilities (Caruana et al., ICML 2004). Arrays only."""

from collections.abc import Callable, Sequence

import numpy as np

from autotl.metrics import Metric

__all__ = ["select"]

ROUNDS = 25


def select(
    probabilities: Sequence[np.ndarray],
    labels: np.ndarray,
    metric: Metric,
    limit: int,
    allowed: Callable[[frozenset[int]], bool] = lambda chosen: True,
) -> dict[int, float]:
    """Weights by index of the candidates whose average scores best on the validation images; at least one.

    Candidates come best first. Starting from the best single one that is allowed (the first, where none is), the one
    whose addition helps most is added, again and again and with repeats; the best average on the way is kept, a smaller
    one where two are equal. The score is the metric, and where it ties (accuracy on few images is coarse) the log loss.

    Args:
        probabilities: [n, n_classes] of each candidate.
        limit: the most different candidates.
        allowed: whether a set of candidates may be used together (an ensemble has to predict in time).
    """

    def score(average: np.ndarray) -> tuple[float, float]:
        sign = 1 if metric.greater_is_better else -1
        likelihood = np.log(average[np.arange(len(labels)), labels].clip(1e-7)).mean()
        return round(sign * metric(labels, average), 9), float(likelihood)

    first = next((i for i in range(len(probabilities)) if allowed(frozenset({i}))), 0)
    chosen = [first]
    total = np.array(probabilities[first], dtype=np.float64)
    best, best_score = list(chosen), score(total)
    for _ in range(ROUNDS):
        options = [
            i
            for i in range(len(probabilities))
            if (i in chosen or len(set(chosen)) < limit) and allowed(frozenset({*chosen, i}))
        ]
        if not options:  # even the first alone is more than is allowed
            break
        scores = [score((total + probabilities[i]) / (len(chosen) + 1)) for i in options]
        winner = max(range(len(options)), key=scores.__getitem__)
        chosen.append(options[winner])
        total = total + probabilities[options[winner]]
        if scores[winner] > best_score:
            best, best_score = list(chosen), scores[winner]
    return {i: best.count(i) / len(best) for i in sorted(set(best))}
