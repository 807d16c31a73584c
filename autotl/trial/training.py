"""Train a recipe: in a trial, for one of its folds, in a replay or a refit."""

from copy import deepcopy

import numpy as np

from autotl.recipe import Recipe
from autotl.strategies.base import Features, Report, Result, Task
from autotl.trial.state import WorkerState
from autotl.workers.messages import Log

__all__ = ["train"]


def train(
    state: WorkerState,
    recipe: Recipe,
    time_budget: float,
    report: Report,
    refit_epochs: int | None = None,
    *,
    features: Features | None = None,
    folds: np.ndarray | None = None,
) -> Result:
    """Train a recipe on the training images of the state. Its probabilities aren't calibrated.

    Args:
        time_budget: seconds of training to plan for.
        refit_epochs: exact number of epochs, for a refit (see `Task.refit_epochs`).
        features: of the split's images; by default those of the state's extractor.
        folds: of the training images (see `Task.folds`).
    """
    backbone = state.registry.backbone(recipe.backbone)
    extracted = state.extractor.of(backbone)
    task = Task(
        backbone=backbone,
        head=state.registry.head(recipe.head),
        num_classes=len(state.context.dataset.classes),
        train_labels=state.labels("train"),
        validation_labels=state.labels("validation"),
        metric=state.registry.metric(state.context.config.metric),
        features=features or extracted,
        threads=state.context.slot.threads,
        deadline=state.deadline,
        time_budget=time_budget,
        log=lambda line: state.send(Log(line)),
        refit_epochs=refit_epochs,
        folds=folds,
        verdicts=state.extractor.conversions,
        augmentations=state.registry.augmentations,
        losses=state.registry.losses,
        build=lambda: deepcopy(extracted.graph_split.module),
    )
    return state.registry.strategy(recipe.strategy).fit(recipe, task, state.context.slot.device, report)
