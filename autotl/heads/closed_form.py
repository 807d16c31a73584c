"""Closed-form heads: ridge regression on one-hot targets, whose fit compares 30 regularisations by exact leave-one-out
predictions. A trial's parameters are only those that the closed form can't search."""

from typing import TYPE_CHECKING, Any

from autotl.heads.base import Head
from autotl.recipe import Params, Space

if TYPE_CHECKING:
    from autotl.registration import Register

__all__ = ["KernelRidge", "Ridge"]

CLASS_WEIGHTS = (None, "balanced")
CLASSIFIER = "autotl.heads.kernel_ridge.KernelRidgeClassifier"


class Ridge(Head):
    """A linear function of the features; `power` below 1 makes outliers count less."""

    name = "ridge"
    type = "estimator"
    max_train_samples = 20_000
    predicts_folds = True
    trusted = (CLASSIFIER,)

    def suggest(self, space: Space) -> dict[str, Any]:
        return {
            "power": space.float("power", 0.3, 1.0),
            "class_weight": space.categorical("class_weight", CLASS_WEIGHTS),
        }

    def defaults(self) -> Params:
        return {"power": 0.5, "class_weight": None}

    def build(self, params: Params, num_features: int, num_classes: int, seed: int) -> Any:
        from autotl.heads.kernel_ridge import KernelRidgeClassifier

        hyperparameters: dict[str, Any] = {**params, "kernel": "linear"}
        return KernelRidgeClassifier(**hyperparameters, random_state=seed)


class KernelRidge(Head):
    """Ridge regression in a kernel's space. `width` is in units of the median distance of two samples."""

    name = "kernel_ridge"
    type = "estimator"
    max_train_samples = 20_000
    predicts_folds = True
    trusted = (CLASSIFIER,)

    def suggest(self, space: Space) -> dict[str, Any]:
        return {
            "kernel": space.categorical("kernel", ("rbf", "laplacian", "cosine", "linear")),
            "width": space.float("width", 0.05, 2.0, log=True),
            "power": space.float("power", 0.3, 1.0),
            "class_weight": space.categorical("class_weight", CLASS_WEIGHTS),
        }

    def defaults(self) -> Params:
        return {"kernel": "rbf", "width": 0.7, "power": 0.5, "class_weight": None}

    def build(self, params: Params, num_features: int, num_classes: int, seed: int) -> Any:
        from autotl.heads.kernel_ridge import KernelRidgeClassifier

        hyperparameters: dict[str, Any] = {**params}
        return KernelRidgeClassifier(**hyperparameters, random_state=seed)


def autotl_register_heads(register: "Register[Head]") -> None:
    register(Ridge())
    register(KernelRidge())
