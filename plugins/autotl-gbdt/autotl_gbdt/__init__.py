"""Gradient-boosted trees on recorded features: heads `lightgbm` and `xgboost`."""

from typing import TYPE_CHECKING, Any

import autotl
from autotl.heads.base import Head
from autotl.recipe import Params, Space

if TYPE_CHECKING:
    from autotl.registration import Register

__all__ = ["LightGBM", "XGBoost", "autotl_register_heads"]

COMPONENTS = "autotl.heads.estimators.Components"
COMMON: Params = {
    "components": 64,
    "learning_rate": 0.1,
    "colsample": 0.5,
    "subsample": 0.8,
    "reg_lambda": 1.0,
    "class_weight": None,
}


def _suggest_common(space: Space) -> dict[str, Any]:
    """The hyperparameters that both libraries have. Early stopping finds the number of trees."""
    return {
        "components": space.int("components", 16, 256, log=True),
        "learning_rate": space.float("learning_rate", 0.02, 0.3, log=True),
        "colsample": space.float("colsample", 0.2, 1.0),
        "subsample": space.float("subsample", 0.5, 1.0),
        "reg_lambda": space.float("reg_lambda", 1e-2, 10.0, log=True),
        "class_weight": space.categorical("class_weight", (None, "balanced")),
    }


class LightGBM(Head):
    """LightGBM: trees grow leaf by leaf (Ke et al., NeurIPS 2017)."""

    name = "lightgbm"
    type = "estimator"
    max_train_samples = 20_000  # computing the principal components copies the features
    trusted = (COMPONENTS, "autotl_gbdt.boosted.LightGBMClassifier")

    def suggest(self, space: Space) -> dict[str, Any]:
        return {
            "num_leaves": space.int("num_leaves", 4, 31, log=True),
            "min_child_samples": space.int("min_child_samples", 2, 30, log=True),
            **_suggest_common(space),
        }

    def defaults(self) -> Params:
        return {"num_leaves": 15, "min_child_samples": 5, **COMMON}

    def build(self, params: Params, num_features: int, num_classes: int, seed: int) -> Any:
        from autotl_gbdt.boosted import LightGBMClassifier

        hyperparameters: dict[str, Any] = dict(params)
        return LightGBMClassifier(**hyperparameters, random_state=seed)


class XGBoost(Head):
    """XGBoost: trees grow level by level (Chen & Guestrin, KDD 2016). Runs on the worker's GPU if there is one."""

    name = "xgboost"
    type = "estimator"
    max_train_samples = 20_000
    trusted = (COMPONENTS, "autotl_gbdt.boosted.XGBoostClassifier")

    def suggest(self, space: Space) -> dict[str, Any]:
        return {
            "max_depth": space.int("max_depth", 2, 6),
            "min_child_weight": space.float("min_child_weight", 0.1, 10.0, log=True),
            **_suggest_common(space),
        }

    def defaults(self) -> Params:
        return {"max_depth": 4, "min_child_weight": 1.0, **COMMON}

    def build(self, params: Params, num_features: int, num_classes: int, seed: int) -> Any:
        from autotl_gbdt.boosted import XGBoostClassifier

        hyperparameters: dict[str, Any] = dict(params)
        return XGBoostClassifier(**hyperparameters, random_state=seed)


@autotl.hookimpl
def autotl_register_heads(register: "Register[Head]") -> None:
    register(LightGBM())
    register(XGBoost())
