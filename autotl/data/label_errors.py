"""Which labels are likely wrong, from out-of-fold probabilities. Arrays in, arrays out."""

from dataclasses import dataclass

import numpy as np

__all__ = ["LabelError", "likely_errors"]

SHARE_OF_CHANCE = 0.35
"""An image is named if its label's probability is below this share of 1 / num_classes. Set on flipped labels of five
data sets (`tests/bench/label_errors.py`)."""


@dataclass(frozen=True)
class LabelError:
    """An image whose label is likely wrong."""

    image: int
    """Its row."""
    suggested: int
    """The class that is predicted for it."""
    score: float
    """Probability of the given label: the lower, the likelier the error."""


def likely_errors(labels: np.ndarray, probabilities: np.ndarray) -> list[LabelError]:
    """The images that are predicted as another class and whose label has next to no probability, the likeliest errors
    first.

    The order is that of confident learning, by the probability of the label (Northcutt, Jiang and Chuang, Confident
    Learning, JAIR 2021; cleanlab's `self_confidence`). Its choice of images isn't taken: where classes are hard to tell
    apart, it names three sound labels for each wrong one.

    Args:
        labels: [n].
        probabilities: [n, num_classes], each row of a model that wasn't trained on the image. Rows with NaN are left
            out.
    """
    usable = np.flatnonzero(np.isfinite(probabilities).all(1))
    labels, rows = np.asarray(labels)[usable], np.asarray(probabilities, np.float64)[usable]
    if not len(usable):
        return []
    own, predicted = rows[np.arange(len(rows)), labels], rows.argmax(1)
    wrong = np.flatnonzero((own < SHARE_OF_CHANCE / rows.shape[1]) & (predicted != labels))
    order = wrong[np.argsort(own[wrong], kind="stable")]
    return [LabelError(int(usable[i]), int(predicted[i]), float(own[i])) for i in order]
