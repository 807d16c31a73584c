"""autotl: a plugin-based AutoML tuner for transfer learning on images."""

from typing import TYPE_CHECKING, Any

from autotl.hookspecs import hookimpl

if TYPE_CHECKING:
    from autotl.api import ImageClassifier, search
    from autotl.backbones.base import Backbone, Block, Preprocessing
    from autotl.data.dataset import DatasetSource, LabelledImage
    from autotl.engines.base import Engine
    from autotl.errors import AutotlError, DataError
    from autotl.heads.base import Head
    from autotl.metrics import Metric
    from autotl.model.image_model import load
    from autotl.recipe import Params, Recipe, Space
    from autotl.registration import Register
    from autotl.strategies.base import Fitted, OutOfTime, Report, Result, Strategy, Task

from autotl._version import __version__

__all__ = [
    "AutotlError",
    "Backbone",
    "Block",
    "DataError",
    "DatasetSource",
    "Engine",
    "Fitted",
    "Head",
    "ImageClassifier",
    "LabelledImage",
    "Metric",
    "OutOfTime",
    "Params",
    "Preprocessing",
    "Recipe",
    "Register",
    "Report",
    "Result",
    "Space",
    "Strategy",
    "Task",
    "__version__",
    "hookimpl",
    "load",
    "search",
]

_LATE = {
    "autotl.api": ("ImageClassifier", "search"),
    "autotl.model.image_model": ("load",),
    # the contracts, for plugins
    "autotl.backbones.base": ("Backbone", "Block", "Preprocessing"),
    "autotl.heads.base": ("Head",),
    "autotl.strategies.base": ("Fitted", "OutOfTime", "Report", "Result", "Strategy", "Task"),
    "autotl.engines.base": ("Engine",),
    "autotl.data.dataset": ("DatasetSource", "LabelledImage"),
    "autotl.metrics": ("Metric",),
    "autotl.recipe": ("Params", "Recipe", "Space"),
    "autotl.registration": ("Register",),
    "autotl.errors": ("AutotlError", "DataError"),
}
_WHERE = {name: module for module, names in _LATE.items() for name in names}


def __getattr__(name: str) -> Any:
    """Heavy imports wait until they are asked for: `import autotl` loads neither torch nor NumPy."""
    if name in _WHERE:
        import importlib

        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'autotl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
