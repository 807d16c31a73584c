"""Estimators from a file that aren't what their head fits: each is refused in words before it predicts."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from autotl.errors import AutotlError
from autotl.heads import closed_form, sklearn
from autotl.heads.base import Head
from autotl.heads.serialization import load_head, save_head
from autotl.heads.verification import check_estimator
from autotl.testing.problem import separable_problem

HEADS: list[Head] = []
sklearn.autotl_register_heads(HEADS.append)
closed_form.autotl_register_heads(HEADS.append)
SPECS = {head.name: head for head in HEADS}
SMALL = {"n_estimators": 3, "max_iter": 3}


def params_of(name: str) -> dict[str, Any]:
    defaults = dict(SPECS[name].defaults())
    return {**defaults, **{key: value for key, value in SMALL.items() if key in defaults}}


@pytest.fixture(scope="module")
def fitted() -> Callable[[str], Any]:
    kept: dict[str, Any] = {}

    def fit(name: str) -> Any:
        if name not in kept:
            kept[name] = SPECS[name].build(params_of(name), 48, 3, 0).fit(*separable_problem(3, 60))
        return copy.deepcopy(kept[name])

    return fit


def reload(name: str, estimator: Any, folder: Path, num_classes: int = 3) -> Any:
    save_head(estimator, folder)
    return load_head(SPECS[name], params_of(name), 48, num_classes, folder)


def set_in(*way: str | int, value: Any) -> Callable[[Any], None]:
    """Set an attribute, or an item, of what lies inside of an estimator."""

    def change(estimator: Any) -> None:
        *outer, last = way
        for step in outer:
            estimator = getattr(estimator, step) if isinstance(step, str) else estimator[step]
        if isinstance(last, str):
            setattr(estimator, last, value)
        else:
            estimator[last] = value

    return change


def tree(**changes: Any) -> Callable[[Any], None]:
    """Change the arrays of the first tree of a forest, or facts about it."""

    def change(estimator: Any) -> None:
        forest = estimator[-1] if hasattr(estimator, "steps") else estimator
        grown = forest.estimators_[0].tree_
        state = grown.__getstate__()
        for name, value in changes.items():
            if name in state["nodes"].dtype.names:
                state["nodes"][name][0] = value
            elif name == "value":
                state["values"][:] = value
            else:
                state[name] = value
        grown.__setstate__(state)

    return change


def node(**changes: Any) -> Callable[[Any], None]:
    """Change the first node of the first tree of gradient boosting."""

    def change(estimator: Any) -> None:
        for name, value in changes.items():
            estimator[-1]._predictors[0][0].nodes[name][0] = value

    return change


FORGED: dict[str, tuple[str, Callable[[Any], None]]] = {
    "a scale of zero": ("logistic_regression", set_in(0, "scale_", value=np.zeros(48))),
    "means of other features": ("logistic_regression", set_in(0, "mean_", value=np.zeros(7))),
    "a coefficient that is no number": ("logistic_regression", set_in(1, "coef_", value=np.full((3, 48), np.nan))),
    "coefficients of other classes": ("linear_svm", set_in(1, "coef_", value=np.zeros((9, 48)))),
    "classes beyond the model's": ("linear_svm", set_in(1, "classes_", value=np.array([0, 1, 99]))),
    "classes in words": ("lda", set_in(2, "classes_", value=np.array(["a", "b", "c"]))),
    "a class twice": ("lda", set_in(2, "classes_", value=np.array([0, 1, 1]))),
    "a negative class": ("lda", set_in(2, "classes_", value=np.array([-1, 0, 1]))),
    "no classes": ("lda", set_in(2, "classes_", value=np.array([], int))),
    "components of other features": ("lda", set_in(1, "pca_", "components_", value=np.zeros((60, 7)))),
    "more support vectors than there are": ("rbf_svm", set_in(1, "n_support_", value=np.array([10**6, 1, 1]))),
    "dual coefficients of other vectors": ("rbf_svm", set_in(1, "dual_coef_", value=np.zeros((2, 3)))),
    "an endless kernel": ("rbf_svm", set_in(1, "gamma_", value=np.inf)),
    "a negative width": ("kernel_ridge", set_in("gamma_", value=-1.0)),
    "a width in words": ("kernel_ridge", set_in("gamma_", value="1e400")),
    "samples that aren't there": ("kernel_ridge", set_in("vectors_", value=None)),
    "coefficients of other samples": ("kernel_ridge", set_in("coef_", value=np.zeros((7, 3), np.float32))),
    "samples of other lengths": ("kernel_ridge", set_in("vectors_", value=np.zeros((60, 7), np.float32))),
    "a deviation of zero": ("kernel_ridge", set_in("scale_", value=np.zeros(48, np.float32))),
    "a kernel of another recipe": ("kernel_ridge", set_in("kernel", value="linear")),
    "samples in a linear function": ("ridge", set_in("vectors_", value=np.zeros((60, 48), np.float32))),
    "an intercept of other classes": ("ridge", set_in("intercept_", value=np.zeros(1, np.float32))),
    "a coefficient of infinity": ("ridge", set_in("coef_", value=np.full((48, 3), np.inf, np.float32))),
    "labels beyond the classes": ("knn", set_in(2, "knn_", "_y", value=np.full(60, 99))),
    "neighbours beyond the samples": ("knn", set_in(2, "knn_", "n_neighbors", value=10**6)),
    "samples of other features": ("knn", set_in(2, "knn_", "_fit_X", value=np.zeros((60, 2)))),
    "all cores": ("knn", set_in(2, "knn_", "n_jobs", value=-1)),
    "a thousand jobs": ("extra_trees", set_in("n_jobs", value=1000)),
    "a parameter of another recipe": ("logistic_regression", set_in(1, "C", value=123.0)),
    "an attribute in place of a method": ("logistic_regression", set_in(1, "decision_function", value=7)),
    "a tree's child outside": ("extra_trees", tree(left_child=10**6)),
    "a tree's negative child": ("extra_trees", tree(right_child=-5)),
    "a tree without an end": ("random_forest", tree(left_child=0)),
    "a tree's feature outside": ("random_forest", tree(feature=10**6)),
    "a tree's negative feature": ("extra_trees", tree(feature=-9)),
    "a tree's value that is no number": ("extra_trees", tree(value=np.nan)),
    "a forest of a billion classes": ("extra_trees", set_in("n_classes_", value=10**9)),
    "trees of other classes": ("extra_trees", set_in("estimators_", 0, "n_classes_", value=7)),
    "an unfitted tree in a forest": ("extra_trees", set_in("estimators_", 0, value=DummyClassifier())),
    "a boosted child outside": ("hist_gradient_boosting", node(left=10**6)),
    "a boosted tree without an end": ("hist_gradient_boosting", node(right=0)),
    "a boosted feature outside": ("hist_gradient_boosting", node(feature_idx=10**6)),
    "a boosted split of categories": ("hist_gradient_boosting", node(is_categorical=1, bitset_idx=10**6)),
    "a boosted value that is no number": ("hist_gradient_boosting", node(value=np.nan)),
    "more trees than classes": ("hist_gradient_boosting", set_in(2, "n_trees_per_iteration_", value=10**6)),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_estimator_is_refused(case: str, fitted: Callable[[str], Any], tmp_path: Path) -> None:
    name, change = FORGED[case]
    estimator = fitted(name)
    change(estimator)
    with pytest.raises(AutotlError, match="is not the head that its model describes"):
        reload(name, estimator, tmp_path)


def test_a_tree_of_more_nodes_than_it_has_is_refused(fitted: Callable[[str], Any]) -> None:
    estimator = fitted("extra_trees")
    tree(node_count=10**6)(estimator)  # to save such a tree would read outside of its arrays
    with pytest.raises(ValueError, match="the number of nodes of one of its trees is wrong"):
        check_estimator(estimator, SPECS["extra_trees"].build(params_of("extra_trees"), 48, 3, 0), 48, 3)


@pytest.mark.parametrize("name", SPECS)
def test_a_sound_estimator_is_accepted(name: str, fitted: Callable[[str], Any], tmp_path: Path) -> None:
    assert reload(name, fitted(name), tmp_path).classes_.tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["logistic_regression", "extra_trees"])
def test_an_estimator_that_is_not_fitted_is_refused(name: str, tmp_path: Path) -> None:
    estimator = SPECS[name].build(params_of(name), 48, 3, 0)
    with pytest.raises(AutotlError, match="is not the head that its model describes"):
        reload(name, estimator, tmp_path)


def test_an_estimator_of_another_type_is_refused(fitted: Callable[[str], Any], tmp_path: Path) -> None:
    with pytest.raises(AutotlError, match="a Pipeline where its head builds a ExtraTreesClassifier"):
        reload("extra_trees", fitted("logistic_regression"), tmp_path)


def test_more_steps_than_the_head_builds_are_refused(fitted: Callable[[str], Any], tmp_path: Path) -> None:
    longer = make_pipeline(*(step for _, step in fitted("logistic_regression").steps[:1] * 2), fitted("linear_svm")[-1])
    with pytest.raises(AutotlError, match="it has 3 steps where its head builds 2"):
        reload("logistic_regression", longer, tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("_n_support", np.array([10**6, 1, 1], np.int32)),
        ("_dual_coef_", np.zeros((2, 3))),
        ("support_", np.zeros(2, np.int32)),
        ("_probA", np.zeros(9)),
        ("_intercept_", np.zeros(1)),
    ],
)
def test_a_forged_support_vector_machine_of_a_plugin_is_refused(name: str, value: np.ndarray) -> None:
    machine = SVC().fit(*separable_problem(3, 60))
    check_estimator(machine, SVC(), 48, 3)
    setattr(machine, name, value)
    with pytest.raises((ValueError, TypeError)):
        check_estimator(machine, SVC(), 48, 3)


def test_a_head_that_answers_otherwise_than_when_it_was_saved_is_refused(
    fitted: Callable[[str], Any], tmp_path: Path
) -> None:
    save_head(fitted("logistic_regression"), tmp_path)
    with pytest.raises(AutotlError, match="it gives other answers than when it was saved"):
        load_head(
            SPECS["logistic_regression"], params_of("logistic_regression"), 48, 3, tmp_path, [[0.0, 0.0, 0.0]] * 2
        )
