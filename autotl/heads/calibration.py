"""Temperature scaling: probabilities that mean what they say. Arrays in, arrays out."""

import numpy as np

from autotl.heads.inference import MISSING

__all__ = ["fit_temperature"]


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The one parameter that calibrates: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2.

    Minimises the log loss of rows that the head wasn't trained on, `logits` [n, num_classes] and `labels` [n]. Dividing
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
