"""Fast feature extraction: the backbone runs once over the images, a new classifier learns from what it recorded."""

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from autotl.backbones.backbone import TAPS, Backbone
from autotl.data.views import PLAIN, View
from autotl.heads.head import Head
from autotl.recipe import Params, Recipe, Space
from autotl.strategies.strategy import Fitted, OutOfTime, Report, Result, Strategy, Task

if TYPE_CHECKING:
    from autotl.register import Register

__all__ = ["FastExtraction", "fit_head", "head_training_defaults", "suggest_head_training"]


class FastExtraction(Strategy):
    """Cheap, no GPU needed, no augmentation."""

    name = "fast_extraction"

    def suggest(self, space: Space, backbone: Backbone, head: Head) -> dict[str, Any]:
        return {"taps": space.categorical("taps", TAPS), **suggest_head_training(space, head)}

    def defaults(self, head: Head) -> Params:
        return {"taps": "last", **head_training_defaults(head)}

    def fit(self, recipe: Recipe, task: Task, device: str, report: Report) -> Result:
        taps = str(recipe.strategy_params["taps"])
        return fit_head(recipe, task, device, report, taps, task.features.taps("train", taps), task.train_labels)


def suggest_head_training(space: Space, head: Head) -> dict[str, Any]:
    """How to train a dense head on recorded features; an estimator trains itself."""
    if head.kind != "dense":
        return {}
    return {
        "lr": space.float("lr", 1e-4, 1e-2, log=True),
        "weight_decay": space.float("weight_decay", 1e-4, 1.0, log=True),
        "epochs": space.int("epochs", 5, 30, log=True),
        "label_smoothing": space.float("label_smoothing", 0.0, 0.2),
        "mixup": space.categorical("mixup", (0.0, 0.2, 0.8)),
        "balanced": space.categorical("balanced", (False, True)),
    }


def head_training_defaults(head: Head) -> Params:
    if head.kind != "dense":
        return {}
    return {"lr": 1e-3, "weight_decay": 0.05, "epochs": 20, "label_smoothing": 0.05, "mixup": 0.0, "balanced": False}


def fit_head(
    recipe: Recipe,
    task: Task,
    device: str,
    report: Report,
    taps: str,
    features: np.ndarray,
    labels: np.ndarray,
    views: tuple[View, ...] = (PLAIN,),
) -> Result:
    """A new head, dense or estimator, on recorded features [n, n_features].

    Rows are views of the task's training images: all images in their order, then all of them again. What the model
    predicts is averaged over `views`.
    """
    from autotl.heads.predict import average_logits, probabilities

    validation = [task.features.taps("validation", taps, view) for view in views]
    head = task.head.build(recipe.head_params, features.shape[1], task.n_classes, recipe.seed)
    if task.head.kind == "estimator":
        images = np.arange(len(labels)) % len(task.train_labels)
        watch = _watch(head, validation, task, report)
        asked = inspect.signature(head.fit).parameters
        head.fit(features, labels, **{k: v for k, v in {"images": images, "watch": watch}.items() if k in asked})
        found = probabilities(average_logits(head, validation, task.n_classes), 1.0)
        return Result(recipe, found, Fitted(taps, head, views=views))

    from autotl.strategies.training import train_head

    trained = train_head(head, features, labels, validation, recipe.strategy_params, task, device, report, recipe.seed)
    fitted = Fitted(taps, head, views=views)
    return Result(trained.carried_out(recipe), trained.probabilities, fitted, trained.history, trained.best_epoch)


def _watch(head: Any, validation: Sequence[np.ndarray], task: Task, report: Report) -> Callable[[float], None]:
    """What an estimator calls while it is fitted: its validation score is reported, its trial may end here."""
    from autotl.heads.predict import average_logits, probabilities

    best: list[float] = []

    def watch(fraction: float) -> None:
        if task.seconds_left() <= 0:
            raise OutOfTime(f"the time was up after {fraction:.0%} of the fit")
        found = probabilities(average_logits(head, validation, task.n_classes), 1.0)
        score = task.metric(task.validation_labels, found)
        if not best or task.metric.better(score, best[0]):
            best[:] = [score]
        report(fraction, best[0])

    return watch


def autotl_register_strategies(register: "Register[Strategy]") -> None:
    register(FastExtraction())
