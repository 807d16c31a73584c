"""Ctrl-C and SIGTERM."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["INTERRUPTED", "Interrupts", "listening"]

INTERRUPTED = 8.8
"""Seconds after Ctrl-C for trials to end and the model to be saved."""


class Interrupts:
    """Ctrl-C or SIGTERM: once to end with what there is, twice, or before the first trial, to end at once."""

    def __init__(self) -> None:
        self.searching = False
        self.at: float | None = None
        """time.monotonic() of the first."""

    def __call__(self, *_: Any) -> None:
        if self.at is not None or not self.searching:
            raise KeyboardInterrupt
        self.at = time.monotonic()

    def too_late(self) -> bool:
        """Whether whoever pressed Ctrl-C has waited long enough."""
        return self.at is not None and time.monotonic() > self.at + INTERRUPTED


@contextmanager
def listening() -> Iterator[Interrupts]:
    """Take Ctrl-C and SIGTERM, where this is the main thread, and give them back as they were."""
    handler = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield handler
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield handler
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
