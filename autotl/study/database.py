"""A study in a database, for teams and for coordinators that may die: Optuna's RDBStorage, which waits for a database
that restarts.

The password comes from the environment variable AUTOTL_STORAGE (the whole URL), or from where the database's own client
looks for it: `.pgpass` and PGPASSWORD for PostgreSQL.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    PendingRollbackError,
    SQLAlchemyError,
)

from autotl.config import without_password
from autotl.errors import AutotlError
from autotl.escaping import escape
from autotl.study.kept_database import DRIVERS, DatabaseLost

__all__ = ["PatientStorage", "open_database"]

PATIENCE = 120.0
"""Seconds that a call waits for a database that can't be reached: as long as a restart takes."""
REFUSALS = ("authentication failed", "no password supplied", "no pg_hba.conf entry", "Access denied for user")
"""In what a server answers that is there, and won't let this user in however long one waits."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
EXAMPLE = "Type --storage postgresql+psycopg://USER@HOST/DATABASE"


def open_database(url: str, *, wait: bool = False) -> "PatientStorage":
    """The storage at a URL without a password; AUTOTL_STORAGE has it with one where it names the same database.

    Args:
        wait: for a database that can't be reached now, as every later call does.

    Raises:
        AutotlError: the database can't be reached, its driver isn't installed, or it isn't one of Optuna's.
    """
    whole = os.environ.get("AUTOTL_STORAGE", "")
    secret = whole if whole and without_password(whole) == url else url
    kind = url.split(":")[0].split("+")[0]
    if kind not in DRIVERS:
        raise AutotlError(f"--storage {url}: not a database for several hosts. {EXAMPLE}")
    if secret.partition("?")[0].count("@") > 1:
        raise AutotlError("AUTOTL_STORAGE has two @. Write one that belongs to the password as %40.")
    try:
        # a worker that starts while the database restarts waits as well
        return _patient(lambda _: _opened(secret))(None) if wait else _opened(secret)
    except (ImportError, NoSuchModuleError, ArgumentError) as error:
        driver = f"pip install '{DRIVERS[kind]}'"
        raise AutotlError(f"--storage {url}: {escape(error)[:200]}. {EXAMPLE}, after: {driver}") from error
    except DatabaseLost:
        raise
    except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:
        cause = str(getattr(error, "orig", None) or error.__cause__ or error).splitlines()[0]
        raise AutotlError(
            f"--storage {url}: the database can't be used: {escape(cause)[:300]}. Is it running? A password is read "
            "from AUTOTL_STORAGE (the whole URL) or ~/.pgpass."
        ) from error


def _is_lost_connection(error: Exception) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if any(refusal in str(cause) for refusal in REFUSALS):
            return False
        if isinstance(cause, OperationalError | InterfaceError | PendingRollbackError):
            return True
        if isinstance(cause, DBAPIError) and cause.connection_invalidated:
            return True
        cause = cause.__cause__
    return False


def _opened(url: str) -> "PatientStorage":
    return PatientStorage(url, engine_kwargs={"pool_pre_ping": True, "pool_size": 2})


_away_since: list[float] = []
"""The moment at which this process has found the database away; empty while it answers."""


def _patient(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, repeated until the database answers. Raises DatabaseLost where that has been away for PATIENCE
    seconds, with this call and those before it."""

    @wraps(method)
    def call(self: "PatientStorage", *args: Any, **kwargs: Any) -> Any:
        pause, repeated = FIRST_PAUSE, False
        while True:
            try:
                value = method(self, *args, **kwargs)
                _away_since.clear()
                return value
            except UpdateFinishedTrialError:
                # the state was committed, and the answer was lost with the connection
                state = args[1] if len(args) > 1 else kwargs.get("state")
                if not (repeated and isinstance(state, TrialState) and self.get_trial(args[0]).state == state):
                    raise
                return True
            except Exception as error:
                if not _is_lost_connection(error):
                    raise
                if not _away_since:
                    _away_since.append(time.monotonic())
                if time.monotonic() > _away_since[0] + PATIENCE:
                    raise DatabaseLost(
                        f"The database of the study could not be reached for {PATIENCE:.0f} s. Finished trials are "
                        "kept: run the same command again once it answers."
                    ) from error
            if isinstance(self, RDBStorage):
                with suppress(SQLAlchemyError):  # a session whose transaction was broken off is of no more use
                    self.remove_session()
            repeated = True
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    return call


class PatientStorage(RDBStorage):
    """Optuna's storage in a database; each call waits for a database that restarts."""


_PUBLIC = {name for name, method in vars(BaseStorage).items() if callable(method) and not name.startswith("_")}
_CALLED_BY_CACHE = {"_get_trials", "_create_new_trial", "_get_best_trial_id", "_set_trial_param"}
for _name in (_PUBLIC - {"remove_session"}) | _CALLED_BY_CACHE:
    setattr(PatientStorage, _name, _patient(getattr(RDBStorage, _name)))
