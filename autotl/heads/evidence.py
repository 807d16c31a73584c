"""How much a head's features speak for a class: what explanations compare. Arrays in, arrays out."""

from collections.abc import Callable
from typing import Any

import numpy as np

from autotl.heads.inference import MISSING, logits

__all__ = ["falls", "log_odds"]

DRAWS = 1024
"""Mixtures of steps that a head of steps is asked for."""
SPREAD = 3.0
"""Standard deviation of a step's weight in a mixture."""


def falls(score: Callable[[np.ndarray], np.ndarray], features: np.ndarray) -> np.ndarray:
    """How much a score falls from the first row of `features` to each of the others, [n - 1].

    The difference itself, where small steps change the score. Trees answer the same to most of them: there the slope of
    the score over random mixtures of all steps is taken (a smoothed gradient, by linear regression).

    Args:
        score: from features [n, num_features] to scores [n], such as `log_odds`.
        features: float32 [n, num_features].
    """
    steps = features[1:] - features[:1]
    nearby = score(features[:1] + 0.01 * steps)
    if len(np.unique(nearby)) > len(nearby) / 2:
        scores = score(features)
        return scores[0] - scores[1:]
    weights = np.random.default_rng(0).normal(0, SPREAD, (DRAWS, len(steps))).astype(np.float32)
    scores = score(features[:1] + weights @ steps)
    centred = (weights - weights.mean(0)).astype(np.float64)
    penalty = 0.1 * DRAWS * SPREAD**2 * np.eye(len(steps))
    return -np.linalg.solve(centred.T @ centred + penalty, centred.T @ (scores - scores.mean()))


def log_odds(head: Any, features: np.ndarray, num_classes: int, temperature: float, label: int) -> np.ndarray:
    """The logarithm of p / (1 - p) of one class, float64 [n].

    Unlike the probability it keeps changing where a head is sure. Votes of a few nearest neighbours don't, so such
    heads are asked for the graded votes of all their samples.

    Args:
        head: a trained dense head or a fitted scikit-learn classifier.
        features: float32 [n, num_features].
        temperature: of the fitted member.
        label: the class.
    """
    from scipy.special import logsumexp

    scores = _graded_logits(head, features, num_classes) / temperature
    if num_classes == 1:
        return np.zeros(len(features))
    return scores[:, label] - logsumexp(np.delete(scores, label, axis=1), axis=1)


def _graded_logits(head: Any, features: np.ndarray, num_classes: int) -> np.ndarray:
    last = head[-1] if hasattr(head, "steps") else head
    if not hasattr(last, "graded_votes"):
        return logits(head, features, num_classes)
    prepared = head[:-1].transform(features) if last is not head else features
    scores = np.full((len(features), num_classes), MISSING)
    scores[:, np.asarray(head.classes_, np.int64)] = last.graded_votes(prepared)
    return scores
