"""Selection of the trials that a model averages. Takes and returns arrays and numbers only."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

import numpy as np

__all__ = ["select"]

STEPS = 50
"""Steps of the greedy selection. The best average seldom has more members, and more steps changed no score."""
LEAST = 1e-15
"""Probability below which the log loss of an image doesn't rise."""

Members: TypeAlias = tuple[int, ...]
"""Indices of candidates: one, or those that an average is made of."""


def select(
    probabilities: Sequence[np.ndarray],
    labels: np.ndarray,
    limit: int,
    allowed: Callable[[frozenset[int]], bool] = lambda chosen: True,
) -> dict[int, float]:
    """Select the candidates to average: their indices, with weights that sum to 1.

    Greedy selection with replacement (Caruana et al., Ensemble Selection from Libraries of Models, ICML 2004, section
    2): each step adds the candidate with which the average has the least log loss, and the best of all these averages
    is taken. Candidates that haven't predicted all images, as fine-tuned ones, and that average as a whole are then
    selected from in the same way, by the images that all of them have predicted.

    Log loss instead of the metric of the search, since it is as good for accuracy and better for probabilities: see
    studies/README.md for what was compared.

    Args:
        probabilities: [n, num_classes] of each candidate, best candidate first; NaN for images that it hasn't
            predicted. All candidates have some images in common.
        labels: of the images, [n].
        limit: maximum number of candidates.
        allowed: whether a set of candidates may be used together, within a limit on prediction time for example.
            Where no set is allowed, the first candidate alone is selected.
    """
    of_label = [array[np.arange(len(labels)), labels] for array in probabilities]
    pool = [i for i in range(len(of_label)) if allowed(frozenset({i}))]
    if not pool:
        return {0: 1.0}
    num_predicted = [int((~np.isnan(row)).sum()) for row in of_label]
    widest = max(num_predicted[i] for i in pool)
    partial: dict[Members, np.ndarray] = {(i,): of_label[i] for i in pool if num_predicted[i] < widest}
    full: dict[Members, np.ndarray] = {(i,): of_label[i] for i in pool if num_predicted[i] == widest}

    def fits(chosen: Collection[Members], limit: int) -> bool:
        members = frozenset(i for group in chosen for i in group)
        return len(members) <= limit and allowed(members)

    weights = _greedy(full, lambda chosen: fits(chosen, max(1, limit - 1) if partial else limit))
    if partial:
        # the average is weighted as a whole: few images would shift the weights within it
        average = np.sum([weight * of_label[i] for (i,), weight in weights.items()], axis=0)
        whole = tuple(i for (i,) in weights)
        shares = _greedy({whole: average, **partial}, lambda chosen: fits(chosen, limit))
        inner = {group: weight * shares.get(whole, 0.0) for group, weight in weights.items()}
        weights = inner | {group: share for group, share in shares.items() if group != whole}
    return {i: weight for (i,), weight in sorted(weights.items()) if weight}


def _greedy(
    of_label: Mapping[Members, np.ndarray], fits: Callable[[Collection[Members]], bool]
) -> dict[Members, float]:
    """The weights of the best average, by the images that all have predicted.

    Args:
        of_label: the probability of each image's label, [n]; NaN where an image isn't predicted.
        fits: whether some of them may be used together.
    """
    rows = ~np.isnan(list(of_label.values())).any(0)
    of_label = {key: array[rows] for key, array in of_label.items()}
    total, counts = np.zeros(rows.sum()), dict.fromkeys(of_label, 0)
    best, weights = np.inf, {}
    for size in range(1, 1 + STEPS):
        used = {key for key, count in counts.items() if count}
        losses = {
            key: _log_loss((total + array) / size)
            for key, array in of_label.items()
            if key in used or not used or fits({*used, key})
        }
        chosen = min(losses, key=losses.__getitem__)
        counts[chosen] += 1
        total += of_label[chosen]
        if losses[chosen] < best:
            best, weights = losses[chosen], {key: count / size for key, count in counts.items() if count}
    return weights


def _log_loss(of_label: np.ndarray) -> float:
    return float(-np.log(np.maximum(of_label, LEAST)).mean())
