"""Checks of a study's journal, which may come from a stranger, before its attributes are used or shown."""

import math
from pathlib import Path
from typing import Annotated, Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autotl.errors import AutotlError
from autotl.escaping import escape
from autotl.model.manifest import RecipeEntry

__all__ = ["require_valid"]

DAMAGED = "is damaged or was made by hand"
REMEDY = "Give the search another --name, or put the journal back as it was."

Text = Annotated[str, Field(max_length=1_000_000)]


class _TrialAttributes(BaseModel):
    """The attributes of `autotl.study.study.TrialAttribute` that programs read; scores by metric are others."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    description: Text = ""
    recipe: RecipeEntry | None = None
    cause: Text = ""
    traceback: Text = ""
    seconds: float = Field(default=0.0, ge=0)
    extraction_seconds: float = Field(default=0.0, ge=0)
    device: Text = ""
    epochs: float | None = None
    folds: int = Field(default=1, ge=1, le=1000)
    holdout: float | None = None
    fit_seconds: float = Field(default=0.0, ge=0)
    fitted_on_all: bool = False
    sample: int | None = Field(default=None, ge=1)
    tuned: bool = False
    best_epoch: int | None = Field(default=None, ge=0, le=1_000_000)
    retry_of: int | None = None
    resumes: int | None = None
    not_recorded: bool = False
    out_of_time: bool = False
    taken_from: Text = ""


class _StudyAttributes(BaseModel):
    """The attributes of `autotl.study.study.StudyAttribute`."""

    model_config = ConfigDict(strict=True)

    choices: dict[str, Any] = {}
    versions: dict[str, str] = {}
    earlier_versions: list[dict[str, Any]] = []
    extends: Text = ""


def require_valid(study: optuna.Study, folder: Path) -> None:
    """Check the attributes of a study, and the values and attributes of each trial.

    Raises:
        AutotlError: one is none that a search writes; the message names the trial and the value.
    """
    problem = _invalid(_StudyAttributes, study.user_attrs)
    if problem:
        raise AutotlError(f"{folder / 'journal.log'} {DAMAGED}: {problem}. {REMEDY}")
    for trial in study.get_trials(deepcopy=False):
        problem = _problem(trial)
        if problem:
            raise AutotlError(f"{folder / 'journal.log'} {DAMAGED}: trial {trial.number}: {problem}. {REMEDY}")


def _problem(trial: FrozenTrial) -> str:
    if trial.state == TrialState.COMPLETE and not (trial.values and len(trial.values) == 1 and _is_finite(trial.value)):
        return f"its score is {trial.values!r:.80}"
    return _invalid(_TrialAttributes, trial.user_attrs)


def _invalid(model: type[BaseModel], attributes: dict[str, Any]) -> str:
    """What is wrong with the attributes; "" where nothing is."""
    try:
        model.model_validate(attributes)
    except ValidationError as error:
        first = error.errors()[0]
        place = escape(".".join(map(str, first["loc"])))[:200]
        return f"{place} = {first['input']!r:.80}: {escape(first['msg'])[:300]}"
    return ""


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
