"""Scores of predicted probabilities. Functions take arrays and return a number; scikit-learn computes most of them."""

import math
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from autotl.errors import MetricError

if TYPE_CHECKING:
    from autotl.registration import Register

__all__ = ["Metric", "all_scores", "majority_baseline"]


@dataclass(frozen=True)
class Metric:
    """A named score that a search can optimise.

    `compute(labels, probabilities)` takes int64 [n] and float64 [n, num_classes], and returns one finite number. A
    class may be missing from `labels`.

    >>> labels, probabilities = np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    >>> round(accuracy(labels, probabilities), 3)
    0.667
    >>> top_score = Metric("top_score", lambda labels, probabilities: probabilities.max(1).mean())
    >>> round(top_score(labels, probabilities), 3), top_score.direction
    (0.767, 'maximize')
    """

    name: str
    compute: Callable[[np.ndarray, np.ndarray], float]
    greater_is_better: bool = True

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """The direction of optimisation, as Optuna names it."""
        return "maximize" if self.greater_is_better else "minimize"

    def better(self, a: float, b: float) -> bool:
        """Whether score `a` is better than score `b`; an equal score is not."""
        return a > b if self.greater_is_better else a < b

    def __call__(self, labels: np.ndarray, probabilities: np.ndarray) -> float:
        """The score.

        Raises:
            MetricError: the score is NaN or infinite.
        """
        with warnings.catch_warnings():  # scikit-learn warns of a class that a small subset lacks, at each epoch
            warnings.simplefilter("ignore")
            score = float(self.compute(labels, probabilities))
        if not math.isfinite(score):
            raise MetricError(
                f"The metric {self.name!r} returned {score} for {len(labels):,} images. A score must be a finite "
                "number: correct the metric, or choose another with --metric."
            )
        return score


def accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Share of images whose most probable class is right.

    >>> accuracy(np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]]))
    0.5
    """
    return float((probabilities.argmax(1) == labels).mean())


def balanced_accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean recall over the classes that `labels` has.

    >>> balanced_accuracy(np.array([0, 0, 0, 1]), np.array([[0.9, 0.1]] * 4))
    0.5
    """
    from sklearn.metrics import balanced_accuracy_score

    return float(balanced_accuracy_score(labels, probabilities.argmax(1)))


def macro_f1(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Unweighted mean of the classes' F1 scores.

    >>> macro_f1(np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]))
    1.0
    """
    from sklearn.metrics import f1_score

    return float(f1_score(labels, probabilities.argmax(1), average="macro"))


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative logarithm of the probability of the right class.

    >>> round(log_loss(np.array([0, 1]), np.array([[0.5, 0.5], [0.5, 0.5]])), 4)
    0.6931
    """
    from sklearn.metrics import log_loss as compute

    return float(compute(labels, probabilities, labels=np.arange(probabilities.shape[1])))


def auroc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Area under the ROC curve.

    For more than two classes: the mean of one class against the rest, over the classes that `labels` has and that are
    not its only class.

    >>> auroc(np.array([0, 0, 1, 1]), np.array([[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]]))
    0.75
    """
    from sklearn.metrics import roc_auc_score

    if probabilities.shape[1] == 2:
        return float(roc_auc_score(labels, probabilities[:, 1]))
    present = [c for c in np.unique(labels) if 0 < (labels == c).sum() < len(labels)]
    return float(np.mean([roc_auc_score(labels == c, probabilities[:, c]) for c in present]))


BUILT_IN = (
    *(Metric(compute.__name__, compute) for compute in (accuracy, balanced_accuracy, macro_f1, auroc)),
    Metric("log_loss", log_loss, greater_is_better=False),
)
REPORTED = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")
"""Metrics that `all_scores` computes."""


def autotl_register_metrics(register: "Register[Metric]") -> None:
    """Register the built-in metrics."""
    for metric in BUILT_IN:
        register(metric)


def all_scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """The scores that `result.json` and `autotl evaluate` report, whichever metric a search optimises, and the number
    of images, `n`. A score that is NaN or infinite is left out.

    >>> scores = all_scores(np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]]))
    >>> scores["accuracy"], scores["n"]
    (0.5, 2)
    """
    scores: dict[str, float] = {}
    for metric in BUILT_IN:
        if metric.name in REPORTED:
            with suppress(MetricError):
                scores[metric.name] = metric(labels, probabilities)
    return scores | {"n": len(labels)}


def majority_baseline(train_labels: np.ndarray, labels: np.ndarray, num_classes: int) -> dict[str, float]:
    """`all_scores` of a classifier that predicts the class frequencies of the training images for every image.

    >>> majority_baseline(np.array([0, 1, 1, 1]), np.array([0, 1]), 2)["accuracy"]
    0.5
    """
    frequencies = np.bincount(train_labels, minlength=num_classes) / len(train_labels)
    return all_scores(labels, np.tile(frequencies, (len(labels), 1)))
