"""Scikit-learn classifiers around LightGBM and XGBoost. Imported by what builds or loads one, never by the registry.

Trees are grown on principal components: on thousands of raw features they take a hundred times as long and are no
better. A fitted classifier's state is its library's own format (LightGBM's text, XGBoost's UBJSON): no pickle.
"""

from abc import abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from autotl.heads.estimators import Components

__all__ = ["LightGBMClassifier", "XGBoostClassifier", "held_out"]

Watch: TypeAlias = Callable[[float], None]

HELD_OUT = 0.15
"""The share of the training images that early stopping looks at."""
FEWEST = 5
"""Of a class with fewer images none is held out."""
PATIENCE = 30
"""Rounds without a smaller loss on them before no more trees are grown."""
UNTRIED = 100
"""Rounds where nothing can be held out."""
MOST_TREES = 6_000
"""A round grows a tree for each class: with many classes there are fewer rounds."""
LOOKS = 20
"""How often a search sees how far the trees have come."""


def held_out(labels: np.ndarray, images: np.ndarray, seed: int) -> np.ndarray:
    """Which rows early stopping looks at, a mask [n]: of each class a share of its images, each with all its views.

    Args:
        labels: [n], 0 … num_classes-1.
        images: [n], which image each row is of.
    """
    rng = np.random.default_rng(seed)
    listed, first = np.unique(images, return_index=True)
    chosen = []
    for label in np.unique(labels):
        mine = listed[labels[first] == label]
        if len(mine) >= FEWEST:
            chosen.append(rng.permutation(mine)[: round(HELD_OUT * len(mine))])
    return np.isin(images, np.concatenate(chosen)) if chosen else np.zeros(len(labels), bool)


class Boosted(ClassifierMixin, BaseEstimator):
    """Standardised features, principal components, boosted trees.

    Trees are grown on a part of the rows until the loss of the rest no longer falls, then as many again on all rows.
    """

    components: int
    class_weight: Any
    rounds: int
    random_state: int

    def fit(self, X: Any, y: Any, images: Any = None, watch: Watch | None = None) -> "Boosted":
        """Fit on rows [n, num_features] and labels [n].

        Args:
            images: [n], which image each row is of, where some are views of one; else every row is an image.
            watch: called with the fraction of the rounds that are done, at most LOOKS times; meanwhile this classifier
                answers with the trees that it has. What it raises ends the fit.
        """
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"Rows of at least two classes are needed, got one class: {self.classes_[0]}")
        self.compress_ = make_pipeline(StandardScaler(), Components(self.components, random_state=self.random_state))
        rows = self.compress_.fit_transform(X).astype(np.float32)
        weights = compute_sample_weight(self.class_weight, labels)
        out = held_out(labels, np.arange(len(rows)) if images is None else np.asarray(images), self.random_state)
        rounds = min(self.rounds, max(10, MOST_TREES // self._trees_a_round()))
        if out.any():
            look = self._looking(rounds, watch)
            rounds = self._rounds(
                (rows[~out], labels[~out], weights[~out]), (rows[out], labels[out], weights[out]), rounds, look
            )
        else:
            rounds = min(rounds, UNTRIED)
        self.booster_ = self._grown(rows, labels, weights, rounds)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """[n, num_classes], in the order of `classes_`."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        found = self._probabilities(self.compress_.transform(X).astype(np.float32))
        return found if found.ndim == 2 else np.stack([1 - found, found], axis=1)

    def predict(self, X: Any) -> np.ndarray:
        found = self.predict_proba(X)
        return self.classes_[found.argmax(1)]

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "booster_" in state:
            state["booster_"] = self._written(state["booster_"])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Raises ValueError where the trees can't be read."""
        state = dict(state)
        if "booster_" in state:
            state["booster_"] = self._read(state["booster_"])
        super().__setstate__(state)

    def _trees_a_round(self) -> int:
        return 1 if len(self.classes_) == 2 else len(self.classes_)

    def _looking(self, rounds: int, watch: Watch | None) -> Callable[[Any, int], None]:
        """`look(booster, number of rounds that are done)`."""
        every = max(1, rounds // LOOKS)

        def look(booster: Any, done: int) -> None:
            if watch and done % every == 0 and done < rounds:
                self.booster_ = booster
                watch(done / rounds)

        return look

    @abstractmethod
    def _rounds(self, part: Any, rest: Any, rounds: int, look: Callable[[Any, int], None]) -> int:
        """After how many rounds on `part` the loss of `rest` is smallest; each is (rows, labels, weights)."""

    @abstractmethod
    def _grown(self, rows: np.ndarray, labels: np.ndarray, weights: np.ndarray, rounds: int) -> Any:
        """A booster of so many rounds."""

    @abstractmethod
    def _probabilities(self, rows: np.ndarray) -> np.ndarray:
        """[n] of the second class where there are two, else [n, num_classes]."""

    @abstractmethod
    def _written(self, booster: Any) -> bytes:
        """A booster in its library's own format."""

    @abstractmethod
    def _read(self, content: bytes) -> Any:
        """And back. Raises ValueError."""


class LightGBMClassifier(Boosted):
    """`leaves` are of a tree, `leaf_rows` the fewest rows in one; `columns` and `rows` the shares that a tree sees."""

    def __init__(
        self,
        components: int = 64,
        leaves: int = 15,
        leaf_rows: int = 5,
        learning_rate: float = 0.1,
        columns: float = 0.5,
        rows: float = 0.8,
        l2: float = 1.0,
        class_weight: Any = None,
        rounds: int = 600,
        random_state: int = 0,
    ):
        self.components = components
        self.leaves = leaves
        self.leaf_rows = leaf_rows
        self.learning_rate = learning_rate
        self.columns = columns
        self.rows = rows
        self.l2 = l2
        self.class_weight = class_weight
        self.rounds = rounds
        self.random_state = random_state

    def _settings(self) -> dict[str, Any]:
        two = len(self.classes_) == 2
        return {
            "objective": "binary" if two else "multiclass",
            **({} if two else {"num_class": len(self.classes_)}),
            "num_leaves": self.leaves,
            "min_data_in_leaf": self.leaf_rows,
            "learning_rate": self.learning_rate,
            "feature_fraction": self.columns,
            "bagging_fraction": self.rows,
            "bagging_freq": 1,
            "lambda_l2": self.l2,
            "seed": self.random_state,
            "deterministic": True,
            "force_col_wise": True,  # or it is timed which is faster, and sums come out in another order
            "device_type": _lightgbm_device(),
            "verbosity": -1,
        }

    def _rounds(self, part: Any, rest: Any, rounds: int, look: Callable[[Any, int], None]) -> int:
        import lightgbm

        settings = self._settings()
        train = lightgbm.Dataset(part[0], part[1], weight=part[2], params=settings)
        seen = train.create_valid(rest[0], rest[1], weight=rest[2])
        stop = lightgbm.early_stopping(PATIENCE, verbose=False)
        booster = lightgbm.train(
            settings, train, rounds, [seen], callbacks=[lambda env: look(env.model, env.iteration + 1), stop]
        )
        return booster.best_iteration or rounds

    def _grown(self, rows: np.ndarray, labels: np.ndarray, weights: np.ndarray, rounds: int) -> Any:
        import lightgbm

        settings = self._settings()
        return lightgbm.train(settings, lightgbm.Dataset(rows, labels, weight=weights, params=settings), rounds)

    def _probabilities(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.booster_.predict(rows))

    def _written(self, booster: Any) -> bytes:
        return booster.model_to_string(num_iteration=-1).encode()

    def _read(self, content: bytes) -> Any:
        import lightgbm

        try:
            return lightgbm.Booster(model_str=content.decode())
        except lightgbm.basic.LightGBMError as error:
            raise ValueError(f"it holds no LightGBM model: {error}") from error


class XGBoostClassifier(Boosted):
    """`depth` is a tree's, `leaf_weight` the least sum of second derivatives in a leaf; `columns` the share that a
    split sees, `rows` the share that a tree sees."""

    def __init__(
        self,
        components: int = 64,
        depth: int = 4,
        leaf_weight: float = 1.0,
        learning_rate: float = 0.1,
        columns: float = 0.5,
        rows: float = 0.8,
        l2: float = 1.0,
        class_weight: Any = None,
        rounds: int = 600,
        random_state: int = 0,
    ):
        self.components = components
        self.depth = depth
        self.leaf_weight = leaf_weight
        self.learning_rate = learning_rate
        self.columns = columns
        self.rows = rows
        self.l2 = l2
        self.class_weight = class_weight
        self.rounds = rounds
        self.random_state = random_state

    def _settings(self) -> dict[str, Any]:
        two = len(self.classes_) == 2
        return {
            "objective": "binary:logistic" if two else "multi:softprob",
            **({} if two else {"num_class": len(self.classes_)}),
            "eval_metric": "logloss" if two else "mlogloss",
            "tree_method": "hist",
            "max_depth": self.depth,
            "min_child_weight": self.leaf_weight,
            "learning_rate": self.learning_rate,
            "colsample_bynode": self.columns,
            "subsample": self.rows,
            "reg_lambda": self.l2,
            "seed": self.random_state,
            "device": _xgboost_device(),
            "verbosity": 0,
        }

    def _rounds(self, part: Any, rest: Any, rounds: int, look: Callable[[Any, int], None]) -> int:
        import xgboost

        class Looking(xgboost.callback.TrainingCallback):
            def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
                look(model, epoch + 1)
                return False

        train, seen = (xgboost.DMatrix(rows, labels, weight=weights) for rows, labels, weights in (part, rest))
        booster = xgboost.train(
            self._settings(),
            train,
            rounds,
            evals=[(seen, "held_out")],
            early_stopping_rounds=PATIENCE,
            verbose_eval=False,
            callbacks=[Looking()],
        )
        return booster.best_iteration + 1

    def _grown(self, rows: np.ndarray, labels: np.ndarray, weights: np.ndarray, rounds: int) -> Any:
        import xgboost

        booster = xgboost.train(self._settings(), xgboost.DMatrix(rows, labels, weight=weights), rounds)
        booster.set_param({"device": "cpu"})  # a few trees on a few rows: the way to a GPU is longer
        return booster

    def _probabilities(self, rows: np.ndarray) -> np.ndarray:
        import xgboost

        return self.booster_.predict(xgboost.DMatrix(rows))

    def _written(self, booster: Any) -> bytes:
        return bytes(booster.save_raw("ubj"))

    def _read(self, content: bytes) -> Any:
        import xgboost

        booster = xgboost.Booster({"verbosity": 0})
        try:
            booster.load_model(bytearray(content))
        except xgboost.core.XGBoostError as error:
            first_line = str(error).strip().splitlines()[0]
            raise ValueError(f"it holds no XGBoost model: {first_line}") from error
        return booster


def _sees_a_gpu() -> bool:
    """Whether this process has an NVIDIA GPU: a worker on the CPU is shown none."""
    import torch

    return torch.cuda.is_available()


def _xgboost_device() -> str:
    import xgboost

    return "cuda" if xgboost.build_info().get("USE_CUDA") and _sees_a_gpu() else "cpu"


def _lightgbm_device() -> str:
    return "cuda" if _sees_a_gpu() and _lightgbm_has_cuda() else "cpu"


@lru_cache(maxsize=1)
def _lightgbm_has_cuda() -> bool:
    """PyPI's wheels haven't; who compiles LightGBM with CUDA gets it. There is no asking but by trying."""
    import lightgbm

    rows = np.arange(40, dtype=np.float32)[:, None]
    settings = {"objective": "binary", "device_type": "cuda", "verbosity": -1}
    try:
        lightgbm.train(settings, lightgbm.Dataset(rows, rows[:, 0] > 20, params=settings), 1)
    except lightgbm.basic.LightGBMError:
        return False
    return True
