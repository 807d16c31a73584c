"""What a user can mend is an AutotlError, printed without a traceback; everything else is a bug and keeps its own."""

import difflib
from collections.abc import Iterable

__all__ = ["AutotlError", "DataError", "NoTrialSucceeded", "UnknownName", "nearest"]


class AutotlError(Exception):
    """Says what is wrong, which value it was, and what to type next. The command line exits with `exit_code`."""

    exit_code = 1


class DataError(AutotlError):
    """The images or their labels can't be used as they are."""


class UnknownName(AutotlError):
    """A name that no plugin registered."""

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        known = sorted(known)
        listing = f" Known {kind}s: {', '.join(known)}." if known else f" No {kind} is registered."
        super().__init__(f"There is no {kind} named {name!r}.{nearest(name, known)}{listing}")


class NoTrialSucceeded(AutotlError):
    """A search ended without one finished trial."""

    exit_code = 3


def nearest(name: str, known: Iterable[str]) -> str:
    """' Did you mean …?' for the closest known name, or '' where none is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
