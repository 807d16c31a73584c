"""Scikit-learn estimators that scikit-learn lacks. Imported by what builds or loads one, never by the registry."""

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
    """`SVC(kernel="rbf")` whose kernel comes from one matrix product.

    libsvm computes its kernel one pair of rows at a time: 7 s for 1,574 rows of 4,192 features that BLAS does in half
    a second. Same solution; the whole matrix is kept while fitting (8 bytes for each pair of rows), the support
    vectors alone after it. A tie of votes goes to the larger decision, as with `SVC(break_ties=True)`.

    `gamma` is a number, or "scale" as in SVC.
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
        """[n] for two classes, positive for the second; else [n, num_classes], one against the rest, as SVC's."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        kernel = rbf_kernel(X, self.support_vectors_, gamma=self.gamma_).astype(np.float64, copy=False)
        if len(self.classes_) == 2:
            return kernel @ self.dual_coef_[0] + self.intercept_[0]
        return self._one_against_rest(kernel)

    def predict(self, X: Any) -> np.ndarray:
        decision = self.decision_function(X)
        return self.classes_[(decision > 0).astype(int) if decision.ndim == 1 else decision.argmax(1)]

    def _one_against_rest(self, kernel: np.ndarray) -> np.ndarray:
        """Votes of the one-vs-one decisions, plus less than half a vote for how clear they were.

        Support vectors lie class by class; column v of class c has its coefficients against the other classes, in
        their order without c (libsvm's layout, see scikit-learn's user guide on SVC's `dual_coef_`).
        """
        num_classes = len(self.classes_)
        ends = np.cumsum(self.n_support_)
        against = [
            kernel[:, end - n : end] @ self.dual_coef_[:, end - n : end].T
            for end, n in zip(ends, self.n_support_, strict=True)
        ]
        votes, clear = np.zeros((2, len(kernel), num_classes))
        pair = 0
        for i in range(num_classes):
            for j in range(i + 1, num_classes):
                decision = against[i][:, j - 1] + against[j][:, i] + self.intercept_[pair]
                votes[:, i] += decision >= 0
                votes[:, j] += decision < 0
                clear[:, i] += decision
                clear[:, j] -= decision
                pair += 1
        return votes + clear / (3 * (np.abs(clear) + 1))


class Components(TransformerMixin, BaseEstimator):
    """PCA to `n_components`, or to as many as the rows and columns allow."""

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
    """k nearest neighbours, or as many as there are rows; the nearer, the more its vote counts."""

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
