"""A trained head as a torch module, which a graph of the whole model can hold: features to the logits of
`autotl.heads.inference`, in float32.

Scikit-learn's estimators are translated by the names of their classes, with all that they inherit. An estimator of a
plugin has a method `to_module()` instead (see `autotl.heads.base.Head.build`).
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autotl.errors import AutotlError
from autotl.heads.inference import MISSING
from autotl.heads.tree_modules import Forest, hist_gradient_boosting

__all__ = ["head_module", "translated"]


def head_module(head: Any, num_classes: int) -> nn.Module:
    """A module from features [N, num_features] to logits [N, num_classes], on the CPU in eval mode.

    Args:
        head: a trained dense head, which is copied, or a fitted estimator.

    Raises:
        AutotlError: nothing translates the estimator.
    """
    if hasattr(head, "state_dict"):
        return copy.deepcopy(head).to("cpu").eval()
    module = nn.Sequential(translated(head), _Logits(head, num_classes)).eval()
    return module.requires_grad_(requires_grad=False)


def translated(estimator: Any) -> nn.Module:
    """A module from features to what a fitted estimator's `decision_function`, `predict_proba` or `transform` returns,
    in float32. For `to_module()` of estimators that have others inside.

    Raises:
        AutotlError: nothing translates the estimator.
    """
    if hasattr(estimator, "to_module"):
        return estimator.to_module()
    if hasattr(estimator, "steps"):
        return nn.Sequential(*(translated(step) for _, step in estimator.steps))
    for ancestor in type(estimator).__mro__:
        if ancestor.__name__ in MODULES:
            return MODULES[ancestor.__name__](estimator)
    raise AutotlError(
        f"{type(estimator).__name__} can't be exported: nothing says how it is computed with tensors. An estimator of "
        "your own has a method to_module(), which returns a torch module from its features to its scores."
    )


def _float(values: Any) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32).copy())


class _Logits(nn.Module):
    """The scores of an estimator [N, 1] or [N, classes it was fitted on] as logits [N, num_classes]: what
    `autotl.heads.inference` does with them."""

    def __init__(self, estimator: Any, num_classes: int):
        super().__init__()
        classes = np.asarray(estimator.classes_, np.int64)
        self.counts_votes = not hasattr(estimator, "decision_function")
        self.lowest = 0.01 / len(classes)
        self.is_binary = len(classes) == 2 and not self.counts_votes
        self.is_complete = len(classes) == num_classes
        self.sides: Tensor
        self.places: Tensor
        self.absent: Tensor
        self.register_buffer("sides", torch.tensor([[-0.5, 0.5]]))
        self.register_buffer("places", _float(classes[:, None] == np.arange(num_classes)))
        self.register_buffer("absent", _float(np.where(np.isin(np.arange(num_classes), classes), 0.0, MISSING)))

    def forward(self, scores: Tensor) -> Tensor:
        if self.counts_votes:
            scores = scores.clamp(min=self.lowest).log()
        elif self.is_binary:
            scores = scores * self.sides
        return scores if self.is_complete else scores @ self.places + self.absent


class _Affine(nn.Module):
    """(x - mean) / scale; None leaves one out."""

    def __init__(self, mean: Any, scale: Any):
        super().__init__()
        self.mean: Tensor | None
        self.scale: Tensor | None
        self.register_buffer("mean", None if mean is None else _float(mean))
        self.register_buffer("scale", None if scale is None else _float(scale))

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.mean is None else x - self.mean
        return x if self.scale is None else x / self.scale


def _linear(weights: Any, bias: Any) -> nn.Linear:
    weights = np.atleast_2d(weights)
    layer = nn.Linear(weights.shape[1], len(weights))
    layer.weight = nn.Parameter(_float(weights))
    layer.bias = nn.Parameter(_float(np.broadcast_to(np.atleast_1d(bias), len(weights))))
    return layer


def _squared_distances(x: Tensor, vectors: Tensor) -> Tensor:
    """[N, M], from one matrix product."""
    squares = (x * x).sum(1, keepdim=True) + (vectors * vectors).sum(1)
    return (squares - 2 * (x @ vectors.T)).clamp(min=0)


class _Principal(nn.Module):
    """The projection of `autotl.heads.estimators.Components`."""

    def __init__(self, estimator: Any):
        super().__init__()
        pca = estimator.pca_
        self.mean: Tensor
        self.components: Tensor
        self.register_buffer("mean", _float(pca.mean_))
        self.register_buffer("components", _float(pca.components_))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) @ self.components.T


class _SupportVectors(nn.Module):
    """`autotl.heads.estimators.GramSVC`: the kernel, the decision of each pair of classes, and their votes."""

    def __init__(self, svc: Any):
        super().__init__()
        self.gamma, classes = float(svc.gamma_), len(svc.classes_)
        coefficients, votes = _pairs(svc)
        self.vectors: Tensor
        self.coefficients: Tensor
        self.intercept: Tensor
        self.votes: Tensor
        self.register_buffer("vectors", _float(svc.support_vectors_))
        self.register_buffer("coefficients", _float(coefficients))
        self.register_buffer("intercept", _float(svc.intercept_))
        self.register_buffer("votes", _float(votes))
        self.is_binary = classes == 2

    def forward(self, x: Tensor) -> Tensor:
        kernel = (_squared_distances(x, self.vectors) * -self.gamma).exp()
        decisions = kernel @ self.coefficients + self.intercept
        if self.is_binary:
            return decisions
        confidences = decisions @ self.votes
        signs = (decisions >= 0).float()
        won = signs @ self.votes.clamp(min=0) + (1 - signs) @ (-self.votes).clamp(min=0)
        return won + confidences / (3 * (confidences.abs() + 1))


def _pairs(svc: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of each pair of classes: the coefficients of the support vectors [M, pairs], and 1 for its first class, -1 for
    its second [pairs, classes]. See `GramSVC._one_vs_rest` for the layout of `dual_coef_`."""
    if len(svc.classes_) == 2:
        return svc.dual_coef_.T, np.array([[-1.0, 1.0]])
    ends = np.cumsum(svc.n_support_)
    parts = [slice(end - n, end) for end, n in zip(ends, svc.n_support_, strict=True)]
    numbers = [(i, j) for i in range(len(parts)) for j in range(i + 1, len(parts))]
    coefficients = np.zeros((len(svc.support_vectors_), len(numbers)))
    votes = np.zeros((len(numbers), len(parts)))
    for pair, (i, j) in enumerate(numbers):
        coefficients[parts[i], pair] = svc.dual_coef_[j - 1, parts[i]]
        coefficients[parts[j], pair] = svc.dual_coef_[i, parts[j]]
        votes[pair, i], votes[pair, j] = 1.0, -1.0
    return coefficients, votes


class _KernelRidge(nn.Module):
    """`autotl.heads.kernel_ridge.KernelRidgeClassifier`."""

    def __init__(self, ridge: Any):
        super().__init__()
        self.kernel, self.power, self.gamma = ridge.kernel, float(ridge.power), float(ridge.gamma_)
        self.standardize = _Affine(ridge.mean_, ridge.scale_)
        self.vectors: Tensor | None
        self.register_buffer("vectors", None if ridge.vectors_ is None else _float(ridge.vectors_))
        self.output = _linear(np.asarray(ridge.coef_).T, ridge.intercept_)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.standardize(x)
        if self.power != 1.0:
            rows = rows.sign() * rows.abs() ** self.power
        if self.kernel == "cosine":
            rows = rows / (rows * rows).sum(1, keepdim=True).sqrt().clamp(min=1e-12)
        if self.vectors is not None:
            distances = _squared_distances(rows, self.vectors)
            rows = ((distances.sqrt() if self.kernel == "laplacian" else distances) * -self.gamma).exp()
        return self.output(rows)


class _Neighbours(nn.Module):
    """`autotl.heads.estimators.Neighbours`: votes of the nearest samples, weighted by 1 / distance."""

    def __init__(self, estimator: Any):
        super().__init__()
        knn = estimator.knn_
        samples = np.asarray(knn._fit_X, np.float32)
        self.count, self.is_cosine = int(knn.n_neighbors), knn.metric == "cosine"
        if self.is_cosine:
            samples = samples / np.maximum(np.linalg.norm(samples, axis=1, keepdims=True), 1e-30)
        self.samples: Tensor
        self.labels: Tensor
        self.register_buffer("samples", _float(samples))
        self.register_buffer("labels", _float(knn._y[:, None] == np.arange(len(knn.classes_))))

    def forward(self, x: Tensor) -> Tensor:
        if self.is_cosine:
            x = x / (x * x).sum(1, keepdim=True).sqrt().clamp(min=1e-30)
        nearest = (-_squared_distances(x, self.samples)).topk(self.count, dim=1).indices
        # again without the cancellation of the matrix product, which near a sample is larger than the distance
        differences = x[:, None] - self.samples[nearest]
        squared = (differences * differences).sum(2)
        distances = squared / 2 if self.is_cosine else squared.sqrt()
        same = (distances == 0).float()
        is_same = same.sum(1, keepdim=True) > 0
        weights = torch.where(is_same, same, 1 / distances.clamp(min=1e-30))
        weights = weights / weights.sum(1, keepdim=True)
        return (weights[:, :, None] * self.labels[nearest]).sum(1)


MODULES: dict[str, Callable[[Any], nn.Module]] = {
    "StandardScaler": lambda s: _Affine(s.mean_, s.scale_),
    "Components": _Principal,
    "LinearClassifierMixin": lambda s: _linear(s.coef_, s.intercept_),
    "GramSVC": _SupportVectors,
    "KernelRidgeClassifier": _KernelRidge,
    "Neighbours": _Neighbours,
    "ForestClassifier": Forest,
    "HistGradientBoostingClassifier": hist_gradient_boosting,
}
"""By the name of a class in the estimator's ancestry."""
