"""Calls the callbacks of users and plugins: who may end the search, who costs a warning, and how long each may take."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from autotl.coordinator.watchdog import CallEnded, Watchdog
from autotl.discovery import cause_of
from autotl.errors import BrokenPlugin
from autotl.events import Callback

__all__ = ["PLUGIN_CALL_SECONDS", "Callbacks"]

PLUGIN_CALL_SECONDS = 60.0
"""Seconds that a call of a plugin's callback may take, its last one excepted: the search waits for it."""


@dataclass
class Callbacks:
    """The callbacks of one search.

    Args:
        users: an exception in one ends the search.
        plugins: an exception in one costs a warning, once for each method.
        strict: an exception in a plugin's ends the search, too.
        log: shows a line to the user.
    """

    users: Sequence[Callback]
    plugins: Sequence[Callback]
    strict: bool
    watchdog: Watchdog
    log: Callable[[str], None]
    _hung: set[tuple[int, str]] = field(default_factory=set)
    """Callbacks, by id, and their methods of which a call was ended."""
    _warned: set[tuple[str, str]] = field(default_factory=set)

    def emit(self, method: str, event: Any, seconds: float) -> bool:
        """Call a method of all callbacks, each for `seconds` at most; whether one asks the search to stop.

        Raises:
            BrokenPlugin: a plugin's callback failed under `strict`.
            Exception: whatever a user's callback raised.
        """
        stop = False
        for callback in self.users:
            stop |= self._call(callback, method, event, seconds)
        limit = seconds if method == "on_search_finished" else min(seconds, PLUGIN_CALL_SECONDS)
        for callback in self.plugins:
            try:
                stop |= self._call(callback, method, event, limit)
            except Exception as error:
                self._failed(callback.name, method, error)
        return stop

    def _call(self, callback: Callback, method: str, event: Any, seconds: float) -> bool:
        if (id(callback), method) in self._hung:
            return False
        what = f"callback {callback.name!r} in {method}"
        try:
            return bool(self.watchdog.call(what, seconds, getattr(callback, method), event))
        except CallEnded:
            self._hung.add((id(callback), method))
            self.log(f"warning: {what} did not return in time, and was ended. It is not called again.")
            return False

    def _failed(self, name: str, method: str, error: Exception) -> None:
        line = f"callback {name!r} failed in {method}: {cause_of(error)}"
        if self.strict:
            raise BrokenPlugin(f"{line} (--strict-plugins)") from error
        if (name, method) not in self._warned:
            self._warned.add((name, method))
            self.log(f"warning: {line}")
