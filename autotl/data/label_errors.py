"""Confident learning: which labels are likely wrong, from out-of-fold probabilities. Arrays in, arrays out."""

from dataclasses import dataclass

import numpy as np

__all__ = ["LabelError", "confident_learning"]


@dataclass(frozen=True)
class LabelError:
    """An image whose label is likely wrong."""

    image: int
    """Its row."""
    suggested: int
    """The class that is predicted for it."""
    score: float
    """Probability of the given label: the lower, the likelier the error."""


def confident_learning(labels: np.ndarray, probabilities: np.ndarray) -> list[LabelError]:
    """The images that count as another class with confidence, the likeliest errors first.

    The threshold of a class is the mean probability that its own images have of it; an image counts as the most
    probable of the classes whose threshold it reaches (Northcutt, Jiang and Chuang, Confident Learning, JAIR 2021,
    section 3.1). Those that count as another class than their label, and are predicted as another one, are ranked by
    the probability of their label, as cleanlab does with `filter_by="confident_learning"`.

    Args:
        labels: [n].
        probabilities: [n, num_classes], each row of a model that wasn't trained on the image. Rows with NaN are left
            out.
    """
    usable = np.flatnonzero(np.isfinite(probabilities).all(1))
    labels, rows = np.asarray(labels)[usable], np.asarray(probabilities, np.float64)[usable]
    if not len(usable):
        return []
    num_classes = rows.shape[1]
    own = rows[np.arange(len(rows)), labels]
    sums, counts = np.bincount(labels, own, num_classes), np.bincount(labels, minlength=num_classes)
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    reached = rows >= thresholds - 1e-6
    counted = np.where(reached, rows, -1.0).argmax(1)
    predicted = rows.argmax(1)
    wrong = np.flatnonzero(reached.any(1) & (counted != labels) & (predicted != labels))
    order = wrong[np.argsort(own[wrong], kind="stable")]
    return [LabelError(int(usable[i]), int(predicted[i]), float(own[i])) for i in order]
