"""autotl: a plugin-based AutoML tuner for transfer learning on images."""

from typing import TYPE_CHECKING, Any

from autotl.hookspecs import hookimpl

if TYPE_CHECKING:
    from autotl.api import ImageClassifier, search
    from autotl.model.model import load

__version__ = "0.1.0"
__all__ = ["ImageClassifier", "__version__", "hookimpl", "load", "search"]

_LATE = {"ImageClassifier": "autotl.api", "search": "autotl.api", "load": "autotl.model.model"}


def __getattr__(name: str) -> Any:
    """Heavy imports wait until they are asked for: `import autotl` loads no torch."""
    if name in _LATE:
        import importlib

        return getattr(importlib.import_module(_LATE[name]), name)
    raise AttributeError(f"module 'autotl' has no attribute {name!r}")
