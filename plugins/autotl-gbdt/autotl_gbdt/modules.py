"""Boosted trees as torch modules, so that a model with such a head can be exported."""

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autotl.heads.modules import translated
from autotl.heads.tree_modules import Boosting, Tree

__all__ = ["boosted_module", "lightgbm_trees", "xgboost_trees"]


def boosted_module(compress: Any, trees: list[Tree], margins_at_0: np.ndarray) -> nn.Module:
    """Features [N, num_features] to probabilities [N, num_classes].

    Args:
        compress: the fitted pipeline before the trees.
        margins_at_0: what the library computes before the sigmoid or the softmax where all components are 0, [outputs]
            or [1, outputs]. What its trees don't explain is the intercept, which XGBoost's versions write differently.
    """
    boosting = Boosting(trees, np.zeros(margins_at_0.size))
    with torch.no_grad():
        of_trees = boosting(torch.zeros(1, len(compress[-1].pca_.components_)))
    boosting.baseline = torch.from_numpy(margins_at_0.astype(np.float32).reshape(1, -1)) - of_trees
    return nn.Sequential(translated(compress), boosting, _Probabilities())


class _Probabilities(nn.Module):
    def forward(self, margins: Tensor) -> Tensor:
        if margins.shape[1] == 1:
            second = margins.sigmoid()
            return torch.cat([1 - second, second], 1)
        return margins.softmax(1)


def lightgbm_trees(booster: Any) -> list[Tree]:
    """The trees of a LightGBM booster."""
    return [_of_nested(tree["tree_structure"]) for tree in booster.dump_model()["tree_info"]]


def _of_nested(root: dict[str, Any]) -> Tree:
    nodes, left, right = [root], [], []
    for node in nodes:  # grows: a child's number is larger than its parent's
        is_inner = "left_child" in node
        left.append(len(nodes) if is_inner else -1)
        right.append(len(nodes) + 1 if is_inner else -1)
        nodes += [node["left_child"], node["right_child"]] if is_inner else []
    return Tree(
        np.array(left) < 0,
        np.array([node.get("split_feature", 0) for node in nodes]),
        np.array([node.get("threshold", 0.0) for node in nodes]),
        np.array(left),
        np.array(right),
        np.array([[node.get("leaf_value", 0.0)] for node in nodes]),
    )


def xgboost_trees(booster: Any) -> list[Tree]:
    """The trees of an XGBoost booster: a sample goes left where its feature is less than the condition, not equal."""
    model = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]["model"]
    trees = []
    for tree in model["trees"]:
        left, conditions = np.array(tree["left_children"]), np.array(tree["split_conditions"], np.float32)
        trees.append(
            Tree(
                left < 0,
                np.array(tree["split_indices"]),
                np.nextafter(conditions, np.float32(-np.inf)),
                left,
                np.array(tree["right_children"]),
                conditions[:, None],  # of a leaf: its value
            )
        )
    return trees
