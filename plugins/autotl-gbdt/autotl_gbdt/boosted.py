"""Scikit-learn classifiers around LightGBM and XGBoost. Not imported when the heads are registered.

Trees are grown on principal components: on thousands of raw features they take a hundred times as long and are no
more accurate. The saved state is the library's own format (LightGBM's text, XGBoost's JSON), not a pickle.
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
from autotl_gbdt.verification import checked_lightgbm, checked_xgboost

__all__ = ["LightGBMClassifier", "XGBoostClassifier", "holdout_mask"]

OnProgress: TypeAlias = Callable[[float], None]
AfterRound: TypeAlias = Callable[[Any, int], None]
"""`after_round(booster, number of completed rounds)`."""
Samples: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Features [n, components], labels [n], sample weights [n]."""

HOLDOUT = 0.15
"""The fraction of the training images that early stopping holds out."""
MIN_CLASS_SIZE = 5
"""No images are held out of a class with fewer."""
PATIENCE = 30
"""Early stopping: rounds without a smaller loss of the held-out images."""
DEFAULT_ROUNDS = 100
"""The number of rounds where no images can be held out."""
MAX_TREES = 6_000
"""A round grows one tree per class, so many classes mean fewer rounds."""
PROGRESS_CALLS = 20
"""The largest number of calls of `on_progress` per fit."""


def holdout_mask(labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """A mask [n] of the samples that early stopping holds out: a fraction of each class's images, with all their views.

    Args:
        labels: [n], 0 … num_classes-1.
        groups: [n], the number of the image that each sample is a view of.
    """
    rng = np.random.default_rng(seed)
    images, first = np.unique(groups, return_index=True)
    held_out = []
    for label in np.unique(labels):
        of_class = images[labels[first] == label]
        if len(of_class) >= MIN_CLASS_SIZE:
            held_out.append(rng.permutation(of_class)[: round(HOLDOUT * len(of_class))])
    return np.isin(groups, np.concatenate(held_out)) if held_out else np.zeros(len(labels), bool)


class Boosted(ClassifierMixin, BaseEstimator):
    """Standardised features, principal components, boosted trees.

    The number of rounds is found by early stopping on held-out images; the final trees are grown on all samples.
    """

    components: int
    class_weight: Any
    max_rounds: int
    random_state: int

    def fit(self, X: Any, y: Any, groups: Any = None, on_progress: OnProgress | None = None) -> "Boosted":
        """Fit on samples [n, num_features] and labels [n].

        Args:
            groups: [n], the number of the image that each sample is a view of; by default each sample is an image.
            on_progress: called with the fraction of completed rounds, at most PROGRESS_CALLS times. During the call
                this classifier predicts with the trees grown so far. An exception it raises ends the fit.
        """
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"Samples of at least two classes are needed, got one class: {self.classes_[0]}")
        self.compress_ = make_pipeline(StandardScaler(), Components(self.components, random_state=self.random_state))
        features = self.compress_.fit_transform(X).astype(np.float32)
        weights = compute_sample_weight(self.class_weight, labels)
        groups = np.arange(len(features)) if groups is None else np.asarray(groups)
        held_out = holdout_mask(labels, groups, self.random_state)
        rounds = min(self.max_rounds, max(10, MAX_TREES // self._trees_per_round()))
        if held_out.any():
            train, holdout = ((features[mask], labels[mask], weights[mask]) for mask in (~held_out, held_out))
            rounds = self._best_rounds(train, holdout, rounds, self._after_round(rounds, on_progress))
        else:
            rounds = min(rounds, DEFAULT_ROUNDS)
        self.booster_ = self._grow((features, labels, weights), rounds)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """[n, num_classes], in the order of `classes_`."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        probabilities = self._probabilities(self.compress_.transform(X).astype(np.float32))
        return probabilities if probabilities.ndim == 2 else np.stack([1 - probabilities, probabilities], axis=1)

    def predict(self, X: Any) -> np.ndarray:
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(1)]

    def to_module(self) -> Any:
        """A torch module from features [N, num_features] to what `predict_proba` returns: for exports."""
        from autotl_gbdt.modules import boosted_module

        check_is_fitted(self)
        at_0 = np.zeros((1, self.compress_[-1].pca_.n_components_), np.float32)
        return boosted_module(self.compress_, *self._trees_and_margins(at_0))

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "booster_" in state:
            state["booster_"] = self._to_bytes(state["booster_"])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Raises ValueError where the trees can't be read."""
        state = dict(state)
        if "booster_" in state:
            num_components = int(state["compress_"][-1].pca_.n_components_)
            state["booster_"] = self._from_bytes(state["booster_"], num_components, len(state["classes_"]))
        super().__setstate__(state)

    def _trees_per_round(self) -> int:
        return 1 if len(self.classes_) == 2 else len(self.classes_)

    def _after_round(self, rounds: int, on_progress: OnProgress | None) -> AfterRound:
        interval = max(1, rounds // PROGRESS_CALLS)

        def after_round(booster: Any, completed: int) -> None:
            if on_progress and completed % interval == 0 and completed < rounds:
                self.booster_ = booster
                on_progress(completed / rounds)

        return after_round

    @abstractmethod
    def _best_rounds(self, train: Samples, holdout: Samples, rounds: int, after_round: AfterRound) -> int:
        """The number of rounds on `train`, up to `rounds`, after which the loss of `holdout` is smallest."""

    @abstractmethod
    def _grow(self, samples: Samples, rounds: int) -> Any:
        """A booster of `rounds` rounds."""

    @abstractmethod
    def _probabilities(self, features: np.ndarray) -> np.ndarray:
        """[n] of the second class where there are two, else [n, num_classes]."""

    @abstractmethod
    def _trees_and_margins(self, features: np.ndarray) -> tuple[list[Any], np.ndarray]:
        """The trees (`autotl.heads.tree_modules.Tree`), and the sums whose sigmoid or softmax are probabilities."""

    @abstractmethod
    def _to_bytes(self, booster: Any) -> bytes:
        """A booster in its library's own format."""

    @abstractmethod
    def _from_bytes(self, content: bytes, num_features: int, num_classes: int) -> Any:
        """The inverse of `_to_bytes`. Raises ValueError where `content` is not a model for these features, which are
        components, and classes."""


class LightGBMClassifier(Boosted):
    """LightGBM with early stopping. Hyperparameters are named as in LightGBM's scikit-learn API; `subsample` and
    `colsample` are the fractions of the samples and features that a tree sees."""

    def __init__(
        self,
        components: int = 64,
        num_leaves: int = 15,
        min_child_samples: int = 5,
        learning_rate: float = 0.1,
        colsample: float = 0.5,
        subsample: float = 0.8,
        reg_lambda: float = 1.0,
        class_weight: Any = None,
        max_rounds: int = 600,
        random_state: int = 0,
    ):
        self.components = components
        self.num_leaves = num_leaves
        self.min_child_samples = min_child_samples
        self.learning_rate = learning_rate
        self.colsample = colsample
        self.subsample = subsample
        self.reg_lambda = reg_lambda
        self.class_weight = class_weight
        self.max_rounds = max_rounds
        self.random_state = random_state

    def _settings(self) -> dict[str, Any]:
        binary = len(self.classes_) == 2
        return {
            "objective": "binary" if binary else "multiclass",
            **({} if binary else {"num_class": len(self.classes_)}),
            "num_leaves": self.num_leaves,
            "min_data_in_leaf": self.min_child_samples,
            "learning_rate": self.learning_rate,
            "feature_fraction": self.colsample,
            "bagging_fraction": self.subsample,
            "bagging_freq": 1,
            "lambda_l2": self.reg_lambda,
            "seed": self.random_state,
            "deterministic": True,
            "force_col_wise": True,  # by default LightGBM times both layouts, whose sums differ in their last bits
            "device_type": _lightgbm_device(),
            "verbosity": -1,
        }

    def _best_rounds(self, train: Samples, holdout: Samples, rounds: int, after_round: AfterRound) -> int:
        import lightgbm

        settings = self._settings()
        train_set = lightgbm.Dataset(train[0], train[1], weight=train[2], params=settings)
        holdout_set = train_set.create_valid(holdout[0], holdout[1], weight=holdout[2])
        stop = lightgbm.early_stopping(PATIENCE, verbose=False)
        booster = lightgbm.train(
            settings,
            train_set,
            rounds,
            [holdout_set],
            callbacks=[lambda env: after_round(env.model, env.iteration + 1), stop],
        )
        return booster.best_iteration or rounds

    def _grow(self, samples: Samples, rounds: int) -> Any:
        import lightgbm

        features, labels, weights = samples
        settings = self._settings()
        return lightgbm.train(settings, lightgbm.Dataset(features, labels, weight=weights, params=settings), rounds)

    def _probabilities(self, features: np.ndarray) -> np.ndarray:
        return np.asarray(self.booster_.predict(features))

    def _trees_and_margins(self, features: np.ndarray) -> tuple[list[Any], np.ndarray]:
        from autotl_gbdt.modules import lightgbm_trees

        return lightgbm_trees(self.booster_), np.asarray(self.booster_.predict(features, raw_score=True))

    def _to_bytes(self, booster: Any) -> bytes:
        return booster.model_to_string(num_iteration=-1).encode()

    def _from_bytes(self, content: bytes, num_features: int, num_classes: int) -> Any:
        import lightgbm

        try:
            return lightgbm.Booster(model_str=checked_lightgbm(content, num_features, num_classes))
        except (ValueError, lightgbm.basic.LightGBMError) as error:
            raise ValueError(f"not a LightGBM model: {error}") from error


class XGBoostClassifier(Boosted):
    """XGBoost with early stopping. Hyperparameters are named as in XGBoost's scikit-learn API; `subsample` is the
    fraction of the samples that a tree sees, `colsample` that of the features that a split sees."""

    def __init__(
        self,
        components: int = 64,
        max_depth: int = 4,
        min_child_weight: float = 1.0,
        learning_rate: float = 0.1,
        colsample: float = 0.5,
        subsample: float = 0.8,
        reg_lambda: float = 1.0,
        class_weight: Any = None,
        max_rounds: int = 600,
        random_state: int = 0,
    ):
        self.components = components
        self.max_depth = max_depth
        self.min_child_weight = min_child_weight
        self.learning_rate = learning_rate
        self.colsample = colsample
        self.subsample = subsample
        self.reg_lambda = reg_lambda
        self.class_weight = class_weight
        self.max_rounds = max_rounds
        self.random_state = random_state

    def _settings(self) -> dict[str, Any]:
        binary = len(self.classes_) == 2
        return {
            "objective": "binary:logistic" if binary else "multi:softprob",
            **({} if binary else {"num_class": len(self.classes_)}),
            "eval_metric": "logloss" if binary else "mlogloss",
            "tree_method": "hist",
            "max_depth": self.max_depth,
            "min_child_weight": self.min_child_weight,
            "learning_rate": self.learning_rate,
            "colsample_bynode": self.colsample,
            "subsample": self.subsample,
            "reg_lambda": self.reg_lambda,
            "seed": self.random_state,
            "device": _xgboost_device(),
            "verbosity": 0,
        }

    def _best_rounds(self, train: Samples, holdout: Samples, rounds: int, after_round: AfterRound) -> int:
        import xgboost

        class AfterRoundCallback(xgboost.callback.TrainingCallback):
            def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
                after_round(model, epoch + 1)
                return False

        train_set, holdout_set = (
            xgboost.DMatrix(features, labels, weight=weights) for features, labels, weights in (train, holdout)
        )
        booster = xgboost.train(
            self._settings(),
            train_set,
            rounds,
            evals=[(holdout_set, "holdout")],
            early_stopping_rounds=PATIENCE,
            verbose_eval=False,
            callbacks=[AfterRoundCallback()],
        )
        return booster.best_iteration + 1

    def _grow(self, samples: Samples, rounds: int) -> Any:
        import xgboost

        features, labels, weights = samples
        booster = xgboost.train(self._settings(), xgboost.DMatrix(features, labels, weight=weights), rounds)
        booster.set_param({"device": "cpu"})  # prediction is cheap: copying the features to a GPU would take longer
        return booster

    def _probabilities(self, features: np.ndarray) -> np.ndarray:
        import xgboost

        return self.booster_.predict(xgboost.DMatrix(features))

    def _trees_and_margins(self, features: np.ndarray) -> tuple[list[Any], np.ndarray]:
        import xgboost

        from autotl_gbdt.modules import xgboost_trees

        margins = self.booster_.predict(xgboost.DMatrix(features), output_margin=True)
        return xgboost_trees(self.booster_), margins

    def _to_bytes(self, booster: Any) -> bytes:
        return bytes(booster.save_raw("json"))

    def _from_bytes(self, content: bytes, num_features: int, num_classes: int) -> Any:
        import xgboost

        booster = xgboost.Booster({"verbosity": 0})
        try:
            booster.load_model(checked_xgboost(content, num_features, num_classes))
        except (ValueError, xgboost.core.XGBoostError) as error:
            first_line = str(error).strip().splitlines()[0]
            raise ValueError(f"not an XGBoost model: {first_line}") from error
        return booster


def _has_gpu() -> bool:
    """Whether this process sees an NVIDIA GPU: the GPUs are hidden from a worker on the CPU."""
    import torch

    return torch.cuda.is_available()


def _xgboost_device() -> str:
    import xgboost

    return "cuda" if xgboost.build_info().get("USE_CUDA") and _has_gpu() else "cpu"


def _lightgbm_device() -> str:
    return "cuda" if _has_gpu() and _lightgbm_has_cuda() else "cpu"


@lru_cache(maxsize=1)
def _lightgbm_has_cuda() -> bool:
    """Whether LightGBM was compiled with CUDA, which PyPI's wheels aren't. LightGBM doesn't state it, so try it."""
    import lightgbm

    features = np.arange(40, dtype=np.float32)[:, None]
    settings = {"objective": "binary", "device_type": "cuda", "verbosity": -1}
    try:
        lightgbm.train(settings, lightgbm.Dataset(features, features[:, 0] > 20, params=settings), 1)
    except lightgbm.basic.LightGBMError:
        return False
    return True
