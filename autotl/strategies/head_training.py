"""A new head on recorded features: how it is searched, fitted and reported."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from autotl.data.augmentation import ORIGINAL, View
from autotl.heads.base import Head
from autotl.recipe import Params, Recipe, Space
from autotl.strategies.base import Fitted, OutOfTime, Report, Result, Task

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from autotl.strategies.training_loop import Trained

__all__ = ["fit_head", "head_training_defaults", "suggest_head_training", "train_head"]

SMALLEST_BATCH, LARGEST_BATCH = 64, 512
"""Of rows of recorded features; between them an epoch is eight steps. What a step costs is mostly not its rows."""


def suggest_head_training(space: Space, head: Head) -> dict[str, Any]:
    """How to train a dense head on recorded features; an estimator trains itself."""
    if head.type != "dense":
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
    if head.type != "dense":
        return {}
    return {"lr": 1e-3, "weight_decay": 0.05, "epochs": 20, "label_smoothing": 0.05, "mixup": 0.0, "balanced": False}


def fit_head(
    recipe: Recipe,
    task: Task,
    device: str,
    report: Report,
    levels: str,
    features: np.ndarray,
    labels: np.ndarray,
    views: tuple[View, ...] = (ORIGINAL,),
) -> Result:
    """A new head, dense or estimator, on recorded features [n, num_features].

    Rows are views of the task's training images: all images in their order, then all of them again. What the model
    predicts is averaged over `views`.
    """
    from autotl.heads.inference import average_logits, probabilities

    validation = [task.features.levels("validation", levels, view) for view in views]
    head = task.head.build(recipe.head_params, features.shape[1], task.num_classes, recipe.seed)
    if task.head.type == "estimator":
        images = np.arange(len(labels)) % len(task.train_labels)
        watch = _watch(head, validation, task, report)
        asked = inspect.signature(head.fit).parameters
        head.fit(features, labels, **{k: v for k, v in {"images": images, "watch": watch}.items() if k in asked})
        found = probabilities(average_logits(head, validation, task.num_classes), 1.0)
        return Result(recipe, found, Fitted(levels, head, views=views))

    trained = train_head(head, features, labels, validation, recipe.strategy_params, task, device, report, recipe.seed)
    fitted = Fitted(levels, head, views=views)
    return Result(trained.carried_out(recipe), trained.probabilities, fitted, trained.history, trained.best_epoch)


def _watch(head: Any, validation: Sequence[np.ndarray], task: Task, report: Report) -> Callable[[float], None]:
    """What an estimator calls while it is fitted: its validation score is reported, its trial may end here."""
    from autotl.heads.inference import average_logits, probabilities

    best: list[float] = []

    def watch(fraction: float) -> None:
        if task.deadline.passed():
            raise OutOfTime(f"the time was up after {fraction:.0%} of the fit")
        found = probabilities(average_logits(head, validation, task.num_classes), 1.0)
        score = task.metric(task.validation_labels, found)
        if not best or task.metric.better(score, best[0]):
            best[:] = [score]
        report(fraction, best[0])

    return watch


def train_head(
    head: "nn.Module",
    features: np.ndarray,
    labels: np.ndarray,
    validation: Sequence[np.ndarray],
    params: Params,
    task: Task,
    device: str,
    report: Report,
    seed: int,
) -> "Trained":
    """A dense head on recorded features [n, num_features], in steps over the whole array: no loader, no workers.

    `validation` holds the features of the validation images, once for each view that the model looks at.
    """
    import torch

    from autotl.heads.inference import average_logits, probabilities
    from autotl.strategies.training_loop import TrainingConfig, train

    head.to(device)
    x, y = torch.from_numpy(features).to(device), torch.from_numpy(labels).to(device)
    batch = min(len(x), max(SMALLEST_BATCH, min(len(x) // 8, LARGEST_BATCH)))

    def batches(epoch: int, generator: "torch.Generator") -> "Iterator[tuple[Tensor, Tensor]]":
        order = torch.randperm(len(x), generator=generator).to(device)
        for rows in order[: len(x) // batch * batch].split(batch):
            yield x.index_select(0, rows), y[rows]  # a quarter of the time of x[rows]

    groups = [{"params": list(head.parameters()), "lr": params["lr"], "weight_decay": params["weight_decay"]}]
    return train(
        head,
        groups,
        batches,
        len(x) // batch,
        lambda network: probabilities(average_logits(network, validation, task.num_classes), 1.0),
        TrainingConfig.from_params(params),
        task,
        report,
        seed,
        fit_epochs="stop_after" not in params,
    )
