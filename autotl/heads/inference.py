"""Logits and probabilities of a trained head, from features. Arrays in, arrays out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = [
    "MISSING",
    "average_logits",
    "decision_logits",
    "logits",
    "probabilities",
    "reference_answers",
    "same_answers",
]

MISSING = -1e9
"""The logit of a class that an estimator had no training samples of. Finite, so that averages and temperatures work,
and low enough for a probability of 0 at any temperature."""

BATCH = 4096
"""Samples per call of the head: bounds the memory of kernels and activations."""


def logits(head: Any, features: np.ndarray, num_classes: int) -> np.ndarray:
    """A head's logits, float64 [n, num_classes].

    Args:
        head: a trained dense head (`nn.Module`) or a fitted scikit-learn classifier. A dense head runs on its own
            device in eval mode, and is returned to its previous mode.
        features: float32 [n, num_features].

    A class that an estimator had no training samples of gets the logit `MISSING`.
    """
    compute = _dense_logits if hasattr(head, "state_dict") else _estimator_logits
    parts = [compute(head, features[i : i + BATCH], num_classes) for i in range(0, len(features), BATCH)]
    return np.concatenate(parts) if parts else np.empty((0, num_classes))


def average_logits(head: Any, views: Sequence[np.ndarray], num_classes: int) -> np.ndarray:
    """The mean of `logits` over several views of the same images, each float32 [n, num_features]."""
    return np.mean([logits(head, features, num_classes) for features in views], axis=0)


def probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax of `logits / temperature`: float64 [n, num_classes], rows sum to 1."""
    from scipy.special import softmax

    return softmax(np.asarray(logits, np.float64) / temperature, axis=1)


def reference_answers(head: Any, num_features: int, num_classes: int) -> np.ndarray:
    """A head's logits for two made-up samples, float64 [2, num_classes], which are the same on every machine.

    They are saved with a head: a library of another version that reads the head otherwise gives other answers.
    """
    numbers = np.arange(2 * num_features, dtype=np.float64).reshape(2, num_features)
    answers = logits(head, (0.5 + 0.5 * np.sin(numbers * 12.9898)).astype(np.float32), num_classes)
    return np.clip(answers, -1e30, 1e30)  # finite, as JSON requires


def same_answers(answers: np.ndarray, expected: np.ndarray) -> bool:
    """Whether reference answers are equal, except for what rounding on another device changes. NaN is never equal."""
    if answers.shape != expected.shape:
        return False
    given = np.abs(expected) < -MISSING / 2  # a class without training samples has the same answer everywhere
    scale = 1.0 + np.abs(expected[given]).max(initial=0.0)
    return bool((np.abs(answers - expected)[given] <= 0.01 * scale).all() and (answers < MISSING / 2)[~given].all())


def _dense_logits(head: Any, features: np.ndarray, num_classes: int) -> np.ndarray:
    import torch

    device = next(head.parameters()).device
    was_training = head.training
    head.eval()
    try:
        with torch.inference_mode():
            # torch.tensor copies; torch.from_numpy would warn about recorded features, which are read-only memory maps
            return head(torch.tensor(features, dtype=torch.float32, device=device)).cpu().double().numpy()
    finally:
        head.train(was_training)


def _estimator_logits(head: Any, features: np.ndarray, num_classes: int) -> np.ndarray:
    classes = np.asarray(head.classes_, dtype=np.int64)
    if hasattr(head, "decision_function"):
        return decision_logits(head.decision_function(features), classes, num_classes)
    # forests and neighbours count votes, which can be 0: clip at a hundredth of the uniform probability, since smaller
    # counts carry no information and log 0 is infinite
    return decision_logits(np.log(np.maximum(head.predict_proba(features), 0.01 / len(classes))), classes, num_classes)


def decision_logits(decision: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Logits, float64 [n, num_classes], from an estimator's decision function for its `classes`: [n] for two classes,
    positive for the second, else [n, len(classes)]."""
    scores = np.asarray(decision, np.float64)
    if scores.ndim == 1:
        scores = np.stack([-scores / 2, scores / 2], axis=1)
    all_scores = np.full((len(scores), num_classes), MISSING)
    all_scores[:, classes] = scores
    return all_scores
