"""What a trained head says of features: logits, and probabilities that mean what they say. Arrays in, arrays out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["MISSING", "average_logits", "fit_temperature", "logits", "probabilities"]

MISSING = -1e9
"""The logit of a class that an estimator never saw: finite, and as good as minus infinity at any temperature."""

ROWS = 4096
"""Rows at a time: kernels and activations stay small, whatever the number of images."""


def logits(head: Any, features: np.ndarray, n_classes: int) -> np.ndarray:
    """The head's scores, float64 [n, n_classes].

    Args:
        head: a trained dense head (`nn.Module`, which runs on the device that it is on, in eval mode, and is left in
            the mode it was in) or a fitted scikit-learn classifier.
        features: float32 [n, n_features].

    Classes that an estimator had no training rows of get `MISSING`.
    """
    score = _dense_logits if hasattr(head, "state_dict") else _estimator_logits
    parts = [score(head, features[i : i + ROWS], n_classes) for i in range(0, len(features), ROWS)]
    return np.concatenate(parts) if parts else np.empty((0, n_classes))


def average_logits(head: Any, views: Sequence[np.ndarray], n_classes: int) -> np.ndarray:
    """The mean of the head's `logits` over several views of the same images, each float32 [n, n_features]."""
    return np.mean([logits(head, features, n_classes) for features in views], axis=0)


def probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax of `logits / temperature`: float64 [n, n_classes], rows sum to 1, the order of classes is the logits'."""
    from scipy.special import softmax

    return softmax(np.asarray(logits, np.float64) / temperature, axis=1)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The one parameter that calibrates: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2.

    Minimises the log loss of rows that the head wasn't trained on, `logits` [n, n_classes] and `labels` [n]. Dividing
    by it never changes which class is first. Two things make it safe on few rows: as in Platt's scaling (1999) labels
    are believed to (n + 1) / (n + 2), so that rows without one error don't ask for infinite confidence; and it
    stays within 1/20 and 20 times the spread of the logits. Rows of a class that the head never saw say nothing.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    seen = logits > MISSING / 2
    usable = seen[np.arange(len(labels)), labels] & (seen.sum(1) > 1)
    logits, labels, seen = logits[usable], labels[usable], seen[usable]
    spread = np.std(logits, axis=1, where=seen).mean() if len(logits) else 0.0
    if spread == 0.0:
        return 1.0
    doubt = 1.0 / (len(labels) + 2)
    believed = np.where(seen, doubt / (seen.sum(1, keepdims=True) - 1), 0.0)
    believed[np.arange(len(labels)), labels] = 1.0 - doubt

    def loss(log_temperature: float) -> float:  # convex in 1/T: one minimum
        log_probabilities = log_softmax(logits / (spread * np.exp(log_temperature)), axis=1)
        return -float(np.sum(believed * log_probabilities, where=seen) / len(labels))

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded", options={"xatol": 1e-4})
    return float(spread * np.exp(found.x))


def _dense_logits(head: Any, features: np.ndarray, n_classes: int) -> np.ndarray:
    import torch

    device = next(head.parameters()).device
    was_training = head.training
    head.eval()
    try:
        with torch.inference_mode():  # torch.tensor copies: recorded features are read-only memory maps
            return head(torch.tensor(features, dtype=torch.float32, device=device)).cpu().double().numpy()
    finally:
        head.train(was_training)


def _estimator_logits(head: Any, features: np.ndarray, n_classes: int) -> np.ndarray:
    seen = np.asarray(head.classes_, dtype=np.int64)
    if hasattr(head, "decision_function"):
        scores = np.asarray(head.decision_function(features), np.float64)
        if scores.ndim == 1:  # of two classes, positive for the second
            scores = np.stack([-scores / 2, scores / 2], axis=1)
    else:
        # a count of trees or neighbours says nothing below a hundredth of what a guess has, and log 0 says too much
        scores = np.log(np.maximum(head.predict_proba(features), 0.01 / len(seen)))
    everything = np.full((len(features), n_classes), MISSING)
    everything[:, seen] = scores
    return everything
