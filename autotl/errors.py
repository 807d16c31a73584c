"""What a user can mend is an AutotlError, printed without a traceback; everything else is a bug and keeps its own."""

import difflib
from collections.abc import Iterable

__all__ = ["AutotlError", "BrokenPlugin", "DataError", "NoTrialSucceeded", "UnknownName", "nearest"]


class AutotlError(Exception):
    """Says what is wrong, which value it was, and what to type next. The command line exits with `exit_code`."""

    exit_code = 1


class DataError(AutotlError):
    """The images or their labels can't be used as they are."""


class BrokenPlugin(AutotlError):
    """A plugin failed, and --strict-plugins asks to stop there."""


class UnknownName(AutotlError):
    """A name that no plugin registered. Says what is near among the `known` names, which it lists, and `others`."""

    def __init__(self, component: str, name: str, known: Iterable[str], others: Iterable[str] = ()):
        known = sorted(known)
        plural = f"{component[:-1]}ies" if component.endswith("y") else f"{component}s"
        listing = f" Known {plural}: {', '.join(known)}." if known else f" No {component} is registered."
        super().__init__(f"There is no {component} named {name!r}.{nearest(name, [*known, *others], 3)}{listing}")


class NoTrialSucceeded(AutotlError):
    """A search ended without one finished trial."""

    exit_code = 3


def nearest(name: str, known: Iterable[str], n: int = 1) -> str:
    """' Did you mean …?' for up to `n` of the closest known names, or '' where none is close."""
    close = [repr(word) for word in difflib.get_close_matches(name, list(known), n=n, cutoff=0.5 if n == 1 else 0.6)]
    return f" Did you mean {' or '.join(filter(None, [', '.join(close[:-1]), *close[-1:]]))}?" if close else ""
