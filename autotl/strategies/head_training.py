"""Train a new head on recorded features: its search space, its defaults, and the training itself."""

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

MIN_BATCH, MAX_BATCH = 64, 512
"""Bounds of the batch size for recorded features; between them an epoch has eight steps. The cost of a step hardly
depends on its number of samples."""


def suggest_head_training(space: Space, head: Head) -> dict[str, Any]:
    """The training parameters of a dense head on recorded features; none for an estimator."""
    if head.type != "dense":
        return {}
    return {
        "lr": space.float("lr", 1e-4, 1e-2, log=True),
        "weight_decay": space.float("weight_decay", 1e-4, 1.0, log=True),
        "epochs": space.int("epochs", 5, 30, log=True),
        "label_smoothing": space.float("label_smoothing", 0.0, 0.2),
        "mixup": space.categorical("mixup", (0.0, 0.2, 0.8)),
        "class_weight": space.categorical("class_weight", (None, "balanced")),
        "loss": space.categorical("loss", space.losses),
    }


def head_training_defaults(head: Head) -> Params:
    """A good value for each parameter of `suggest_head_training`."""
    if head.type != "dense":
        return {}
    return {
        "lr": 1e-3,
        "weight_decay": 0.05,
        "epochs": 20,
        "label_smoothing": 0.05,
        "mixup": 0.0,
        "class_weight": None,
        "loss": "cross_entropy",
    }


def fit_head(
    recipe: Recipe,
    task: Task,
    device: str,
    report: Report,
    levels: str,
    features: np.ndarray,
    labels: np.ndarray,
    views: tuple[View, ...] = (ORIGINAL,),
    groups: np.ndarray | None = None,
) -> Result:
    """Train a new head, dense or estimator, on recorded features.

    Args:
        levels: the feature levels that `features` are of.
        features: [n, num_features].
        labels: [n].
        views: test-time augmentation: predictions are averaged over these.
        groups: [n], the number of the image that each sample is of. By default `features` holds one view of all
            training images in the order of the task, then the next view. Where the task has folds, it does, and the
            first of these views are `views`.

    Raises:
        OutOfTime: the deadline passed.
        optuna.TrialPruned: `report` raised it.
    """
    from autotl.heads.inference import average_logits, decision_logits, probabilities

    head = task.head.build(recipe.head_params, features.shape[1], task.num_classes, recipe.seed)
    fitted = Fitted(levels, head, views=views)
    if task.folds is not None:
        num_images = len(task.train_labels)
        grouped = {"groups": np.arange(len(labels)) % num_images} if _accepts(head.fit, "groups") else {}
        head.fit(features, labels, folds=np.resize(task.folds, len(labels)), **grouped)
        decision = head.out_of_fold_decision_[: len(views) * num_images]
        of_views = decision_logits(decision, np.asarray(head.classes_), task.num_classes)
        out_of_fold = of_views.reshape(len(views), num_images, -1).mean(0)
        return Result(recipe, probabilities(out_of_fold, 1.0), fitted, logits=out_of_fold)
    validation = [task.features.levels("validation", levels, view) for view in views]
    if task.head.type == "estimator":
        optional = {
            "groups": np.arange(len(labels)) % len(task.train_labels) if groups is None else groups,
            "on_progress": _progress_callback(head, validation, task, report),
        }
        head.fit(features, labels, **{name: value for name, value in optional.items() if _accepts(head.fit, name)})
        logits = average_logits(head, validation, task.num_classes)
        return Result(recipe, probabilities(logits, 1.0), fitted, logits=logits)

    trained = train_head(head, features, labels, validation, recipe.strategy_params, task, device, report, recipe.seed)
    executed = trained.executed_recipe(recipe)
    return Result(executed, trained.probabilities, fitted, trained.history, trained.best_epoch)


def _accepts(function: Callable[..., Any], parameter: str) -> bool:
    return parameter in inspect.signature(function).parameters


def _progress_callback(
    head: Any, validation: Sequence[np.ndarray], task: Task, report: Report
) -> Callable[[float], None]:
    """The `on_progress` of an estimator's `fit`: reports the validation score, and may end the trial by raising."""
    from autotl.heads.inference import average_logits, probabilities

    best: float | None = None

    def on_progress(fraction: float) -> None:
        nonlocal best
        if task.deadline.passed():
            raise OutOfTime(f"the time ran out after {fraction:.0%} of the fit")
        predicted = probabilities(average_logits(head, validation, task.num_classes), 1.0)
        score = task.metric(task.validation_labels, predicted)
        if best is None or task.metric.better(score, best):
            best = score
        report(fraction, best)

    return on_progress


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
    """Train a dense head on recorded features [n, num_features].

    All features are moved to the device at once and batches are indexed there: no data loader, no worker processes.

    Args:
        validation: the features of the validation images, once per test-time view.
        params: with at least `lr`, `weight_decay` and `epochs`; see `TrainingConfig`.

    Raises:
        OutOfTime, Diverged, optuna.TrialPruned: see `train`.
    """
    import torch

    from autotl.heads.inference import average_logits, probabilities
    from autotl.strategies.param_groups import no_weight_decay, parameter_groups
    from autotl.strategies.training_loop import TrainingConfig, train

    head.to(device)
    x, y = torch.from_numpy(features).to(device), torch.from_numpy(labels).to(device)
    batch = min(len(x), max(MIN_BATCH, min(len(x) // 8, MAX_BATCH)))

    def batches(epoch: int, generator: "torch.Generator") -> "Iterator[tuple[Tensor, Tensor]]":
        order = torch.randperm(len(x), generator=generator).to(device)
        for selection in order[: len(x) // batch * batch].split(batch):
            yield x.index_select(0, selection), y[selection]  # index_select takes a quarter of the time of x[selection]

    lr, weight_decay = float(params["lr"] or 0), float(params["weight_decay"] or 0)
    return train(
        head,
        parameter_groups(head.named_parameters(), lr, weight_decay, no_weight_decay(head)),
        batches,
        len(x) // batch,
        lambda network: probabilities(average_logits(network, validation, task.num_classes), 1.0),
        TrainingConfig.from_params(params),
        task,
        report,
        seed,
        fit_epochs="stop_after" not in params,
    )
