"""What a trained head says of features: logits, and probabilities that mean what they say. Arrays in, arrays out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["MISSING", "average_logits", "logits", "probabilities"]

MISSING = -1e9
"""The logit of a class that an estimator never saw: finite, and as good as minus infinity at any temperature."""

ROWS = 4096
"""Rows at a time: kernels and activations stay small, whatever the number of images."""


def logits(head: Any, features: np.ndarray, num_classes: int) -> np.ndarray:
    """The head's scores, float64 [n, num_classes].

    Args:
        head: a trained dense head (`nn.Module`, which runs on the device that it is on, in eval mode, and is left in
            the mode it was in) or a fitted scikit-learn classifier.
        features: float32 [n, num_features].

    Classes that an estimator had no training rows of get `MISSING`.
    """
    score = _dense_logits if hasattr(head, "state_dict") else _estimator_logits
    parts = [score(head, features[i : i + ROWS], num_classes) for i in range(0, len(features), ROWS)]
    return np.concatenate(parts) if parts else np.empty((0, num_classes))


def average_logits(head: Any, views: Sequence[np.ndarray], num_classes: int) -> np.ndarray:
    """The mean of the head's `logits` over several views of the same images, each float32 [n, num_features]."""
    return np.mean([logits(head, features, num_classes) for features in views], axis=0)


def probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax of `logits / temperature`: float64 [n, num_classes], rows sum to 1, the order of classes is the logits'."""
    from scipy.special import softmax

    return softmax(np.asarray(logits, np.float64) / temperature, axis=1)


def _dense_logits(head: Any, features: np.ndarray, num_classes: int) -> np.ndarray:
    import torch

    device = next(head.parameters()).device
    was_training = head.training
    head.eval()
    try:
        with torch.inference_mode():  # torch.tensor copies: recorded features are read-only memory maps
            return head(torch.tensor(features, dtype=torch.float32, device=device)).cpu().double().numpy()
    finally:
        head.train(was_training)


def _estimator_logits(head: Any, features: np.ndarray, num_classes: int) -> np.ndarray:
    seen = np.asarray(head.classes_, dtype=np.int64)
    if hasattr(head, "decision_function"):
        scores = np.asarray(head.decision_function(features), np.float64)
        if scores.ndim == 1:  # of two classes, positive for the second
            scores = np.stack([-scores / 2, scores / 2], axis=1)
    else:
        # a count of trees or neighbours says nothing below a hundredth of what a guess has, and log 0 says too much
        scores = np.log(np.maximum(head.predict_proba(features), 0.01 / len(seen)))
    everything = np.full((len(features), num_classes), MISSING)
    everything[:, seen] = scores
    return everything
