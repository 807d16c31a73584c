"""Ctrl-C and SIGTERM."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from autotl.clock import Clock, SystemClock

__all__ = ["INTERRUPT_SECONDS", "MODEL_SECONDS", "Interrupts", "handle_signals"]

INTERRUPT_SECONDS = 8.8
"""Seconds after Ctrl-C for trials to end and the model to be saved and tested."""
MODEL_SECONDS = 60.0
"""Seconds after Ctrl-C for the model alone, where a trial is complete: a worker that a library keeps busy is replaced,
and a new one takes seconds to start. A user who waits no longer presses Ctrl-C again."""


class Interrupts:
    """Handler for Ctrl-C and SIGTERM: the first ends the search with the trials that are finished; a second one, or one
    before the first trial, raises KeyboardInterrupt."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self.searching = False
        """Whether trials have started."""
        self.moment: float | None = None
        """When the first signal arrived, on `clock`; None where none did."""
        self.installed = False
        """Whether this object handles the signals of the process."""
        self.is_foreign: Callable[[], bool] = lambda: False
        """Whether this process itself has sent the signal, for a purpose of its own."""

    def __call__(self, *_: Any) -> None:
        if self.is_foreign():
            return
        if self.moment is not None or not self.searching:
            raise KeyboardInterrupt
        self.moment = self.clock.now()

    @property
    def deadline(self) -> float:
        """The moment until which a user waits after Ctrl-C; infinity without one."""
        return float("inf") if self.moment is None else self.moment + INTERRUPT_SECONDS

    def overdue(self, seconds: float = INTERRUPT_SECONDS) -> bool:
        """Whether a user who pressed Ctrl-C has waited for so many seconds."""
        return self.moment is not None and self.clock.now() > self.moment + seconds


@contextmanager
def handle_signals(clock: Clock | None = None) -> Iterator[Interrupts]:
    """Handle SIGINT and SIGTERM while in the block, and restore the previous handlers.

    Does nothing off the main thread, where Python handles no signals.
    """
    interrupts = Interrupts(clock)
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    previous = {number: signal.signal(number, interrupts) for number in (signal.SIGINT, signal.SIGTERM)}
    interrupts.installed = True
    try:
        yield interrupts
    finally:
        interrupts.installed = False
        for number, handler in previous.items():
            signal.signal(number, handler)
