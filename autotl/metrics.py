"""Scores of predicted probabilities. Functions take arrays and return a number; scikit-learn computes most of them."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from autotl.errors import MetricError

if TYPE_CHECKING:
    from autotl.registration import Register

__all__ = ["Interval", "Metric", "Z", "all_scores", "confidence_intervals", "majority_baseline", "wilson_interval"]

Z = 1.959964
"""Standard errors from the middle of a 95 % interval to its ends."""


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
            MetricError: the score is NaN, infinite or not a number, or `compute` raised an error.
        """
        try:
            with warnings.catch_warnings():  # scikit-learn warns of a class that a small subset lacks, at each epoch
                warnings.simplefilter("ignore")
                # of copies: a metric that sorts or scales in place would change what the model predicts
                score = float(self.compute(labels.copy(), probabilities.copy()))
            if math.isfinite(score):
                return score
            outcome, cause = f"returned {score}", None
        except Exception as error:
            outcome, cause = f"raised {type(error).__name__} ({error})", error
        num_classes = len(np.unique(labels))
        raise MetricError(
            f"The metric {self.name!r} {outcome} for {len(labels):,} images of {num_classes:,} "
            f"class{'es' if num_classes != 1 else ''}. A score must be a finite number: correct the metric, or choose "
            "another with --metric."
        ) from cause

    def score_or_nan(self, labels: np.ndarray, probabilities: np.ndarray) -> float:
        """The score, or NaN where the metric has none for these images: those of a small sample may lack a class.

        >>> auroc_metric = Metric("auroc", auroc)
        >>> auroc_metric.score_or_nan(np.array([1, 1]), np.array([[0.2, 0.8], [0.4, 0.6]]))
        nan
        """
        try:
            return self(labels, probabilities)
        except MetricError:
            return math.nan


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
    hits, actual, _ = _counts(labels, probabilities)
    return float((hits[actual > 0] / actual[actual > 0]).mean())


def macro_f1(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Unweighted mean of the F1 scores of the classes that `labels` has or that are predicted.

    >>> macro_f1(np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]))
    1.0
    """
    hits, actual, predicted = _counts(labels, probabilities)
    total = actual + predicted
    return float((2 * hits[total > 0] / total[total > 0]).mean())


def _counts(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By class: how many images of it are predicted right, how many there are, and how many are predicted as it.

    scikit-learn's metrics take 3 ms for what takes 20 µs here, and intervals need hundreds of scores.
    """
    predicted, n = probabilities.argmax(1), probabilities.shape[1]
    hits = np.bincount(labels[predicted == labels], minlength=n)
    return hits, np.bincount(labels, minlength=n), np.bincount(predicted, minlength=n)


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative logarithm of the probability of the right class.

    >>> round(log_loss(np.array([0, 1]), np.array([[0.5, 0.5], [0.5, 0.5]])), 4)
    0.6931
    """
    of_label = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(of_label, np.finfo(probabilities.dtype).eps)).mean())


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
MANY_IMAGES = 10_000
"""Images above which fewer bootstrap samples are drawn: scores of that many hardly vary."""


def autotl_register_metrics(register: "Register[Metric]") -> None:
    """Register the built-in metrics."""
    for metric in BUILT_IN:
        register(metric)


def all_scores(labels: np.ndarray, probabilities: np.ndarray, asked: Metric | None = None) -> dict[str, float]:
    """The scores that `result.json` and `autotl evaluate` report, and the number of images, `n`.

    Args:
        labels: int64 [n].
        probabilities: float64 [n, num_classes].
        asked: the metric that a search optimises. Its score comes first.

    Returns:
        The scores by name. One that is NaN or infinite is left out.

    >>> scores = all_scores(np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]]))
    >>> scores["accuracy"], scores["n"]
    (0.5, 2)
    """
    metrics = {metric.name: metric for metric in BUILT_IN if metric.name in REPORTED}
    if asked is not None:
        metrics = {asked.name: asked} | metrics | {asked.name: asked}
    scores = {name: metric.score_or_nan(labels, probabilities) for name, metric in metrics.items()}
    return {name: score for name, score in scores.items() if not math.isnan(score)} | {"n": len(labels)}


@dataclass(frozen=True)
class Interval:
    """How exactly some images tell a score: of other images of the same kind it would have differed."""

    standard_error: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    method: Literal["Wilson", "bootstrap"]


def _bootstrap_scores(labels: np.ndarray, probabilities: np.ndarray, metric: Metric, samples: int = 200) -> np.ndarray:
    """Scores of bootstrap samples of the images, as far as the metric has one for a sample: at most `samples`."""
    rng = np.random.default_rng(0)
    drawn = (rng.integers(len(labels), size=len(labels)) for _ in range(samples))
    scores = np.array([metric.score_or_nan(labels[sample], probabilities[sample]) for sample in drawn])
    finite: np.ndarray = scores[~np.isnan(scores)]
    return finite


def confidence_intervals(
    labels: np.ndarray, probabilities: np.ndarray, asked: Metric | None = None
) -> dict[str, Interval]:
    """95 % intervals of what `all_scores` computes: of accuracy by Wilson's method (JASA 1927), which holds near 0 and
    1 too, of other scores the percentiles of bootstrap samples (Efron, 1979).

    >>> labels, right = np.zeros(100, int), np.tile([0.9, 0.1], (100, 1))
    >>> interval = confidence_intervals(labels, right)["accuracy"]
    >>> round(interval.low, 3), round(interval.high, 3), interval.method
    (0.963, 1.0, 'Wilson')
    """
    metrics = {metric.name: metric for metric in BUILT_IN if metric.name in REPORTED}
    if asked is not None:
        metrics[asked.name] = asked
    samples = 200 if len(labels) <= MANY_IMAGES else 50
    intervals: dict[str, Interval] = {}
    for name, metric in metrics.items():
        if metric.compute is accuracy:
            low, high = wilson_interval(accuracy(labels, probabilities), len(labels))
            intervals[name] = Interval((high - low) / (2 * Z), low, high, "Wilson")
            continue
        scores = _bootstrap_scores(labels, probabilities, metric, samples)
        if len(scores) > samples / 2:
            low, high = np.percentile(scores, [2.5, 97.5])
            intervals[name] = Interval(float(scores.std()), float(low), float(high), "bootstrap")
    return intervals


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a share of `n` images (Wilson, JASA 1927).

    >>> low, high = wilson_interval(0.88, 100)
    >>> round(low, 3), round(high, 3)
    (0.802, 0.93)
    """
    if n == 0:
        return 0.0, 1.0
    centre = share + Z * Z / (2 * n)
    spread = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    scale = 1 + Z * Z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def majority_baseline(
    train_labels: np.ndarray, labels: np.ndarray, num_classes: int, asked: Metric | None = None
) -> dict[str, float]:
    """`all_scores` of a classifier that predicts the class frequencies of the training images for every image.

    Of classes that are equally frequent in training, the one that `labels` has most images of is the most probable: any
    other choice could score below chance.

    >>> majority_baseline(np.array([0, 1, 1, 1]), np.array([0, 1]), 2)["accuracy"]
    0.5
    >>> majority_baseline(np.array([0, 0, 1, 1]), np.array([0, 1, 1]), 2)["accuracy"] > 0.5
    True
    """
    trained, given = (np.bincount(some, minlength=num_classes) for some in (train_labels, labels))
    frequencies = trained / len(train_labels)
    majority = np.lexsort((given, trained))[-1]
    frequencies[majority] *= 1 + 1e-9  # a tie is otherwise decided for the first class
    return all_scores(labels, np.tile(frequencies / frequencies.sum(), (len(labels), 1)), asked)
