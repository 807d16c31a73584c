"""The strategy contract: one way to reuse a pretrained backbone on a new problem."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from autotl.backbones.base import Backbone
from autotl.clock import Deadline
from autotl.data.augmentation import BUILT_IN as BUILT_IN_AUGMENTATIONS
from autotl.data.augmentation import ORIGINAL, Augmentation, View
from autotl.errors import AutotlError
from autotl.heads.base import Head
from autotl.metrics import Metric
from autotl.recipe import Params, Recipe, Space
from autotl.strategies.losses import BUILT_IN as BUILT_IN_LOSSES
from autotl.strategies.losses import Loss

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["BoundaryActivations", "Features", "Fitted", "OutOfTime", "Report", "Result", "Strategy", "Task"]


class OutOfTime(AutotlError):
    """A trial doesn't fit into the remaining time. The search counts it as pruned."""


Report = Callable[[float, float], None]
"""`report(fraction, score)`: the completed fraction of the trial's budget, in (0, 1], and the best validation score so
far. Raises optuna.TrialPruned to end the trial; a strategy must let it through."""


class Features(Protocol):
    """A frozen backbone's outputs for the images of a study: recorded once, read from disk afterwards."""

    def levels(self, subset: Literal["train", "validation"], levels: str, view: View = ORIGINAL) -> np.ndarray:
        """Pooled outputs [n, num_features], float32. `levels` is a registered name (see `autotl.backbones.levels`)."""

    def boundary(
        self, subset: Literal["train", "validation"], block: int, view: View = ORIGINAL
    ) -> "BoundaryActivations | None":
        """The activations that enter block number `block`, one row per image; for block 0 the uint8 images. None where
        the backbone can't be split at that block."""


class BoundaryActivations(Protocol):
    """Activations, one row per image. Indexing reads the selected rows from disk, as an array, or takes them from an
    accelerator's memory, as a tensor there."""

    def __len__(self) -> int: ...

    def __getitem__(self, selection: slice | np.ndarray, /) -> Any: ...


@dataclass
class Task:
    """The problem a trial works on: labels, features, and its limits."""

    backbone: Backbone
    head: Head
    num_classes: int
    train_labels: np.ndarray
    validation_labels: np.ndarray
    metric: Metric
    features: Features
    threads: int = 1
    deadline: Deadline = field(default_factory=Deadline)
    """When the trial must have ended. A strategy that trains in epochs checks it and stops in time."""
    time_budget: float = math.inf
    """Seconds of training to plan for."""
    log: Callable[[str], None] = field(default=lambda line: None)
    refit_epochs: int | None = None
    """Set for the refit of a selected recipe, in which the validation images are training images too. A strategy that
    trains in epochs then trains exactly this many, regardless of the scores, and keeps the last."""
    folds: np.ndarray | None = None
    """Set where the head predicts folds (`Head.predicts_folds`): the fold of each training image, negative for images
    that no fold holds out. The validation images are training images too, and the result is out of fold."""
    verdicts: Path | None = None
    """Folder that keeps measurements on which a recipe's parameters depend (see `strategies.precision`), so that a
    repeated search gives the same recipes. None: each process measures for itself."""
    augmentations: Mapping[str, Augmentation] = field(default_factory=lambda: BUILT_IN_AUGMENTATIONS)
    """The policies of augmentation, by name."""
    losses: Mapping[str, Loss] = field(default_factory=lambda: BUILT_IN_LOSSES)
    """By name."""
    build: "Callable[[], nn.Module] | None" = None
    """Copies a pretrained network of the backbone that was built before; None where there is none."""

    def build_backbone(self) -> "nn.Module":
        """A new pretrained network of the backbone, on the CPU."""
        return self.build() if self.build else self.backbone.build()


@dataclass
class Fitted:
    """Everything needed to rebuild a trained model: feature levels, head, and the fine-tuned part of the backbone."""

    levels: str
    head: Any
    """A trained dense head (`nn.Module`) or a fitted scikit-learn classifier."""
    backbone_state: "dict[str, Tensor] | None" = None
    """Parameters and buffers of the unfrozen blocks by their names in the backbone, loaded over the pretrained ones;
    None where the whole backbone was frozen."""
    views: tuple[View, ...] = (ORIGINAL,)
    """Test-time augmentation: the head's logits are averaged over these views of an image."""
    temperature: float = 1.0
    """Probabilities are softmax(logits / temperature). The search fits it on the validation images for any strategy."""


@dataclass
class Result:
    """Outcome of a trial. `recipe` is what was actually trained; if time ran out it records `stop_after`, so that a
    replay reproduces the truncated run."""

    recipe: Recipe
    probabilities: np.ndarray
    """Of the validation images, [n, num_classes], float64, rows sum to 1. Where the task has folds, `Strategy.fit`
    returns those of the training images, each from a fit without its fold, NaN for images of no fold."""
    fitted: Fitted
    history: list[dict[str, float]] = field(default_factory=list)
    """One entry per epoch: epoch, loss, score, seconds."""
    best_epoch: int | None = None
    """The epoch whose weights were kept."""
    logits: np.ndarray | None = None
    """Of the same images as the probabilities: what the search fits the temperature to. None for the logarithms of the
    probabilities, which lack what is rounded to 0: some heads' logits lie hundreds apart."""


class Strategy(ABC):
    """One way to reuse a backbone."""

    name: str
    head_types: tuple[str, ...] = ("dense", "estimator")
    """The head types the strategy can train."""
    samples_per_image: int = 1
    """The least number of training samples the strategy gives a head per image. Heads whose `max_train_samples` is
    exceeded are not combined with the strategy."""

    cross_validated: bool = False
    """Whether trials are fitted once for each fold, so that all images but the test images are predicted out of fold.
    For strategies that read recorded features alone (`Features.levels`), and pass `Task.folds` on (see
    `strategies.head_training.fit_head`). They also get joined backbones, which have features and no network of their
    own (see `autotl.backbones.joined`)."""

    recorded_params: tuple[str, ...] = ()
    """Parameters that decide which features are recorded. Recording is a pass of the backbone over all images, so most
    trials reuse an earlier trial's values of these."""

    @abstractmethod
    def suggest(self, space: Space, backbone: Backbone, head: Head) -> dict[str, Any]:
        """The strategy's parameters, chosen from `space`. `fit` finds them in `recipe.strategy_params`."""

    def defaults(self, head: Head) -> Params:
        """A good value for each parameter of `suggest`, for the cheap warm-start portfolio."""
        return {}

    def expensive_defaults(self, head: Head, passes: int) -> list[Params]:
        """Parameter sets for the expensive warm-start portfolio; empty where there are none.

        Args:
            passes: all sets together may record at most this many passes of the backbone over the images.
        """
        return []

    @abstractmethod
    def fit(self, recipe: Recipe, task: Task, device: str, report: Report) -> Result:
        """Train `recipe` on `task` on a torch device (`"cpu"`, `"cuda:0"`).

        Raises:
            OutOfTime: the task's deadline leaves no time for the trial.
            optuna.TrialPruned: `report` raised it.
        """
