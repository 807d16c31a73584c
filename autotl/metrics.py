"""Scores of predicted probabilities. Arrays in, one float out; scikit-learn computes them."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from autotl.registration import Register

__all__ = ["Metric", "all_scores", "majority_baseline"]


@dataclass(frozen=True)
class Metric:
    """`compute(labels [n], probabilities [n, num_classes])`; a class may be missing from `labels`."""

    name: str
    compute: Callable[[np.ndarray, np.ndarray], float]
    greater_is_better: bool = True

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        return "maximize" if self.greater_is_better else "minimize"

    def better(self, a: float, b: float) -> bool:
        return a > b if self.greater_is_better else a < b

    def __call__(self, labels: np.ndarray, probabilities: np.ndarray) -> float:
        with warnings.catch_warnings():  # a class missing from a small part is no news each epoch
            warnings.simplefilter("ignore")
            return float(self.compute(labels, probabilities))


def accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    return float((probabilities.argmax(1) == labels).mean())


def balanced_accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    from sklearn.metrics import balanced_accuracy_score

    return balanced_accuracy_score(labels, probabilities.argmax(1))


def macro_f1(labels: np.ndarray, probabilities: np.ndarray) -> float:
    from sklearn.metrics import f1_score

    return f1_score(labels, probabilities.argmax(1), average="macro")


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    from sklearn.metrics import log_loss as compute

    return compute(labels, probabilities, labels=np.arange(probabilities.shape[1]))


def auroc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """One class against the rest, averaged over the classes that are present (and aren't all there is)."""
    from sklearn.metrics import roc_auc_score

    if probabilities.shape[1] == 2:
        return roc_auc_score(labels, probabilities[:, 1])
    present = [c for c in np.unique(labels) if 0 < (labels == c).sum() < len(labels)]
    return float(np.mean([roc_auc_score(labels == c, probabilities[:, c]) for c in present]))


def autotl_register_metrics(register: "Register[Metric]") -> None:
    for compute in (accuracy, balanced_accuracy, macro_f1, auroc):
        register(Metric(compute.__name__, compute))
    register(Metric("log_loss", log_loss, greater_is_better=False))


def all_scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """The scores that `result.json` and `autotl evaluate` report, whatever the search optimised."""
    scores = {f.__name__: float(f(labels, probabilities)) for f in (accuracy, balanced_accuracy, macro_f1, log_loss)}
    return scores | {"n": len(labels)}


def majority_baseline(train_labels: np.ndarray, labels: np.ndarray, num_classes: int) -> dict[str, float]:
    """What always answering the training images' class frequencies scores: the honest zero."""
    frequencies = np.bincount(train_labels, minlength=num_classes) / len(train_labels)
    return all_scores(labels, np.tile(frequencies, (len(labels), 1)))
