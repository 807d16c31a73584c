"""Clocks and deadlines. A moment has a meaning on the clock of one process alone: processes exchange seconds left."""

import math
import time
from typing import Protocol

__all__ = ["Clock", "Deadline", "SystemClock"]


class Clock(Protocol):
    """A monotonic clock. Tests pass a virtual one."""

    def now(self) -> float:
        """Seconds since an arbitrary origin; never decreases."""

    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""


class SystemClock:
    """The operating system's monotonic clock."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(max(0.0, seconds))


class Deadline:
    """A moment on a clock. It can be moved while others watch it, and never lies behind its parent's.

    Args:
        seconds: from now until the deadline; infinity means never.
        clock: the clock to read.
        parent: a deadline that bounds this one, also when the parent moves later.

    >>> search = Deadline(60)
    >>> trial = search.within(3600)
    >>> trial.remaining() <= 60, trial.passed()
    (True, False)
    >>> search.move(0)
    >>> trial.passed()
    True
    """

    def __init__(self, seconds: float = math.inf, clock: Clock | None = None, parent: "Deadline | None" = None):
        self.clock: Clock = clock or (parent.clock if parent else SystemClock())
        self.parent = parent
        self.move(seconds)

    def move(self, seconds: float) -> None:
        """Set the deadline to `seconds` from now."""
        self.moment = self.clock.now() + seconds

    def remaining(self) -> float:
        """Seconds until the deadline; negative after it, infinity where there is none."""
        own = self.moment - self.clock.now()
        return min(own, self.parent.remaining()) if self.parent else own

    def passed(self) -> bool:
        """Whether no time remains."""
        return self.remaining() <= 0

    def within(self, seconds: float) -> "Deadline":
        """A deadline `seconds` from now that is bounded by this one."""
        return Deadline(seconds, parent=self)
