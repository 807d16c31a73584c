"""Calls of foreign code in the coordinator's process: one that hangs is named, and ended when its time is up."""

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from autotl.coordinator.signals import Interrupts

__all__ = ["CallEnded", "Watchdog"]

NAMED_AFTER = 5.0
"""Seconds after which a call that has not returned is named to the user, once."""
INTERRUPT_GRACE = 2.0
"""Seconds that a call gets after Ctrl-C."""
REPEAT_SECONDS = 5.0
"""Seconds between attempts to end a call that catches every exception."""
LOOK_SECONDS = 0.25


class CallEnded(BaseException):
    """Raised inside of a call whose time is up. Not an Exception, so that foreign code doesn't catch it by accident."""


@dataclass
class _Call:
    what: str
    seconds: float
    began: float
    interrupted: float | None = None
    """When Ctrl-C was noticed."""
    named: bool = False
    ended: float | None = None
    """When an attempt to end it was made."""

    def is_over(self, now: float) -> bool:
        after_interrupt = self.interrupted is not None and now > self.interrupted + INTERRUPT_GRACE
        return after_interrupt or now > self.began + self.seconds


class Watchdog:
    """Watches calls, one at a time, from a thread of its own while it is open (`with`).

    A call is ended by an exception that a signal's handler raises, so on the main thread only, and where it is in
    Python or in a system call; elsewhere it is named, and waited for.

    Args:
        interrupts: the handler of SIGINT, which is the signal in use.
        log: shows a line to the user; called on the watching thread.
    """

    def __init__(self, interrupts: Interrupts, log: Callable[[str], None]):
        self.interrupts, self.log = interrupts, log
        self._call: _Call | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")
        self._signals = 0
        """Sent by this object and not yet handled."""

    def __enter__(self) -> Self:
        self.interrupts.is_foreign = self._end_call
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()  # a signal that it sent later would reach the caller's own handler

    def call(self, what: str, seconds: float, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """What `function` returns.

        Args:
            what: the call in words, for users.
            seconds: its limit; Ctrl-C shortens it.

        Raises:
            CallEnded: the time is up.
        """
        self._call = _Call(what, seconds, time.monotonic())
        try:
            return function(*arguments, **named)
        finally:
            self._call = None

    def _watch(self) -> None:
        while not self._closed.wait(LOOK_SECONDS):
            call, now = self._call, time.monotonic()
            if call is None:
                continue
            if call.interrupted is None and self.interrupts.moment is not None:
                call.interrupted = now
            if not call.named and now > call.began + NAMED_AFTER:
                call.named = True
                self.log(
                    f"warning: {call.what} has been running for {now - call.began:.0f} s, and the search waits for it"
                )
            if (
                self.interrupts.installed
                and call.is_over(now)
                and (call.ended is None or now > call.ended + REPEAT_SECONDS)
            ):
                call.ended = now
                self._signals += 1
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _end_call(self) -> bool:
        """Whether a signal was sent by this object; raises CallEnded where its call still runs. On the main thread."""
        if not self._signals:
            return False
        self._signals = 0
        if self._call is not None and self._call.ended is not None:
            raise CallEnded
        return True
