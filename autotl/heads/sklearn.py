"""Estimator heads: scikit-learn classifiers for recorded features, often thousands of them for a few thousand images.

Ranges and defaults were tuned on 1,574 samples of 4,192 features (every stage of an EfficientNet-Lite): each default
is fitted in a few seconds on one slow core. `n_jobs=1` everywhere: workers already share out the cores.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autotl.heads.base import Head
from autotl.recipe import Params, Space

if TYPE_CHECKING:
    from autotl.registration import Register

__all__ = [
    "LDA",
    "RBFSVM",
    "ExtraTrees",
    "HistGradientBoosting",
    "LinearSVM",
    "LogisticRegression",
    "NearestNeighbours",
    "RandomForest",
]

CLASS_WEIGHTS = (None, "balanced")

COMPONENTS = "autotl.heads.estimators.Components"
# skops doesn't trust these two by itself: compiled code uses their arrays without checking the indices, so a forged
# file could crash the program that loads it. It can't execute code.
TREE = "sklearn.tree._tree.Tree"
TREE_PREDICTOR = "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"


class LogisticRegression(Head):
    """L2-regularised. With more features than samples it needs strong regularisation (a small `C`)."""

    name = "logistic_regression"
    type = "estimator"
    max_train_samples = 20_000

    def suggest(self, space: Space) -> dict[str, Any]:
        return {
            "C": space.float("C", 1e-5, 10.0, log=True),
            "class_weight": space.categorical("class_weight", CLASS_WEIGHTS),
        }

    def defaults(self) -> Params:
        return {"C": 0.01, "class_weight": None}

    def build(self, params: Params, num_features: int, num_classes: int, seed: int) -> Any:
        from sklearn.linear_model import LogisticRegression

        return _scaled(LogisticRegression(**params, max_iter=1000, random_state=seed))


class LinearSVM(Head):
    """One-vs-rest, squared hinge loss. `C` is in units of 1 / num_features."""

    name = "linear_svm"
    type = "estimator"
    max_train_samples = 6_000  # liblinear copies the features, 16 bytes per value

    def suggest(self, space: Space) -> dict[str, Any]:
        return {
            "C": space.float("C", 0.01, 5.0, log=True),
            "class_weight": space.categorical("class_weight", CLASS_WEIGHTS),
        }

    def defaults(self) -> Params:
        return {"C": 0.4, "class_weight": None}

    def build(self, params: Params, num_features: int, num_classes: int, seed: int) -> Any:
        from sklearn.svm import LinearSVC

        hyperparameters = {**params, "C": _number(params, "C") / num_features}
        # dual="auto": the dual problem is two to four times faster with more features than samples. A finer tol takes
        # twice the time and changed no prediction.
        return _scaled(LinearSVC(**hyperparameters, dual="auto", tol=1e-2, max_iter=5000, random_state=seed))


class RBFSVM(Head):
    """The most accurate of these heads on features of all stages. `gamma` is in units of 1 / num_features."""

    name = "rbf_svm"
    type = "estimator"
    max_train_samples = 6_000  # the kernel matrix is samples × samples
    trusted = ("autotl.heads.estimators.GramSVC",)

    def suggest(self, space: Space) -> dict[str, Any]:
        return {
            "C": space.float("C", 0.1, 100.0, log=True),
            "gamma": space.float("gamma", 0.02, 4.0, log=True),
            "class_weight": space.categorical("class_weight", CLASS_WEIGHTS),
        }

    def defaults(self) -> Params:
        return {"C": 5.0, "gamma": 0.3, "class_weight": None}

    def build(self, params: Params, num_features: int, num_classes: int, seed: int) -> Any:
        from autotl.heads.estimators import GramSVC

        hyperparameters: dict[str, Any] = {**params, "gamma": _number(params, "gamma") / num_features}
        return _scaled(GramSVC(**hyperparameters, random_state=seed))


class NearestNeighbours(Head):
    """k nearest neighbours in the space of principal components."""

    name = "knn"
    type = "estimator"
    max_train_samples = 20_000
    trusted = (COMPONENTS, "autotl.heads.estimators.Neighbours")

    def suggest(self, space: Space) -> dict[str, Any]:
        return {
            "components": space.int("components", 16, 256, log=True),
            "n_neighbors": space.int("n_neighbors", 1, 50, log=True),
            "metric": space.categorical("metric", ("euclidean", "cosine")),
        }

    def defaults(self) -> Params:
        return {"components": 64, "n_neighbors": 7, "metric": "euclidean"}

    def build(self, params: Params, num_features: int, num_classes: int, seed: int) -> Any:
        from autotl.heads.estimators import Neighbours

        return _compressed(params, seed, Neighbours)


class LDA(Head):
    """Linear discriminant analysis of principal components, its covariance shrunk towards a scaled identity."""

    name = "lda"
    type = "estimator"
    max_train_samples = 20_000
    trusted = (COMPONENTS,)

    def suggest(self, space: Space) -> dict[str, Any]:
        return {
            "components": space.int("components", 32, 512, log=True),
            "shrinkage": space.float("shrinkage", 1e-3, 1.0, log=True),
        }

    def defaults(self) -> Params:
        return {"components": 256, "shrinkage": 0.1}

    def build(self, params: Params, num_features: int, num_classes: int, seed: int) -> Any:
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        return _compressed(params, seed, LinearDiscriminantAnalysis, solver="lsqr")


class RandomForest(Head):
    """On principal components: on thousands of raw features it takes ten times as long and is no more accurate."""

    name = "random_forest"
    type = "estimator"
    max_train_samples = 6_000
    trusted = (COMPONENTS, TREE)

    def suggest(self, space: Space) -> dict[str, Any]:
        return {
            "components": space.int("components", 16, 128, log=True),
            "n_estimators": space.int("n_estimators", 50, 200, log=True),
            "min_samples_leaf": space.int("min_samples_leaf", 1, 8, log=True),
            "max_samples": space.float("max_samples", 0.3, 1.0),
            "class_weight": space.categorical("class_weight", CLASS_WEIGHTS),
        }

    def defaults(self) -> Params:
        return {
            "components": 32,
            "n_estimators": 150,
            "min_samples_leaf": 2,
            "max_samples": 0.7,
            "class_weight": None,
        }

    def build(self, params: Params, num_features: int, num_classes: int, seed: int) -> Any:
        from sklearn.ensemble import RandomForestClassifier

        return _compressed(params, seed, RandomForestClassifier, random_state=seed, n_jobs=1)


class ExtraTrees(Head):
    """On the raw features, as random thresholds make splits cheap. `max_features` is in units of √num_features."""

    name = "extra_trees"
    type = "estimator"
    max_train_samples = 6_000
    trusted = (TREE,)

    def suggest(self, space: Space) -> dict[str, Any]:
        return {
            "n_estimators": space.int("n_estimators", 50, 200, log=True),
            "max_features": space.float("max_features", 0.3, 2.0, log=True),
            "min_samples_leaf": space.int("min_samples_leaf", 1, 8, log=True),
            "class_weight": space.categorical("class_weight", CLASS_WEIGHTS),
        }

    def defaults(self) -> Params:
        return {"n_estimators": 100, "max_features": 1.0, "min_samples_leaf": 1, "class_weight": None}

    def build(self, params: Params, num_features: int, num_classes: int, seed: int) -> Any:
        from sklearn.ensemble import ExtraTreesClassifier

        max_features = round(_number(params, "max_features") * num_features**0.5)
        hyperparameters = {**params, "max_features": min(max(1, max_features), num_features)}
        return ExtraTreesClassifier(**hyperparameters, random_state=seed, n_jobs=1)


class HistGradientBoosting(Head):
    """Histogram gradient boosting on principal components."""

    name = "hist_gradient_boosting"
    type = "estimator"
    max_train_samples = 20_000
    trusted = (COMPONENTS, TREE_PREDICTOR)

    def suggest(self, space: Space) -> dict[str, Any]:
        return {
            "components": space.int("components", 16, 128, log=True),
            "max_iter": space.int("max_iter", 30, 150, log=True),
            "learning_rate": space.float("learning_rate", 0.03, 0.3, log=True),
            "max_leaf_nodes": space.int("max_leaf_nodes", 4, 31, log=True),
            "l2_regularization": space.float("l2_regularization", 1e-3, 10.0, log=True),
            "class_weight": space.categorical("class_weight", CLASS_WEIGHTS),
        }

    def defaults(self) -> Params:
        return {
            "components": 64,
            "max_iter": 60,
            "learning_rate": 0.1,
            "max_leaf_nodes": 15,
            "l2_regularization": 1.0,
            "class_weight": None,
        }

    def build(self, params: Params, num_features: int, num_classes: int, seed: int) -> Any:
        from sklearn.ensemble import HistGradientBoostingClassifier

        # an iteration grows one tree per class: limit the number of trees
        trees_per_iteration = 1 if num_classes == 2 else num_classes
        max_iter = min(int(_number(params, "max_iter")), max(5, 1500 // trees_per_iteration))
        return _compressed(
            {**params, "max_iter": max_iter},
            seed,
            HistGradientBoostingClassifier,
            early_stopping=False,
            random_state=seed,
        )


def _number(params: Params, name: str) -> float:
    return float(params[name] or 0.0)


def _scaled(classifier: Any) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), classifier)


def _compressed(params: Mapping[str, Any], seed: int, classifier: Any, **fixed: Any) -> Any:
    """Standardise, project on `params["components"]` principal components, classify with the other `params`."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from autotl.heads.estimators import Components

    hyperparameters = {name: value for name, value in params.items() if name != "components"}
    return make_pipeline(
        StandardScaler(), Components(params["components"], random_state=seed), classifier(**hyperparameters, **fixed)
    )


def autotl_register_heads(register: "Register[Head]") -> None:
    for head in (
        LogisticRegression(),
        LinearSVM(),
        RBFSVM(),
        NearestNeighbours(),
        LDA(),
        RandomForest(),
        ExtraTrees(),
        HistGradientBoosting(),
    ):
        register(head)
