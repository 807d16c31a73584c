"""Ridge regression for a whole path of regularisations, with exact leave-one-out predictions, from one
eigendecomposition. Arrays in, arrays out.

The problem: minimise Σ wᵢ ‖yᵢ - f(xᵢ) - b‖² + α ‖f‖² over f and the intercept b, which isn't penalised. With s = √w,
the Gram matrix K and P = I - ŝŝᵀ (ŝ = s/‖s‖), the weighted residuals of the solution are αC(s·y), where C = P(P(ssᵀ·K)P
+ αI)⁻¹P. The prediction of the samples G of a solution that was fitted without them follows from that of all samples:
their weighted residuals are then (αC_GG)⁻¹ times those of the solution (Rifkin and Lippert, Notes on Regularized Least
Squares, MIT-CSAIL-TR-2007-025, for single samples without an intercept).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = ["Decomposition", "decompose_features", "decompose_gram", "group_blocks"]

ROWS = 2048
"""Samples whose products are in memory at a time."""
NEGLIGIBLE = 1e-10
"""Eigenvalues of feature maps are dropped below this share of the largest: their eigenvectors are rounding errors."""


@dataclass(frozen=True)
class Decomposition:
    """Eigenvectors and eigenvalues of the centred and weighted Gram matrix P(ssᵀ·K)P of n samples."""

    vectors: np.ndarray
    """[n, r], orthonormal and orthogonal to `root`."""
    values: np.ndarray
    """[r], not negative."""
    root: np.ndarray
    """[n], the square roots of the samples' weights."""
    mean: np.ndarray
    """[m], the weighted mean of the rows of the Gram matrix (m = n) or of the feature map (m features)."""
    components: np.ndarray | None = None
    """[m, r], of a feature map: its principal axes. None where a Gram matrix was decomposed; then r = n - 1."""

    @cached_property
    def _squares(self) -> np.ndarray:
        return self.vectors * self.vectors

    def residuals(self, targets: np.ndarray, alpha: float, blocks: Sequence[np.ndarray]) -> np.ndarray:
        """The targets minus their leave-one-out predictions, [n, k].

        Args:
            targets: [n, k].
            alpha: the regularisation, positive.
            blocks: from `group_blocks`. The samples of a group are left out together.
        """
        weighted = self.root[:, None] * targets
        shrink = alpha / (self.values + alpha)
        projected = self.vectors.T @ weighted
        left = self.vectors @ (shrink[:, None] * projected)
        unit = self.root / np.linalg.norm(self.root)
        if self.components is not None:  # what no function of the feature map can fit stays as it is
            left += weighted - np.outer(unit, unit @ weighted) - self.vectors @ projected
        for block in blocks:
            self._leave_out(left, block, shrink, unit)
        return left / self.root[:, None]

    def _leave_out(self, left: np.ndarray, block: np.ndarray, shrink: np.ndarray, unit: np.ndarray) -> None:
        """Turn the residuals `left` of groups of one size, `block` [number, size], into leave-one-out residuals."""
        number, size = block.shape
        if self.components is not None and size > 1 + len(self.values):
            # the inverse of 1 - WWᵀ is 1 + W(1 - WᵀW)⁻¹Wᵀ, where W has fewer columns than rows
            for rows in block:
                factors = np.column_stack([unit[rows], self.vectors[rows] * np.sqrt(1 - shrink)]).astype(np.float64)
                core = np.eye(factors.shape[1]) - factors.T @ factors
                left[rows] += factors @ np.linalg.solve(core, factors.T @ left[rows])
            return
        if size == 1:
            is_gram = self.components is None
            inner = self._squares @ shrink if is_gram else 1 - unit**2 - self._squares @ (1 - shrink)
            left[block[:, 0]] /= inner[block[:, 0], None]
            return
        per_step = max(1, ROWS // size)
        for chunk in (block[i : i + per_step] for i in range(0, number, per_step)):
            rows = self.vectors[chunk]
            if self.components is None:
                inner = (rows * shrink) @ rows.transpose(0, 2, 1)
            else:
                edge = unit[chunk]
                inner = (
                    np.eye(size) - edge[:, :, None] * edge[:, None] - (rows * (1 - shrink)) @ rows.transpose(0, 2, 1)
                )
            left[chunk] = np.linalg.solve(inner, left[chunk])

    def coefficients(self, targets: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        """The solution for one regularisation.

        Returns:
            coefficients [m, k] of the samples' kernels (m = n), or of the features of the map, and the intercepts [k].
        """
        projected = self.vectors.T @ (self.root[:, None] * targets)
        if self.components is None:
            coef = self.root[:, None] * (self.vectors @ (projected / (self.values + alpha)[:, None]))
        else:
            coef = self.components @ (projected * (np.sqrt(self.values) / (self.values + alpha))[:, None])
        weights = self.root**2
        return coef, weights @ targets / weights.sum() - self.mean @ coef


def decompose_gram(gram: np.ndarray, weights: np.ndarray) -> Decomposition:
    """Decompose a Gram matrix [n, n], which is overwritten. Computes in its dtype."""
    from scipy.linalg import eigh

    root = np.sqrt(weights).astype(gram.dtype)
    unit = root / np.linalg.norm(root)
    mean = (weights / weights.sum()).astype(gram.dtype) @ gram
    gram *= root
    gram *= root[:, None]
    onto = gram @ unit
    # Centre the matrix and, in the same step, give ŝ the only negative eigenvalue: among eigenvalues of 0 its
    # eigenvector would mix with others.
    shift = max(float(np.trace(gram)) / len(gram), 1e-6)
    edge = onto - unit * (0.5 * (unit @ onto) - 0.5 * shift)
    for i in range(0, len(gram), ROWS):
        gram[i : i + ROWS] -= np.outer(unit[i : i + ROWS], edge) + np.outer(edge[i : i + ROWS], unit)
    values, vectors = eigh(gram, overwrite_a=True, check_finite=False, driver="evd")
    return Decomposition(vectors[:, 1:], np.maximum(values[1:], 0), root, mean)


def decompose_features(features: np.ndarray, weights: np.ndarray) -> Decomposition:
    """Decompose the linear kernel of a feature map [n, m]. Its covariance is computed in float64."""
    from scipy.linalg import eigh

    n, m = features.shape
    root = np.sqrt(weights)
    mean = (weights / weights.sum()) @ features
    covariance = np.zeros((m, m))
    for i in range(0, n, ROWS):
        rows = root[i : i + ROWS, None] * (features[i : i + ROWS] - mean)
        covariance += rows.T @ rows
    values, components = eigh(covariance, overwrite_a=True, check_finite=False, driver="evd")
    kept = values > NEGLIGIBLE * max(values[-1], 1e-300)
    values, components = values[kept], components[:, kept]
    dtype = features.dtype
    root, centre, axes = root.astype(dtype), mean.astype(dtype), (components / np.sqrt(values)).astype(dtype)
    vectors = np.empty((n, len(values)), dtype)
    for i in range(0, n, ROWS):
        vectors[i : i + ROWS] = (root[i : i + ROWS, None] * (features[i : i + ROWS] - centre)) @ axes
    return Decomposition(vectors, values.astype(dtype), root, mean, components)


def group_blocks(groups: np.ndarray) -> list[np.ndarray]:
    """The samples of each group, as one array [number of groups, size] for each size of a group."""
    _, members, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(members, kind="stable")
    ends = np.cumsum(sizes)
    return [order[(ends[sizes == size] - size)[:, None] + np.arange(size)[None]] for size in np.unique(sizes).tolist()]
