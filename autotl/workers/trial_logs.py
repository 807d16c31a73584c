"""Which operations a worker may append to the journal that its coordinator serves, and in what form.

Optuna replays a journal without checks: one log that lacks a field would end every process that opens the study.
"""

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from optuna.distributions import json_to_distribution
from optuna.storages.journal._storage import JournalOperation as Op  # noqa: PLC2701 (not exported)
from optuna.trial import TrialState

__all__ = ["checked"]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_attribute(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1


def _is_parameter(log: Mapping[str, Any]) -> bool:
    distribution = json_to_distribution(log["distribution"])
    value = log["param_value_internal"]
    return isinstance(log["param_name"], str) and _is_number(value) and distribution._contains(value)


def _is_state(log: Mapping[str, Any]) -> bool:
    state, values = TrialState(log["state"]), log["values"]
    moment = "datetime_start" if state == TrialState.RUNNING else "datetime_complete"
    has_moment = not isinstance(log["state"], bool) and state != TrialState.WAITING and bool(log[moment])
    has_value = isinstance(values, list) and len(values) == 1 and _is_number(values[0]) and not math.isnan(values[0])
    return has_moment and (has_value or (values is None and state != TrialState.COMPLETE))


FORMS: dict[int, Callable[[Mapping[str, Any]], bool]] = {
    Op.SET_STUDY_USER_ATTR: lambda log: _is_id(log["study_id"]) and _is_attribute(log["user_attr"]),
    Op.SET_STUDY_SYSTEM_ATTR: lambda log: _is_id(log["study_id"]) and _is_attribute(log["system_attr"]),
    Op.SET_TRIAL_PARAM: lambda log: _is_id(log["trial_id"]) and _is_parameter(log),
    Op.SET_TRIAL_STATE_VALUES: lambda log: _is_id(log["trial_id"]) and _is_state(log),
    Op.SET_TRIAL_INTERMEDIATE_VALUE: lambda log: (
        _is_id(log["trial_id"]) and _is_id(log["step"]) and _is_number(log["intermediate_value"])
    ),
    Op.SET_TRIAL_USER_ATTR: lambda log: _is_id(log["trial_id"]) and _is_attribute(log["user_attr"]),
    Op.SET_TRIAL_SYSTEM_ATTR: lambda log: _is_id(log["trial_id"]) and _is_attribute(log["system_attr"]),
}
"""Of a trial that runs, and the study's notes. Workers create and delete neither studies nor trials."""


def checked(log: Mapping[str, Any]) -> dict[str, Any]:
    """A log for the journal, its moments by the coordinator's clock, since the hosts' clocks differ.

    Raises:
        ValueError: a worker may not do this, or Optuna could not replay it.
    """
    operation, worker = log.get("op_code"), log.get("worker_id")
    try:
        is_well_formed = isinstance(worker, str) and type(operation) is int and FORMS[operation](log)
    except Exception:  # whatever a missing field, another type or Optuna's parser raises
        is_well_formed = False
    if not is_well_formed:
        raise ValueError(f"a worker may not do this: {log!r:.200}")
    now = datetime.now().isoformat(timespec="microseconds")
    return {key: now if key.startswith("datetime_") and value else value for key, value in log.items()}
