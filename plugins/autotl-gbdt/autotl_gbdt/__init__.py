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
    "columns": 0.5,
    "rows": 0.8,
    "l2": 1.0,
    "class_weight": None,
}


def _suggest_common(space: Space) -> dict[str, Any]:
    """What both libraries have. How many trees there are is no choice: early stopping finds out."""
    return {
        "components": space.int("components", 16, 256, log=True),
        "learning_rate": space.float("learning_rate", 0.02, 0.3, log=True),
        "columns": space.float("columns", 0.2, 1.0),
        "rows": space.float("rows", 0.5, 1.0),
        "l2": space.float("l2", 1e-2, 10.0, log=True),
        "class_weight": space.categorical("class_weight", (None, "balanced")),
    }


class LightGBM(Head):
    """LightGBM: trees grow leaf by leaf (Ke et al., NeurIPS 2017)."""

    name = "lightgbm"
    type = "estimator"
    max_train_samples = 20_000  # the principal components want a copy of the rows
    trusted = (COMPONENTS, "autotl_gbdt.boosted.LightGBMClassifier")

    def suggest(self, space: Space) -> dict[str, Any]:
        return {
            "leaves": space.int("leaves", 4, 31, log=True),
            "leaf_rows": space.int("leaf_rows", 2, 30, log=True),
            **_suggest_common(space),
        }

    def defaults(self) -> Params:
        return {"leaves": 15, "leaf_rows": 5, **COMMON}

    def build(self, params: Params, num_features: int, num_classes: int, seed: int) -> Any:
        from autotl_gbdt.boosted import LightGBMClassifier

        design: dict[str, Any] = dict(params)
        return LightGBMClassifier(**design, random_state=seed)


class XGBoost(Head):
    """XGBoost: trees grow level by level (Chen & Guestrin, KDD 2016). On the GPU where there is one."""

    name = "xgboost"
    type = "estimator"
    max_train_samples = 20_000
    trusted = (COMPONENTS, "autotl_gbdt.boosted.XGBoostClassifier")

    def suggest(self, space: Space) -> dict[str, Any]:
        return {
            "depth": space.int("depth", 2, 6),
            "leaf_weight": space.float("leaf_weight", 0.1, 10.0, log=True),
            **_suggest_common(space),
        }

    def defaults(self) -> Params:
        return {"depth": 4, "leaf_weight": 1.0, **COMMON}

    def build(self, params: Params, num_features: int, num_classes: int, seed: int) -> Any:
        from autotl_gbdt.boosted import XGBoostClassifier

        design: dict[str, Any] = dict(params)
        return XGBoostClassifier(**design, random_state=seed)


@autotl.hookimpl
def autotl_register_heads(register: "Register[Head]") -> None:
    register(LightGBM())
    register(XGBoost())
