"""The study of a worker that can't read its folder: a journal that the coordinator serves."""

from collections.abc import Callable, Iterable
from typing import Any

from optuna.storages.journal import BaseJournalBackend
from optuna.storages.journal._storage import JournalOperation  # noqa: PLC2701 (not exported)

__all__ = ["ServedJournal"]

ATTRIBUTES = {
    JournalOperation.SET_TRIAL_USER_ATTR,
    JournalOperation.SET_TRIAL_SYSTEM_ATTR,
}
"""Operations that wait for the next of another sort: a trial sets a dozen attributes in a row, and reads none back."""


class ServedJournal(BaseJournalBackend):
    """Optuna's journal over one call, `exchange(logs, first)`: append `logs`, return every log from number `first` on.

    A write and the read that always follows it are one exchange. Attributes are sent with the next other operation.
    """

    def __init__(self, exchange: Callable[[list[dict[str, Any]], int], list[dict[str, Any]]]):
        self._exchange = exchange
        self._unsent: list[dict[str, Any]] = []
        self._follows_write = False

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Keep logs for `read_logs`, which Optuna calls after each write."""
        self._unsent += logs
        self._follows_write = True

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """All logs from a number on; nothing after a write of attributes, which stay unsent."""
        follows_write, self._follows_write = self._follows_write, False
        if follows_write and all(log["op_code"] in ATTRIBUTES for log in self._unsent):
            return []
        unsent, self._unsent = self._unsent, []
        return self._exchange(unsent, log_number_from)
