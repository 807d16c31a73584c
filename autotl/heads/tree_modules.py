"""Forests and boosted trees as torch modules: all samples go down all trees at once, a level at a time.

Compare Nakandala et al., A Tensor Compiler for Unified Machine Learning Prediction Serving, OSDI 2020, section 4.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Boosting", "Forest", "Tree", "Trees", "hist_gradient_boosting"]


@dataclass(frozen=True)
class Tree:
    """The nodes of a tree, root first; of a leaf, `left` is no node."""

    is_leaf: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    """A sample goes left where its feature is at most this."""
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray
    """[nodes, outputs]."""


class Trees(nn.Module):
    """Features [N, num_features] to the values of the leaves, [N, trees, outputs]."""

    def __init__(self, trees: Sequence[Tree]):
        super().__init__()
        roots = np.cumsum([0, *(len(tree.feature) for tree in trees)])[:-1]
        own = [np.arange(len(tree.feature)) for tree in trees]

        def joined(arrays: Sequence[np.ndarray], kind: type) -> Tensor:
            return torch.from_numpy(np.concatenate(arrays).astype(kind))

        def children(side: str) -> Tensor:
            """The numbers of the children among all nodes; a leaf is its own child."""
            return joined(
                [
                    np.where(tree.is_leaf, numbers, getattr(tree, side)) + root
                    for tree, numbers, root in zip(trees, own, roots, strict=True)
                ],
                np.int64,
            )

        self.depth = max(map(_depth, trees))
        self.roots: Tensor
        self.feature: Tensor
        self.threshold: Tensor
        self.left: Tensor
        self.right: Tensor
        self.value: Tensor
        self.register_buffer("roots", torch.from_numpy(roots.astype(np.int64)))
        self.register_buffer("feature", joined([np.where(t.is_leaf, 0, t.feature) for t in trees], np.int64))
        self.register_buffer("threshold", torch.from_numpy(_rounded_down([t.threshold for t in trees])))
        self.register_buffer("left", children("left"))
        self.register_buffer("right", children("right"))
        self.register_buffer("value", joined([t.value for t in trees], np.float32))

    def forward(self, x: Tensor) -> Tensor:
        nodes = self.roots + torch.zeros_like(x[:, :1], dtype=torch.int64)
        for _ in range(self.depth):
            goes_left = x.gather(1, self.feature[nodes]) <= self.threshold[nodes]
            nodes = torch.where(goes_left, self.left[nodes], self.right[nodes])
        return self.value[nodes]


def _rounded_down(thresholds: Sequence[np.ndarray]) -> np.ndarray:
    """As float32, so that the same float32 values are at most a threshold."""
    exact = np.concatenate(thresholds).astype(np.float64)
    near = exact.astype(np.float32)
    return np.where(near > exact, np.nextafter(near, np.float32(-np.inf)), near)


def _depth(tree: Tree) -> int:
    """The number of edges from the root to the deepest leaf. A child's number is larger than its parent's."""
    depth = np.zeros(len(tree.feature), int)
    for node in np.flatnonzero(~tree.is_leaf):
        depth[[int(tree.left[node]), int(tree.right[node])]] = depth[node] + 1
    return int(depth.max(initial=0))


class Forest(nn.Module):
    """The mean of the trees of a random forest, or of extremely randomised trees."""

    def __init__(self, forest: Any):
        super().__init__()
        trees = []
        for estimator in forest.estimators_:
            tree = estimator.tree_
            votes = tree.value[:, 0, :]
            votes = votes / votes.sum(1, keepdims=True)
            is_leaf = tree.children_left == -1
            trees.append(Tree(is_leaf, tree.feature, tree.threshold, tree.children_left, tree.children_right, votes))
        self.trees = Trees(trees)

    def forward(self, x: Tensor) -> Tensor:
        return self.trees(x).mean(1)


class Boosting(nn.Module):
    """The sum of the trees of a boosting: a tree for each class in each round, one for two classes.

    Args:
        trees: with one value for each node, round after round.
        baseline: [outputs], to which the trees are added.
    """

    def __init__(self, trees: Sequence[Tree], baseline: np.ndarray):
        super().__init__()
        self.baseline: Tensor
        self.register_buffer("baseline", torch.from_numpy(np.asarray(baseline, np.float32).reshape(1, -1)))
        self.trees = Trees(trees)

    def forward(self, x: Tensor) -> Tensor:
        values = self.trees(x)[:, :, 0]
        return self.baseline + values.unflatten(1, (-1, self.baseline.shape[1])).sum(1)


def hist_gradient_boosting(estimator: Any) -> Boosting:
    """scikit-learn's histogram gradient boosting."""
    trees = [
        Tree(
            nodes["is_leaf"].astype(bool),
            nodes["feature_idx"].astype(np.int64),
            nodes["num_threshold"],
            nodes["left"].astype(np.int64),
            nodes["right"].astype(np.int64),
            nodes["value"][:, None],
        )
        for iteration in estimator._predictors
        for nodes in (predictor.nodes for predictor in iteration)
    ]
    return Boosting(trees, estimator._baseline_prediction)
