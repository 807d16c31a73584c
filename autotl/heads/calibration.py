"""Temperature scaling: one parameter that calibrates probabilities. Arrays in, arrays out."""

import numpy as np

from autotl.heads.inference import MISSING

__all__ = ["fit_temperature"]


def fit_temperature(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The temperature T that minimises the log loss of softmax(logits / T) (Guo et al., On Calibration of Modern
    Neural Networks, ICML 2017, section 4.2).

    Dividing by T never changes the predicted class. Two measures keep T sensible for few samples: the target
    probability of a label is (n + 1) / (n + 2) instead of 1, as in Platt scaling (1999), so that error-free samples
    don't push T to 0; and T is bounded to 1/20 … 20 times the spread of the logits.

    Args:
        logits: [n, num_classes], of samples that the head wasn't trained on. Samples whose label is a class the head
            was never trained on (logit `MISSING`) are ignored.
        labels: [n].
        weights: [n], of the samples in the loss. By default all count the same.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    known = logits > MISSING / 2
    usable = known[np.arange(len(labels)), labels] & (known.sum(1) > 1)
    logits, labels, known = logits[usable], labels[usable], known[usable]
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, np.float64)[usable]
    spread = np.std(logits, axis=1, where=known).mean() if len(logits) else 0.0
    if spread == 0.0:
        return 1.0
    doubt = 1.0 / (len(labels) + 2)
    targets = np.where(known, doubt / (known.sum(1, keepdims=True) - 1), 0.0)
    targets[np.arange(len(labels)), labels] = 1.0 - doubt
    targets *= weights[:, None]

    def loss(log_temperature: float) -> float:  # convex in 1/T, so it has one minimum
        log_probabilities = log_softmax(logits / (spread * np.exp(log_temperature)), axis=1)
        return -float(np.sum(targets * log_probabilities, where=known) / len(labels))

    bounds = (np.log(0.05), np.log(20.0))
    minimum = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return float(spread * np.exp(minimum.x))
