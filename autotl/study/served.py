"""The study of a worker that can't read its folder: a journal that the coordinator serves."""

import math
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from optuna.storages.journal import BaseJournalBackend
from optuna.storages.journal._storage import JournalOperation  # noqa: PLC2701 (not exported)

__all__ = ["ServedJournal"]

DEFERRED = {
    JournalOperation.SET_STUDY_SYSTEM_ATTR,
    JournalOperation.SET_TRIAL_PARAM,
    JournalOperation.SET_TRIAL_INTERMEDIATE_VALUE,
    JournalOperation.SET_TRIAL_USER_ATTR,
    JournalOperation.SET_TRIAL_SYSTEM_ATTR,
}
"""Operations that wait for the next read, or for `flush`: a trial draws a dozen parameters and sets two dozen
attributes in a row."""
FRESH_SECONDS = 0.1
"""Seconds after an exchange in which a read without writes before it needs no other one: Optuna reads all logs for each
attribute of a study or a trial that it looks at."""


class ServedJournal(BaseJournalBackend):
    """Optuna's journal over one call, `exchange(logs, first)`: append `logs`, return every log from number `first` on.

    A write and the read that always follows it are one exchange. Parameters, attributes and reported values are sent
    with the next other operation.
    """

    def __init__(self, exchange: Callable[[list[dict[str, Any]], int], list[dict[str, Any]]]):
        self._exchange = exchange
        self._unsent: list[dict[str, Any]] = []
        self._follows_write = False
        self._exchanged = -math.inf

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Keep logs for `read_logs`, which Optuna calls after each write."""
        self._unsent += logs
        self._follows_write = True

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """All logs from a number on; nothing after a write that stays unsent, and shortly after another read."""
        follows_write, self._follows_write = self._follows_write, False
        if follows_write and all(log["op_code"] in DEFERRED for log in self._unsent):
            return []
        if not self._unsent and time.monotonic() - self._exchanged < FRESH_SECONDS:
            return []
        unsent, self._unsent = self._unsent, []
        logs = self._exchange(unsent, log_number_from)
        self._exchanged = time.monotonic()
        return logs

    def flush(self) -> None:
        """Send what waits."""
        if self._unsent:
            unsent, self._unsent = self._unsent, []
            self._exchange(unsent, sys.maxsize)  # the next read brings the logs

    def expire(self) -> None:
        """Have the next read see what others have written until now."""
        self._exchanged = -math.inf
