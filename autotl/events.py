"""The events of a search as frozen objects, and `Callback`, the base class of their listeners.

Callbacks come from `autotl.search(…, callbacks=[MyCallback()])` or from a plugin's `autotl_register_callbacks`. The
coordinator's process calls them, on one thread, and waits.

Nothing here imports NumPy: `autotl --help` loads this module.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np

    from autotl.data.dataset import ImageDataset
    from autotl.data.splits import Split
    from autotl.report.held_out import HeldOut

__all__ = [
    "Callback",
    "EpochEnded",
    "FinishedSearch",
    "SavedModel",
    "SearchFinished",
    "SearchStarted",
    "TrialFinished",
    "TrialStarted",
    "TrialState",
]

TrialState = Literal["complete", "pruned", "failed"]


class SavedModel(Protocol):
    """The part of `autotl.model.image_model.ImageModel` that the hook `autotl_search_finished` may use."""

    classes: tuple[str, ...]

    def predict_proba(self, images: Any) -> "np.ndarray":
        """Probabilities [n, num_classes]."""

    def save(self, folder: Any) -> Path:
        """Write the model folder."""


@dataclass(frozen=True)
class FinishedSearch:
    """All that a search leaves, for the hook `autotl_search_finished`."""

    folder: Path
    """The study's folder: `model/`, `leaderboard.csv`, `result.json`, `journal.log`."""
    result: Mapping[str, Any]
    """What `result.json` holds (scores on the test images, baseline, versions, …), with `leaderboard` and `members`."""
    data: str
    """Where the images come from, as the user typed it."""
    dataset: "ImageDataset"
    split: "Split"
    tested: "HeldOut | None"
    """The model's probabilities of the test images; None where none was predicted."""
    validated: "HeldOut | None"
    """The probabilities of the validation images by the model's members, before they were refitted."""
    report: Path | None
    """The page `report.html`; None where it could not be written."""


@dataclass(frozen=True)
class SearchStarted:
    """Images, split and study are ready; the first trial is about to start."""

    study: str
    folder: Path
    data: str
    classes: tuple[str, ...]
    images: Mapping[str, int]
    """Number of images: `train`, `validation`, `test`, `skipped`."""
    metric: str
    devices: tuple[str, ...]
    """One name for each worker: `cpu:0`, `cuda:1`."""
    backbones: tuple[str, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrialStarted:
    """A worker has drawn a recipe and starts to train it."""

    number: int
    device: str
    strategy: str
    backbone: str
    head: str
    description: str
    """The recipe in one line."""


@dataclass(frozen=True)
class EpochEnded:
    """A running trial reports its progress. Strategies without epochs report at steps of their own."""

    number: int
    fraction: float
    """Share of the trial's own budget that is used, in (0, 1]."""
    score: float
    """Best validation score of the trial so far."""


@dataclass(frozen=True)
class TrialFinished:
    """A trial has ended. `value` is None unless it is complete."""

    number: int
    state: TrialState
    value: float | None
    strategy: str = ""
    backbone: str = ""
    head: str = ""
    description: str = ""
    """The recipe in one line, "" if the trial ended before it had one."""
    seconds: float = 0.0
    cause: str = ""
    """Why the trial was pruned or failed."""
    is_best: bool = False
    """Whether it is the best trial of the study so far."""


@dataclass(frozen=True)
class SearchFinished:
    """The model is saved, and tested where there are test images."""

    result: Mapping[str, Any]
    """What `result.json` holds, with `leaderboard`, `members` and the path `model`."""
    folder: Path = field(default_factory=Path)


class Callback:
    """Base class for callbacks: override the methods that you need.

    A method that returns True asks the search to stop: running trials end, and the model is made of the finished ones.
    An exception in a callback that was passed to `autotl.search` ends the search with that exception; in a plugin's
    callback it costs one warning.

    A call that takes long is named to the user. One that has not returned by the end of the trials' time, or 2 s after
    Ctrl-C, is ended with an exception, and its method is not called again; `on_search_finished` has until the deadline,
    at least 30 s (10 minutes without a time budget). Off the main thread Python can't end a call.
    """

    name: str = "callback"
    """Name for messages; a plugin's callback needs one of its own."""

    def on_search_started(self, event: SearchStarted) -> bool | None:
        """Called once, before the first trial."""

    def on_trial_started(self, event: TrialStarted) -> bool | None:
        """Called when a worker starts to train a recipe."""

    def on_epoch_ended(self, event: EpochEnded) -> bool | None:
        """Called whenever a running trial reports its progress."""

    def on_trial_finished(self, event: TrialFinished) -> bool | None:
        """Called once for every trial that completed, was pruned or failed."""

    def on_search_finished(self, event: SearchFinished) -> None:
        """Called once, after the model was saved."""
