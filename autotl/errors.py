"""Errors that users can mend. Each is an AutotlError, printed without a traceback; any other exception is a bug."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

__all__ = [
    "AutotlError",
    "BrokenPlugin",
    "DataError",
    "HostUnfit",
    "InputError",
    "MetricError",
    "NoTrialSucceeded",
    "UnknownName",
    "find_named",
    "nearest",
]

T = TypeVar("T")


class AutotlError(Exception):
    """Names what is wrong, the value, and what to type next. The command line exits with `exit_code`."""

    exit_code = 1


class DataError(AutotlError):
    """The images or their labels can't be used as they are."""


class InputError(DataError, ValueError):
    """Images or labels passed to a scikit-learn estimator are invalid; scikit-learn expects a ValueError."""


class MetricError(AutotlError):
    """A metric has no finite score for some images."""


class BrokenPlugin(AutotlError):
    """A plugin failed while --strict-plugins was given."""


class HostUnfit(AutotlError):
    """A host of a cluster can't run trials of a search."""


class UnknownName(AutotlError):
    """A name that no plugin registered.

    The message lists the `known` names, and suggests the closest of them and of `others`.
    """

    def __init__(self, component: str, name: str, known: Iterable[str], others: Iterable[str] = ()):
        known = sorted(known)
        plural = {"strategy": "strategies", "loss": "losses", "levels": "levels", "class": "classes"}.get(
            component, f"{component}s"
        )
        be = "are" if plural == component else "is"
        listing = f" Known {plural}: {', '.join(known)}." if known else f" No {component} {be} registered."
        super().__init__(f"There {be} no {component} named {name!r}.{nearest(name, [*known, *others], 3)}{listing}")


class NoTrialSucceeded(AutotlError):
    """A search ended without a complete trial."""

    exit_code = 3


def find_named(component: str, name: str, known: Mapping[str, T]) -> T:
    """The component of that name, among `known` ones by name. Raises UnknownName."""
    if name not in known:
        raise UnknownName(component, name, known)
    return known[name]


def nearest(name: str, known: Iterable[str], n: int = 1) -> str:
    """' Did you mean …?' with up to `n` of the closest known names, or '' if none is close.

    The first are those spelled like `name`, then those that share a word between underscores with it, or contain it:
    `f1` suggests `macro_f1`.
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, n=n, cutoff=0.5 if n == 1 else 0.6)
    close += [word for word in known if word not in close and _parts(name) & _parts(word)]
    if not close and len(name) > 1:
        close = [word for word in known if name.lower() in word.lower()]
    close = close[:n]
    quoted = [repr(word) for word in close]
    return f" Did you mean {' or '.join(filter(None, [', '.join(quoted[:-1]), *quoted[-1:]]))}?" if quoted else ""


def _parts(name: str) -> set[str]:
    return {part for part in re.split(r"[\s_-]+", name.lower()) if len(part) > 1 and not part.isdigit()}
