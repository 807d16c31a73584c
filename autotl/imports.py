"""Imports of large libraries, for processes that are autotl's own."""

import gc
import importlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

__all__ = ["import_modules", "without_collection"]


@contextmanager
def without_collection() -> Iterator[None]:
    """Collect no garbage while libraries are imported, and don't look at their objects later either.

    The collector takes a sixth of the time of an import, looking again and again at a million objects that stay.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def import_modules(names: Iterable[str]) -> None:
    """Import modules, which later imports find."""
    for name in names:
        importlib.import_module(name)
