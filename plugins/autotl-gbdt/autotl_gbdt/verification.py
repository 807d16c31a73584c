"""Checks of saved trees before LightGBM or XGBoost reads them.

Both follow the indices in a model's file without looking: a wrong one reads outside of the arrays, or never ends.
The nodes of a tree are numbered from its root down, so a child's number is larger than its parent's.
"""

import json
import math
from typing import Any

__all__ = ["checked_lightgbm", "checked_xgboost"]

END_OF_TREES = b"end of trees"
MAX_TREES = 100_000


def checked_lightgbm(content: bytes, num_features: int, num_classes: int) -> str:
    """The trees of a LightGBM model's text, without its training parameters.

    Raises:
        ValueError: the text isn't such a model, or one of its trees can't be followed.
    """
    end = content.find(END_OF_TREES)
    if not content.startswith(b"tree\n") or end < 0:
        raise ValueError("it doesn't begin with a tree")
    text = content[:end].decode()
    head, *blocks = text.split("\nTree=")
    header = _fields(head)
    per_round = 1 if num_classes == 2 else num_classes
    objective = "binary sigmoid:1" if num_classes == 2 else f"multiclass num_class:{num_classes}"
    _require(header.get("objective") == objective, "its objective is another one")
    stated = {"num_class": per_round, "num_tree_per_iteration": per_round, "max_feature_idx": num_features - 1}
    for name, value in stated.items():
        _require(_integers(header, name, 1) == [value], f"{name} is {header.get(name, '')[:40]!r}, not {value}")
    _require(0 < len(blocks) <= MAX_TREES and len(blocks) % per_round == 0, "trees are missing")
    # LightGBM jumps to each tree by the sizes of those before it
    sizes = [len(f"Tree={block}\n".encode()) for block in blocks]
    sizes[-1] -= 1
    _require(_integers(header, "tree_sizes", len(blocks)) == sizes, "the sizes of its trees are wrong")
    for number, block in enumerate(blocks):
        first, _, rest = block.partition("\n")
        _require(first == str(number), f"tree {number} is missing")
        _check_lightgbm_tree(_fields(rest), num_features)
    return text + END_OF_TREES.decode() + "\n"


def _check_lightgbm_tree(tree: dict[str, str], num_features: int) -> None:
    (leaves,) = _integers(tree, "num_leaves", 1)
    _require(0 < leaves <= 1_000_000, "a tree has no leaves")
    _require([_integers(tree, name, 1) for name in ("num_cat", "is_linear")] == [[0], [0]], "a tree isn't of numbers")
    _numbers(tree, "leaf_value", leaves)
    inner = leaves - 1
    if not inner:
        return
    _numbers(tree, "threshold", inner)
    _require(all(kind & 1 == 0 for kind in _integers(tree, "decision_type", inner)), "a tree has a split of categories")
    features = _integers(tree, "split_feature", inner)
    _require(all(0 <= feature < num_features for feature in features), "a tree splits a feature that there isn't")
    seen = set()
    for name in ("left_child", "right_child"):
        for node, child in enumerate(_integers(tree, name, inner)):
            _require(node < child < inner or 0 <= ~child < leaves, "a tree's node has a child that there isn't")
            seen.add(child)
    _require(len(seen) == 2 * inner, "a tree's node has two parents")


def _fields(text: str) -> dict[str, str]:
    lines = [line.partition("=") for line in text.split("\n") if "=" in line]
    fields = {name: value for name, _, value in lines}
    _require(len(fields) == len(lines), "a line is there twice")
    return fields


def _integers(fields: dict[str, str], name: str, length: int) -> list[int]:
    values = [int(value) for value in fields.get(name, "").split(" ") if value]
    _require(len(values) == length, f"{name} has {len(values)} values, not {length}")
    return values


def _numbers(fields: dict[str, str], name: str, length: int) -> None:
    values = [float(value) for value in fields.get(name, "").split(" ") if value]
    _require(len(values) == length and all(map(math.isfinite, values)), f"{name} isn't {length} numbers")


def checked_xgboost(content: bytes, num_features: int, num_classes: int) -> bytearray:
    """An XGBoost model in JSON, for `Booster.load_model`.

    Raises:
        ValueError: it isn't such a model, or one of its trees can't be followed.
    """
    try:
        model = json.loads(content)
        learner = model["learner"]
        booster = learner["gradient_booster"]
        trees, tree_info = booster["model"]["trees"], booster["model"]["tree_info"]
        stated = learner["learner_model_param"]
        objective = learner["objective"]["name"]
        _require(booster["name"] == "gbtree", "it isn't one of trees")
        _require(int(stated["num_feature"]) == num_features, f"it takes {stated['num_feature']!r:.40} features")
        _require(int(stated["num_class"]) == (0 if num_classes == 2 else num_classes), "it has other classes")
        _require(int(stated.get("num_target", 1)) == 1, "it has several targets")
        _require(objective == ("binary:logistic" if num_classes == 2 else "multi:softprob"), "it has another objective")
        per_round = 1 if num_classes == 2 else num_classes
        _require(0 < len(trees) <= MAX_TREES and len(trees) % per_round == 0, "trees are missing")
        _require(tree_info == [i % per_round for i in range(len(trees))], "its trees belong to other classes")
        _require(int(booster["model"]["gbtree_model_param"]["num_trees"]) == len(trees), "trees are missing")
        _require(int(booster["model"]["gbtree_model_param"]["num_parallel_tree"]) == 1, "it is a forest")
        rounds = booster["model"].get("iteration_indptr")
        _require(rounds in (None, list(range(0, len(trees) + 1, per_round))), "its rounds don't fit its trees")
        _require(not any(booster["model"].get("cats", {}).values()), "it has categories")
        for number, tree in enumerate(trees):
            _require(tree["id"] == number, "a tree is missing")
            _check_xgboost_tree(tree, num_features)
    except (KeyError, TypeError, AttributeError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return bytearray(content)


def _check_xgboost_tree(tree: dict[str, Any], num_features: int) -> None:
    left, right, parents = tree["left_children"], tree["right_children"], tree["parents"]
    nodes = len(left)
    param = tree["tree_param"]
    _require(int(param["num_nodes"]) == nodes > 0 and int(param["num_deleted"]) == 0, "a tree has lost nodes")
    _require(
        int(param["num_feature"]) == num_features and int(param["size_leaf_vector"]) <= 1, "a tree is another one's"
    )
    integers = (left, right, parents, tree["split_indices"], tree["default_left"], tree["split_type"])
    numbers = (tree["split_conditions"], tree["base_weights"], tree["loss_changes"], tree["sum_hessian"])
    for values in (*integers, *numbers):
        _require(isinstance(values, list) and len(values) == nodes, "the arrays of a tree have other lengths")
    _require(all(type(value) is int for values in integers for value in values), "a number of a tree isn't one")
    _require(
        all(type(v) in (int, float) and math.isfinite(v) for values in numbers for v in values), "a number isn't one"
    )
    _require(not any(tree["split_type"]) and not tree["categories"], "a tree has a split of categories")
    for node, (one, other) in enumerate(zip(left, right, strict=True)):
        if one == other == -1:
            continue
        _require(node < one < nodes and node < other < nodes and one != other, "a tree's node has no such child")
        _require(parents[one] == parents[other] == node, "a tree's node has two parents")
        _require(0 <= tree["split_indices"][node] < num_features, "a tree splits a feature that there isn't")


def _require(holds: object, reason: str) -> None:
    if not holds:
        raise ValueError(reason)
