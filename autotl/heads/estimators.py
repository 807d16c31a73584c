"""Estimators that scikit-learn lacks. Only imported to build or load a head, never for registering one."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from sklearn.utils.validation import check_is_fitted, validate_data

__all__ = ["Components", "GramSVC", "Neighbours"]


class GramSVC(ClassifierMixin, BaseEstimator):
    """`SVC(kernel="rbf")` whose kernel matrix is computed by one matrix product.

    libsvm computes the kernel one pair of samples at a time: 7 s for 1,574 samples of 4,192 features, for which BLAS
    takes half a second. The solution is the same. The whole matrix is held in memory during the fit (8 bytes per pair
    of samples), and only the support vectors after it. Ties of votes are broken as with `SVC(break_ties=True)`.

    Args:
        gamma: a number, or "scale" as in SVC.
    """

    def __init__(
        self,
        C: float = 1.0,
        gamma: float | str = "scale",
        class_weight: Any = None,
        random_state: int | None = None,
    ):
        self.C = C
        self.gamma = gamma
        self.class_weight = class_weight
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "GramSVC":
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        variance = float(X.var(dtype=np.float64))
        self.gamma_ = 1.0 / (X.shape[1] * (variance or 1.0)) if self.gamma == "scale" else self.gamma
        svc = SVC(C=self.C, kernel="precomputed", class_weight=self.class_weight, random_state=self.random_state)
        svc.fit(rbf_kernel(X, gamma=self.gamma_), y)
        self.classes_ = svc.classes_
        self.support_vectors_ = X[svc.support_]
        self.n_support_ = svc.n_support_
        self.dual_coef_ = svc.dual_coef_
        self.intercept_ = svc.intercept_
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """As SVC's: [n] for two classes, positive for the second; else one-vs-rest scores [n, num_classes]."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        kernel = rbf_kernel(X, self.support_vectors_, gamma=self.gamma_).astype(np.float64, copy=False)
        if len(self.classes_) == 2:
            return kernel @ self.dual_coef_[0] + self.intercept_[0]
        return self._one_vs_rest(kernel)

    def predict(self, X: Any) -> np.ndarray:
        decision = self.decision_function(X)
        return self.classes_[(decision > 0).astype(int) if decision.ndim == 1 else decision.argmax(1)]

    def _one_vs_rest(self, kernel: np.ndarray) -> np.ndarray:
        """The votes of the one-vs-one decisions, plus a confidence of less than half a vote: SVC's
        `decision_function_shape="ovr"`.

        Support vectors are ordered by class. For a support vector of class c, `dual_coef_` holds its coefficients
        against the other classes, in their order without c (libsvm's layout, see scikit-learn's user guide on SVC).
        """
        num_classes = len(self.classes_)
        ends = np.cumsum(self.n_support_)
        contributions = [
            kernel[:, end - n : end] @ self.dual_coef_[:, end - n : end].T
            for end, n in zip(ends, self.n_support_, strict=True)
        ]
        votes, confidences = np.zeros((2, len(kernel), num_classes))
        pair = 0
        for i in range(num_classes):
            for j in range(i + 1, num_classes):
                decision = contributions[i][:, j - 1] + contributions[j][:, i] + self.intercept_[pair]
                votes[:, i] += decision >= 0
                votes[:, j] += decision < 0
                confidences[:, i] += decision
                confidences[:, j] -= decision
                pair += 1
        return votes + confidences / (3 * (np.abs(confidences) + 1))


class Components(TransformerMixin, BaseEstimator):
    """PCA to `n_components`, or fewer where there are fewer samples or features."""

    def __init__(self, n_components: int = 64, random_state: int | None = None):
        self.n_components = n_components
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "Components":
        X = validate_data(self, X, dtype=[np.float64, np.float32])
        self.pca_ = PCA(min(self.n_components, *X.shape), random_state=self.random_state).fit(X)
        return self

    def transform(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return self.pca_.transform(validate_data(self, X, dtype=[np.float64, np.float32], reset=False))


class Neighbours(ClassifierMixin, BaseEstimator):
    """k nearest neighbours weighted by distance; with fewer than k samples, all of them."""

    def __init__(self, n_neighbors: int = 5, metric: str = "euclidean"):
        self.n_neighbors = n_neighbors
        self.metric = metric

    def fit(self, X: Any, y: Any) -> "Neighbours":
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        self.knn_ = KNeighborsClassifier(
            min(self.n_neighbors, len(X)), weights="distance", algorithm="brute", metric=self.metric, n_jobs=1
        ).fit(X, y)
        self.classes_ = self.knn_.classes_
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return self.knn_.predict_proba(validate_data(self, X, dtype=[np.float64, np.float32], reset=False))

    def predict(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(1)]

    def graded_votes(self, X: Any) -> np.ndarray:
        """Logarithms of votes of all training samples, [n, num_classes], each vote weighted by a Gaussian of its
        distance whose width is that of the k-th nearest. Unlike the votes of k neighbours they change with every
        feature, which is what an explanation needs; they aren't what `predict_proba` answers."""
        from scipy.special import logsumexp
        from sklearn.metrics import pairwise_distances

        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        distances = pairwise_distances(X, self.knn_._fit_X, metric=self.metric)
        k = self.knn_.n_neighbors
        width = float(np.mean(np.partition(distances, k - 1, axis=1)[:, k - 1])) or 1.0
        votes = -0.5 * (distances / width) ** 2
        of_class = [votes[:, self.knn_._y == number] for number in range(len(self.classes_))]
        return np.stack([logsumexp(part, axis=1) for part in of_class], axis=1)
