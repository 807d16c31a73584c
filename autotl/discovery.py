"""What keeps plugins apart from the program: which are left out, why one failed in a line, and what each call takes.

Light on purpose: `autotl --help` comes through here, and loads no NumPy.
"""

import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points

from autotl.errors import nearest

__all__ = ["cause_of", "installed", "origin", "takes_no_part", "traced", "words_left_out"]


def installed() -> list[EntryPoint]:
    """Every installed entry point of the group `autotl`, by name."""
    return sorted(entry_points(group="autotl"), key=lambda entry: entry.name)


def origin(entry: EntryPoint) -> tuple[str, str]:
    """The distribution that an entry point comes from, and its version."""
    return (entry.dist.name, entry.dist.version) if entry.dist else ("unknown", "unknown")


def words_left_out(without: Iterable[str] = (), known: Iterable[str] | None = None) -> set[str]:
    """Names of plugins, or of their distributions, that take no part: `without`, and AUTOTL_PLUGINS=`no:NAME,…`.

    With the `known` names, one that leaves nothing out costs a warning that says which name is near.
    """
    words = [word.strip() for word in os.environ.get("AUTOTL_PLUGINS", "").split(",") if word.strip()]
    if known is not None:
        known = sorted(known)
        for word in words:
            if not word.startswith("no:"):
                warnings.warn(f"AUTOTL_PLUGINS says {word!r}: write no:{word} to leave that plugin out.", stacklevel=2)
    names = [*without, *(word[3:] for word in words if word.startswith("no:"))]
    if known is not None:
        for name in dict.fromkeys(names):
            if name not in known:
                warnings.warn(
                    f"No plugin is named {name!r}, so none is left out for it.{nearest(name, known)} "
                    "See: autotl plugins",
                    stacklevel=2,
                )
    return set(names)


def cause_of(error: BaseException) -> str:
    """Type and text, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def takes_no_part(name: str, distribution: str, version: str, cause: str) -> str:
    """The one line that a broken plugin costs."""
    return f"plugin {name!r} of {distribution} {version} takes no part: {cause}"


@contextmanager
def traced(plugin: str, call: str) -> Iterator[None]:
    """With AUTOTL_TRACE_PLUGINS=1 a line on stderr: how long the call took, whose it is, and what was called."""
    if os.environ.get("AUTOTL_TRACE_PLUGINS", "").lower() not in ("1", "true", "yes", "on"):
        yield
        return
    began = time.perf_counter()
    try:
        yield
    finally:
        milliseconds = (time.perf_counter() - began) * 1000
        print(f"trace {milliseconds:9.2f} ms  {plugin}  {call}", file=sys.stderr, flush=True)
