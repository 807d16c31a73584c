"""Installed plugins: their entry points, which of them are disabled, and a trace of the calls into them.

Does not import NumPy: `autotl --help` loads this module.
"""

import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points

from autotl.errors import nearest

__all__ = ["cause_of", "disabled_line", "disabled_names", "distribution_of", "installed_plugins", "traced"]


def installed_plugins() -> list[EntryPoint]:
    """All installed entry points of the group `autotl`, by name."""
    return sorted(entry_points(group="autotl"), key=lambda entry: entry.name)


def distribution_of(entry: EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution that an entry point belongs to."""
    return (entry.dist.name, entry.dist.version) if entry.dist else ("unknown", "unknown")


def disabled_names(without: Iterable[str] = (), known: Iterable[str] | None = None) -> set[str]:
    """Names of plugins, or of their distributions, to leave out: `without`, and AUTOTL_PLUGINS=`no:NAME,…`.

    Args:
        known: all names; given these, a name that matches none costs a warning with the nearest one.
    """
    items = [item.strip() for item in os.environ.get("AUTOTL_PLUGINS", "").split(",") if item.strip()]
    names = [*without, *(item[3:] for item in items if item.startswith("no:"))]
    if known is None:
        return set(names)
    known = sorted(known)
    for item in items:
        if not item.startswith("no:"):
            warnings.warn(f"AUTOTL_PLUGINS contains {item!r}: write no:{item} to leave that plugin out.", stacklevel=2)
    for name in dict.fromkeys(names):
        if name not in known:
            warnings.warn(
                f"No plugin is named {name!r}, so none is left out for it.{nearest(name, known)} See: autotl plugins",
                stacklevel=2,
            )
    return set(names)


def cause_of(error: BaseException) -> str:
    """An exception's type and text in one line of at most 400 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def disabled_line(name: str, distribution: str, version: str, cause: str) -> str:
    """The warning for a plugin that fails to import or to register."""
    return f"plugin {name!r} of {distribution} {version} is disabled: {cause}"


@contextmanager
def traced(plugin: str, call: str) -> Iterator[None]:
    """If AUTOTL_TRACE_PLUGINS=1, print a line to stderr after the call: its duration, the plugin, and the call."""
    if os.environ.get("AUTOTL_TRACE_PLUGINS", "").lower() not in ("1", "true", "yes", "on"):
        yield
        return
    began = time.perf_counter()
    try:
        yield
    finally:
        milliseconds = (time.perf_counter() - began) * 1000
        print(f"trace {milliseconds:9.2f} ms  {plugin}  {call}", file=sys.stderr, flush=True)
