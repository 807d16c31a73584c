"""Transferability scores: how well a frozen network's features suit the labels, in one number and without training.

All are greater for a network that should transfer better. `features` are those of a network's output. `source_logits`
are the answers of the head that the network was pretrained with, where it has one. Formulas: x is a sample's feature
vector, y its class, n the number of samples, C that of classes.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from autotl.registration import Register

__all__ = ["BUILT_IN", "Score", "loo_neighbours", "loo_ridge", "standardised"]

NUM_NEIGHBOURS = 5
MAX_ITERATIONS = 100
"""Of LogME's fixed point, which usually takes fewer than ten."""


@dataclass(frozen=True)
class Score:
    """A named transferability score; greater is better.

    `compute(features, labels, source_logits)` takes float64 [n, num_features], int64 [n], and float64
    [n, num_source_classes] or None, and returns a number: finite, or NaN where it has none for these samples, such as
    one that needs source logits for a network without its head.

    >>> spread = Score("spread", lambda features, labels, source_logits: features.std())
    >>> spread(np.array([[0.0], [2.0]]), np.array([0, 1]))
    1.0
    """

    name: str
    compute: Callable[[np.ndarray, np.ndarray, np.ndarray | None], float]

    def __call__(
        self, features: np.ndarray, labels: np.ndarray, source_logits: np.ndarray | None = None
    ) -> float | None:
        """The score; None where it has none for these samples, or raised an exception."""
        try:
            with np.errstate(all="ignore"):
                value = float(self.compute(features, labels, source_logits))
        except Exception:  # a plugin's score only informs: it ends neither `autotl align` nor a search
            return None
        return value if math.isfinite(value) else None


def standardised(features: np.ndarray) -> np.ndarray:
    """Each feature [n, d] with mean 0 and deviation 1, float64; a constant one is 0."""
    centred = features - features.mean(0, dtype=np.float64)
    deviation = centred.std(0)
    return centred / np.where(deviation > 0, deviation, 1.0)


def loo_neighbours(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None, k: int = NUM_NEIGHBOURS
) -> np.ndarray:
    """The class that each sample's nearest neighbours vote for, [n]; -1 where a sample has no neighbour.

    Neighbours are near by the cosine of their standardised features. Of classes with equally many votes, that of the
    nearest voter wins.

    Args:
        groups: samples of one group are no neighbours; without them only a sample itself is none.
    """
    rows = standardised(features)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    similarity = rows @ rows.T
    groups = np.arange(len(labels)) if groups is None else groups
    similarity[groups[:, None] == groups[None]] = -np.inf
    k = min(k, len(labels) - 1)
    if k < 1:
        return np.full(len(labels), -1)
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    is_neighbour = np.isfinite(np.take_along_axis(similarity, nearest, axis=1))
    votes = np.zeros((len(labels), int(labels.max()) + 1))
    for rank in range(k):  # a later vote is worth a little less, which decides ties for the nearest
        weight = np.where(is_neighbour[:, rank], 1.0 - 1e-3 * rank / k, 0.0)
        votes[np.arange(len(labels)), labels[nearest[:, rank]]] += weight
    return np.where(votes.max(1) > 0, votes.argmax(1), -1)


def loo_ridge(features: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """The class of each sample [n] that ridge regression predicts without the sample (and its group). See
    `autotl.heads.kernel_ridge` for how the regularisation is chosen. Classes are those that `labels` has."""
    from autotl.heads.kernel_ridge import KernelRidgeClassifier

    classes = np.unique(labels)
    if len(classes) < 2:
        return labels.copy()
    head = KernelRidgeClassifier(kernel="linear", power=0.5, random_state=0).fit(features, labels, groups)
    decision = head.loo_decision_
    return classes[(decision > 0).astype(int) if decision.ndim == 1 else decision.argmax(1)]


def knn(features: np.ndarray, labels: np.ndarray, source_logits: np.ndarray | None) -> float:
    """Leave-one-out accuracy of the 5 nearest neighbours: (1/n) Σᵢ [yᵢ = vote of the neighbours of xᵢ] (Cover and Hart,
    Nearest neighbor pattern classification, IEEE Transactions on Information Theory 1967)."""
    return float((loo_neighbours(features, labels) == labels).mean())


def ridge_loo(features: np.ndarray, labels: np.ndarray, source_logits: np.ndarray | None) -> float:
    """Leave-one-out accuracy of ridge regression on one-hot targets: the prediction of sample i without itself is
    yᵢ - rᵢ / (1 - Hᵢᵢ), with the residuals r and the hat matrix H of the fit to all samples (Rifkin and Lippert, Notes
    on Regularized Least Squares, MIT-CSAIL-TR-2007-025)."""
    return float((loo_ridge(features, labels) == labels).mean())


def logme(features: np.ndarray, labels: np.ndarray, source_logits: np.ndarray | None) -> float:
    """Logarithm of maximum evidence: the mean over the classes of max over α, β of (1/n) log p(y | F, α, β), for a
    linear model of the class's one-hot labels y with prior precision α and noise precision β (You et al., LogME,
    ICML 2021):

        log p = (d/2) log α + (n/2) log β - (1/2) log|A| - (β/2)‖Fm - y‖² - (α/2)‖m‖² - (n/2) log 2π,

    with A = αI + βFᵀF and m = βA⁻¹Fᵀy.
    """
    rows = features.astype(np.float64)
    u, s, _ = np.linalg.svd(rows, full_matrices=False)
    squares = s**2
    evidences = [_evidence(u, squares, (labels == c).astype(np.float64), rows.shape) for c in np.unique(labels)]
    return float(np.mean(evidences))


def _evidence(u: np.ndarray, squares: np.ndarray, y: np.ndarray, shape: tuple[int, int]) -> float:
    """The greatest evidence of one class by MacKay's fixed point, for each sample."""
    n, d = shape
    projected = (u.T @ y) ** 2
    outside = max(float(y @ y - projected.sum()), 0.0)  # of the labels, which no linear function fits
    alpha = beta = 1.0
    for _ in range(MAX_ITERATIONS):
        ratio = alpha / beta
        gamma = float((squares / (ratio + squares)).sum())
        norm = float((squares * projected / (ratio + squares) ** 2).sum())  # ‖m‖²
        residual = float((projected * (ratio / (ratio + squares)) ** 2).sum()) + outside
        alpha, beta = gamma / max(norm, 1e-12), max(n - gamma, 1e-12) / max(residual, 1e-12)
        if abs(alpha / beta - ratio) <= 1e-3 * ratio:
            break
    ratio = alpha / beta
    norm = float((squares * projected / (ratio + squares) ** 2).sum())
    residual = float((projected * (ratio / (ratio + squares)) ** 2).sum()) + outside
    log_determinant = float(np.log(alpha + beta * squares).sum()) + (d - len(squares)) * math.log(alpha)
    evidence = d * math.log(alpha) + n * math.log(beta) - log_determinant - beta * residual - alpha * norm
    return (evidence - n * math.log(2 * math.pi)) / (2 * n)


def h_score(features: np.ndarray, labels: np.ndarray, source_logits: np.ndarray | None) -> float:
    """H-score: tr(cov(x)⁻¹ cov(E[x | y])) (Bao et al., An information-theoretic approach to transferability, ICIP
    2019), with cov(x) shrunk to a multiple of the identity by Ledoit and Wolf's share λ, and the trace times 1 - λ
    (Ibrahim et al., Newer is not always better, ECML PKDD 2022): without that it is C - 1 for any features that
    outnumber the samples."""
    from sklearn.covariance import ledoit_wolf

    rows = features - features.mean(0, dtype=np.float64)
    covariance, shrinkage = ledoit_wolf(rows, assume_centered=True)
    classes, counts = np.unique(labels, return_counts=True)
    means = np.stack([rows[labels == c].mean(0) for c in classes]) * np.sqrt(counts / len(labels))[:, None]
    ridge = 1e-9 * max(float(np.trace(covariance)) / len(covariance), 1e-12)
    solved = np.linalg.solve(covariance + ridge * np.eye(len(covariance)), means.T)
    return float((1 - shrinkage) * np.sum(means.T * solved))


def nce(features: np.ndarray, labels: np.ndarray, source_logits: np.ndarray | None) -> float:
    """Negative conditional entropy of the classes given the source head's answers z = argmax of the logits:
    Σ p(y, z) log p(y | z), natural logarithm (Tran, Nguyen and Hassner, Transferability and hardness of supervised
    classification tasks, ICCV 2019)."""
    if source_logits is None:
        return math.nan
    joint = _joint(np.eye(source_logits.shape[1])[source_logits.argmax(1)], labels)
    given = joint / np.maximum(joint.sum(0), 1e-300)
    return float((joint[joint > 0] * np.log(given[joint > 0])).sum())


def leep(features: np.ndarray, labels: np.ndarray, source_logits: np.ndarray | None) -> float:
    """Log expected empirical prediction: (1/n) Σᵢ log Σ_z p(yᵢ | z) θ(xᵢ)_z, with the source head's probabilities θ and
    p(y | z) = p(y, z) / p(z) from p(y, z) = (1/n) Σ_{i: yᵢ = y} θ(xᵢ)_z (Nguyen et al., LEEP, ICML 2020)."""
    if source_logits is None:
        return math.nan
    from scipy.special import softmax

    theta = softmax(source_logits, axis=1)
    joint = _joint(theta, labels)
    given = joint / np.maximum(joint.sum(0), 1e-300)
    _, index = np.unique(labels, return_inverse=True)
    expected = (theta * given[index]).sum(1)
    return float(np.log(np.maximum(expected, 1e-300)).mean())


def _joint(theta: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """p(y, z) [C, number of source classes], from the probabilities of the source classes [n, …]."""
    return np.stack([theta[labels == c].sum(0) for c in np.unique(labels)]) / len(labels)


BUILT_IN: Mapping[str, Score] = {
    score.name: score
    for score in (
        Score("knn", knn),
        Score("ridge_loo", ridge_loo),
        Score("logme", logme),
        Score("h_score", h_score),
        Score("nce", nce),
        Score("leep", leep),
    )
}
"""The scores that are registered, by name."""


def autotl_register_scores(register: "Register[Score]") -> None:
    for score in BUILT_IN.values():
        register(score)
