"""autotl: a plugin-based AutoML tuner for transfer learning on images."""

from typing import TYPE_CHECKING, Any

from autotl.hookspecs import hookimpl

if TYPE_CHECKING:
    from autotl.api import ImageClassifier, search
    from autotl.backbones.backbone import Backbone, Block, Preprocessing
    from autotl.data.dataset import DatasetSource, LabelledImage
    from autotl.errors import AutotlError, DataError
    from autotl.features.engine import Engine
    from autotl.heads.head import Head
    from autotl.metrics import Metric
    from autotl.model.model import load
    from autotl.recipe import Params, Recipe, Space
    from autotl.register import Register
    from autotl.strategies.strategy import Fitted, OutOfTime, Report, Result, Strategy, Task

__version__ = "0.1.0"
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
    "autotl.model.model": ("load",),
    # the contracts, for plugins
    "autotl.backbones.backbone": ("Backbone", "Block", "Preprocessing"),
    "autotl.heads.head": ("Head",),
    "autotl.strategies.strategy": ("Fitted", "OutOfTime", "Report", "Result", "Strategy", "Task"),
    "autotl.features.engine": ("Engine",),
    "autotl.data.dataset": ("DatasetSource", "LabelledImage"),
    "autotl.metrics": ("Metric",),
    "autotl.recipe": ("Params", "Recipe", "Space"),
    "autotl.register": ("Register",),
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
