"""Kernel ridge classification, whose regularisation is chosen by exact leave-one-out predictions while it is fitted.

Only imported to build or load a head, never for registering one.
"""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from autotl.heads.calibration import fit_temperature
from autotl.heads.inference import probabilities
from autotl.heads.ridge_path import Decomposition, decompose_features, decompose_gram, group_blocks

__all__ = ["ALPHAS", "KERNELS", "KernelRidgeClassifier"]

KERNELS = ("linear", "cosine", "rbf", "laplacian")
ALPHAS = np.geomspace(1e-3, 1e2, 30)
"""Regularisations that are compared, in units of the mean eigenvalue of the Gram matrix. At the lowest the eigenvalues
of float32 are right to a few percent of it; at the highest only the largest principal components are fitted."""
MAX_EXACT = 4000
"""Samples up to which the whole Gram matrix is decomposed."""
LANDMARKS = 2000
"""Samples that span the functions which are fitted to more samples than that."""
ROWS = 1024
"""Samples whose kernels are computed at a time."""


class KernelRidgeClassifier(ClassifierMixin, BaseEstimator):
    """Least squares on one-hot targets in a kernel's space: all classes and 30 regularisations from one decomposition.

    The regularisation is the one whose leave-one-out predictions have the least log loss after temperature scaling;
    that temperature is part of the decision function, so its softmax is calibrated. The predictions are exact for the
    standardised features: mean, deviation and the width of the kernel are those of all samples.

    Up to `MAX_EXACT` samples (or with fewer features than samples and a linear kernel) the solution is exact. Beyond,
    the functions are spanned by `LANDMARKS` random samples (Nyström: Williams and Seeger, NeurIPS 2000), and
    leave-one-out is exact for that space. Besides a standardised copy of the features that stay in the model, a fit
    needs at most 20 bytes for each pair of `MAX_EXACT` samples (320 MB), or 12 bytes for each pair of a sample and a
    landmark and 40 for each pair of landmarks. All that is float32 for float32 features, and twice as much for float64.
    float32 takes half the time; on the features of 900 photographs and 1,574 solar cells it chose the same
    regularisations, and moved no leave-one-out decision by more than 0.02 % of the largest.

    Args:
        kernel: "linear"; "cosine"; "rbf", exp(-γ‖x - z‖²); "laplacian", exp(-γ‖x - z‖) with the Euclidean norm (Belkin,
            Ma and Mandal, ICML 2018).
        width: γ in units of 1 / median(‖x - z‖², or ‖x - z‖); without effect for the other two.
        power: standardised features are raised to it, sign kept: below 1, outliers count less.
        class_weight: None, "balanced" or a dict, as in scikit-learn. The leave-one-out loss is weighted likewise.
        random_state: draws the landmarks.

    Attributes:
        alphas_, loo_log_losses_, loo_accuracies_: [30], the path: what was tried and how it did.
        alpha_: the chosen regularisation.
        loo_decision_: the decision function of the samples, each from a fit without its group. Not saved.
        out_of_fold_decision_: the same without its fold, where there are folds, for the chosen regularisation; NaN for
            the samples of no fold. Not saved.
    """

    def __init__(
        self,
        kernel: str = "rbf",
        width: float = 1.0,
        power: float = 1.0,
        class_weight: Any = None,
        random_state: int | None = None,
    ):
        self.kernel = kernel
        self.width = width
        self.power = power
        self.class_weight = class_weight
        self.random_state = random_state

    def fit(
        self, X: Any, y: Any, groups: np.ndarray | None = None, folds: np.ndarray | None = None
    ) -> "KernelRidgeClassifier":
        """Fit samples [n, num_features] with labels [n].

        Args:
            groups: [n]; samples of one group are left out together, to choose the regularisation.
            folds: [n]; samples of one fold are left out together, for `out_of_fold_decision_`. Negative: of no fold.
        """
        if self.kernel not in KERNELS:
            raise ValueError(f"kernel = {self.kernel!r} is invalid. Use one of {', '.join(KERNELS)}.")
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"All samples are of one class, {self.classes_[0]}. Kernel ridge needs two.")
        per_class = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
        weights = per_class[labels] / per_class[labels].mean()
        self.mean_ = X.mean(0, dtype=np.float64).astype(X.dtype)
        deviation = X.std(0, dtype=np.float64)
        self.scale_ = np.where(deviation > 0, deviation, 1.0).astype(X.dtype)
        decomposition, back = self._decompose(X, weights)

        targets = (labels[:, None] == np.arange(len(self.classes_))).astype(X.dtype)
        if len(self.classes_) == 2:
            targets = targets[:, 1:] - targets[:, :1]
        if groups is None or len(np.unique(groups)) < 2:
            groups = np.arange(len(X))
        self._choose(decomposition, targets, labels, weights, group_blocks(np.asarray(groups)))
        if folds is not None:
            left_out = [np.flatnonzero(folds == fold)[None] for fold in np.unique(folds[folds >= 0])]
            scores = targets - decomposition.residuals(targets, self.alpha_, left_out)
            self.out_of_fold_decision_ = self._decision(scores.astype(np.float64))
            self.out_of_fold_decision_[folds < 0] = np.nan
        coef, intercept = decomposition.coefficients(targets, self.alpha_)
        self.coef_ = np.ascontiguousarray((coef if back is None else back @ coef) / self.temperature_, X.dtype)
        self.intercept_ = np.asarray(intercept / self.temperature_, X.dtype)
        return self

    def _decompose(self, X: np.ndarray, weights: np.ndarray) -> tuple[Decomposition, np.ndarray | None]:
        """Sets `vectors_` (None for a linear function) and `gamma_`.

        Returns:
            the decomposition and, where its coefficients aren't those of `vectors_` or of the features, the matrix that
            turns them into those.
        """
        n, num_features = X.shape
        is_linear = self.kernel in ("linear", "cosine")
        self.vectors_, self.gamma_ = None, 1.0
        if is_linear and num_features <= min(n, LANDMARKS):
            return decompose_features(self._prepared(X), weights), None
        if n <= MAX_EXACT:
            vectors = self._prepared(X)
            gram = self._distances_or_products(vectors, vectors)
            if not is_linear:
                np.fill_diagonal(gram, 0.0)
                self._set_gamma(gram)
                self.vectors_ = vectors
            return decompose_gram(self._kernel(gram), weights), vectors.T if is_linear else None
        drawn = np.random.default_rng(self.random_state).permutation(n)[:LANDMARKS]
        vectors = self._prepared(X[np.sort(drawn)])
        gram = self._distances_or_products(vectors, vectors)
        if not is_linear:
            np.fill_diagonal(gram, 0.0)
            self._set_gamma(gram)
            self.vectors_ = vectors
        back = _inverse_root(self._kernel(gram).astype(np.float64)).astype(X.dtype)
        mapped = np.empty((n, back.shape[1]), X.dtype)
        for i in range(0, n, ROWS):
            products = self._distances_or_products(self._prepared(X[i : i + ROWS]), vectors)
            mapped[i : i + ROWS] = self._kernel(products) @ back
        return decompose_features(mapped, weights), vectors.T @ back if is_linear else back

    def _choose(
        self, decomposition: Decomposition, targets: np.ndarray, labels: np.ndarray, weights: np.ndarray, blocks: Any
    ) -> None:
        """Score the path. Sets `alpha_`, `temperature_` and what reports read."""
        self.alphas_ = ALPHAS * max(float(decomposition.values.sum()) / len(targets), 1e-12)
        losses, accuracies, least = [], [], np.inf
        for alpha in self.alphas_.tolist():
            scores = (targets - decomposition.residuals(targets, alpha, blocks)).astype(np.float64)
            logits = scores if scores.shape[1] > 1 else scores * [-0.5, 0.5]
            temperature = fit_temperature(logits, labels, weights)
            of_label = probabilities(logits, temperature)[np.arange(len(labels)), labels]
            losses.append(float(-(weights @ np.log(np.maximum(of_label, 1e-15))) / weights.sum()))
            accuracies.append(float(weights @ (logits.argmax(1) == labels) / weights.sum()))
            if losses[-1] < least:
                least, self.alpha_, self.temperature_ = losses[-1], alpha, temperature
                self.loo_decision_ = self._decision(scores)
        self.loo_log_losses_, self.loo_accuracies_ = np.array(losses), np.array(accuracies)

    def _decision(self, scores: np.ndarray) -> np.ndarray:
        """The decision function from scores [n, 1] or [n, num_classes]."""
        return (scores if scores.shape[1] > 1 else scores[:, 0]) / self.temperature_

    def decision_function(self, X: Any) -> np.ndarray:
        """Calibrated logits: [n] for two classes, positive for the second; else [n, num_classes]."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        scores = np.empty((len(X), len(self.intercept_)))
        for i in range(0, len(X), ROWS):
            rows = self._prepared(X[i : i + ROWS])
            if self.vectors_ is not None:
                rows = self._kernel(self._distances_or_products(rows, self.vectors_))
            scores[i : i + ROWS] = rows @ self.coef_ + self.intercept_
        return scores if scores.shape[1] > 1 else scores[:, 0]

    def predict(self, X: Any) -> np.ndarray:
        decision = self.decision_function(X)
        return self.classes_[(decision > 0).astype(int) if decision.ndim == 1 else decision.argmax(1)]

    def _prepared(self, X: np.ndarray) -> np.ndarray:
        rows = (X - self.mean_) / self.scale_
        if self.power != 1.0:
            rows = np.sign(rows) * np.abs(rows) ** self.power
        if self.kernel == "cosine":
            rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return rows

    def _distances_or_products(self, rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """[n, m]: products for a linear kernel, else squared distances or distances. One matrix product either way."""
        products = rows @ vectors.T
        if self.kernel in ("linear", "cosine"):
            return products
        products *= -2
        products += np.einsum("ij,ij->i", rows, rows)[:, None]
        products += np.einsum("ij,ij->i", vectors, vectors)
        np.maximum(products, 0, out=products)
        return np.sqrt(products, out=products) if self.kernel == "laplacian" else products

    def _set_gamma(self, distances: np.ndarray) -> None:
        few = distances[:: max(1, len(distances) // 500)]
        self.gamma_ = float(self.width / max(float(np.median(few)), 1e-12))

    def _kernel(self, distances: np.ndarray) -> np.ndarray:
        """The kernel from `_distances_or_products`, in its place."""
        if self.kernel in ("linear", "cosine"):
            return distances
        distances *= -self.gamma_
        return np.exp(distances, out=distances)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name not in ("loo_decision_", "out_of_fold_decision_")}


def _inverse_root(gram: np.ndarray) -> np.ndarray:
    """[m, r]: a matrix whose product with its own transpose is the pseudo-inverse of `gram` [m, m]."""
    from scipy.linalg import eigh

    values, vectors = eigh(gram, overwrite_a=True, check_finite=False, driver="evd")
    kept = values > 1e-6 * values[-1]  # float32 kernels are no more exact
    return vectors[:, kept] / np.sqrt(values[kept])
