"""The strategy contract: one way to reuse a pretrained backbone on a new problem."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from autotl.backbones.base import Backbone
from autotl.clock import Deadline
from autotl.data.augmentation import ORIGINAL, View
from autotl.errors import AutotlError
from autotl.heads.base import Head
from autotl.metrics import Metric
from autotl.recipe import Params, Recipe, Space

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Features", "Fitted", "OutOfTime", "Report", "Result", "Rows", "Strategy", "Task"]


class OutOfTime(AutotlError):
    """A trial can't be done in the time that is left. The search counts it as pruned."""


Report = Callable[[float, float], None]
"""`report(fraction_of_budget, score)`: tells how far a trial has come; raises optuna.TrialPruned to end it."""


class Features(Protocol):
    """What a frozen backbone makes of images: recorded once, read by every trial."""

    def levels(self, subset: Literal["train", "validation"], levels: str, view: View = ORIGINAL) -> np.ndarray:
        """Pooled outputs [n, num_features], float32. `levels` is one of `autotl.backbones.base.LEVELS`."""

    def boundary(self, subset: Literal["train", "validation"], block: int, view: View = ORIGINAL) -> "Rows | None":
        """What enters block number `block` (0: the images), one row an image; None where the backbone can't be
        split there."""


class Rows(Protocol):
    """Rows that lie on disk: indexing with a slice or an array reads those."""

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: slice | np.ndarray) -> np.ndarray: ...


@dataclass
class Task:
    """The problem that a trial works on: labels, features, and how long it may take."""

    backbone: Backbone
    head: Head
    num_classes: int
    train_labels: np.ndarray
    validation_labels: np.ndarray
    metric: Metric
    features: Features
    threads: int = 1
    deadline: Deadline = field(default_factory=Deadline)
    """When this trial has to be done; a strategy that trains in epochs stops before it."""
    time_budget: float = math.inf
    """Seconds of training that the trial plans for."""
    log: Callable[[str], None] = field(default=lambda line: None)
    refit_epochs: int | None = None
    """Set where a chosen recipe is trained once more and the validation images are among the training ones: what trains
    in epochs trains exactly so many, whatever the scores, and keeps the last."""


@dataclass
class Fitted:
    """How to rebuild what a trial trained: the backbone, with `backbone_state` loaded over it where it was fine-tuned, the
    levels that the head sees, and the head."""

    levels: str
    head: Any
    """A trained dense head (`nn.Module`) or a fitted scikit-learn classifier with `predict_proba`."""
    backbone_state: "dict[str, Tensor] | None" = None
    """Parameters and buffers of the unfrozen blocks, by their names in the backbone."""
    views: tuple[View, ...] = (ORIGINAL,)
    """How the model looks at an image: the head's logits of these are averaged."""
    temperature: float = 1.0
    """Probabilities are softmax(logits / temperature). The search fits it on validation images, for any strategy."""


@dataclass
class Result:
    """What a trial leaves. `recipe` is what was trained: where time ran short it says so (`stop_after`), so that a
    replay repeats it."""

    recipe: Recipe
    probabilities: np.ndarray
    """Of the validation images, [n, num_classes], float64, rows sum to 1."""
    fitted: Fitted
    history: list[dict[str, float]] = field(default_factory=list)
    """One entry an epoch: epoch, loss, score, seconds."""
    best_epoch: int | None = None
    """The one whose weights were kept."""


class Strategy(ABC):
    """One way to reuse a backbone."""

    name: str
    head_types: tuple[str, ...] = ("dense", "estimator")
    """The kinds of heads that it can train."""
    samples_per_image: int = 1
    """How many feature rows it gives a head for each image at the least; heads that can't take so many are left out."""

    recorded: tuple[str, ...] = ()
    """Those of its parameters that decide what it records of the images. A pass over all images is dear, and so most
    trials take these from an earlier one."""

    @abstractmethod
    def suggest(self, space: Space, backbone: Backbone, head: Head) -> dict[str, Any]:
        """Its own parameters, chosen from `space`: what `fit` finds in `recipe.strategy_params`."""

    def defaults(self, head: Head) -> Params:
        """A known-good value for each name that `suggest` chooses: what is tried first."""
        return {}

    def expensive_defaults(self, head: Head, passes: int) -> list[Params]:
        """Dearer known-good sets, tried later, that record at most `passes` passes of the backbone over the images
        between them. Empty where there are none, or none so cheap."""
        return []

    @abstractmethod
    def fit(self, recipe: Recipe, task: Task, device: str, report: Report) -> Result:
        """Train `recipe` on `task` on a torch device (`"cpu"`, `"cuda:0"`)."""
