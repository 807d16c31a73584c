"""autotl: a plugin-based AutoML tuner for transfer learning on images."""

from typing import TYPE_CHECKING, Any

from autotl.hookspecs import hookimpl

if TYPE_CHECKING:
    from autotl.alignment.scores import Score
    from autotl.api import SearchResult, evaluate, join, replay, search
    from autotl.backbones.base import Backbone, Block, Preprocessing
    from autotl.backbones.levels import Levels
    from autotl.classifier import ImageClassifier
    from autotl.config import StudyConfig
    from autotl.coordinator.align import align
    from autotl.coordinator.label_errors import find_label_errors
    from autotl.data.augmentation import Augmentation
    from autotl.data.dataset import DatasetSource, LabelledImage
    from autotl.engines.base import Engine
    from autotl.errors import AutotlError, DataError, MetricError, NoTrialSucceeded
    from autotl.events import (
        Callback,
        EpochEnded,
        FinishedSearch,
        SearchFinished,
        SearchStarted,
        TrialFinished,
        TrialStarted,
    )
    from autotl.exports.base import Exporter
    from autotl.heads.base import Head
    from autotl.metrics import Metric
    from autotl.model.exporting import export
    from autotl.model.image_model import ImageModel, load
    from autotl.page.base import ReportSection
    from autotl.recipe import Params, Recipe, Space
    from autotl.registration import Register
    from autotl.strategies.base import Fitted, OutOfTime, Report, Result, Strategy, Task
    from autotl.strategies.losses import Loss

from autotl._version import __version__

__all__ = [
    "Augmentation",
    "AutotlError",
    "Backbone",
    "Block",
    "Callback",
    "DataError",
    "DatasetSource",
    "Engine",
    "EpochEnded",
    "Exporter",
    "FinishedSearch",
    "Fitted",
    "Head",
    "ImageClassifier",
    "ImageModel",
    "LabelledImage",
    "Levels",
    "Loss",
    "Metric",
    "MetricError",
    "NoTrialSucceeded",
    "OutOfTime",
    "Params",
    "Preprocessing",
    "Recipe",
    "Register",
    "Report",
    "ReportSection",
    "Result",
    "Score",
    "SearchFinished",
    "SearchResult",
    "SearchStarted",
    "Space",
    "Strategy",
    "StudyConfig",
    "Task",
    "TrialFinished",
    "TrialStarted",
    "__version__",
    "align",
    "evaluate",
    "export",
    "find_label_errors",
    "hookimpl",
    "join",
    "load",
    "replay",
    "search",
]

_NAMES = {
    "autotl.api": ("SearchResult", "evaluate", "join", "replay", "search"),
    "autotl.classifier": ("ImageClassifier",),
    "autotl.config": ("StudyConfig",),
    "autotl.model.exporting": ("export",),
    "autotl.coordinator.label_errors": ("find_label_errors",),
    "autotl.model.image_model": ("ImageModel", "load"),
    "autotl.events": (
        *("Callback", "EpochEnded", "FinishedSearch", "SearchFinished", "SearchStarted"),
        *("TrialFinished", "TrialStarted"),
    ),
    "autotl.errors": ("AutotlError", "DataError", "MetricError", "NoTrialSucceeded"),
    # contracts for plugins
    "autotl.backbones.base": ("Backbone", "Block", "Preprocessing"),
    "autotl.backbones.levels": ("Levels",),
    "autotl.data.augmentation": ("Augmentation",),
    "autotl.strategies.losses": ("Loss",),
    "autotl.heads.base": ("Head",),
    "autotl.strategies.base": ("Fitted", "OutOfTime", "Report", "Result", "Strategy", "Task"),
    "autotl.engines.base": ("Engine",),
    "autotl.data.dataset": ("DatasetSource", "LabelledImage"),
    "autotl.metrics": ("Metric",),
    "autotl.exports.base": ("Exporter",),
    "autotl.page.base": ("ReportSection",),
    "autotl.coordinator.align": ("align",),
    "autotl.alignment.scores": ("Score",),
    "autotl.recipe": ("Params", "Recipe", "Space"),
    "autotl.registration": ("Register",),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import autotl` loads neither torch nor NumPy."""
    if name in _MODULE_OF:
        import importlib

        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'autotl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
