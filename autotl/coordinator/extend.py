"""A new study with other choices, which takes over the trials of an earlier one that fit them."""

import itertools
import shutil
import warnings
from pathlib import Path

import optuna
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from autotl.atomic_io import read_json, write_json
from autotl.config import StudyConfig
from autotl.errors import AutotlError
from autotl.registry import Registry
from autotl.study.kept_database import study_exists
from autotl.study.space import suggest
from autotl.study.study import StudyAttribute, TrialAttribute, load_study
from autotl.workers.messages import Context, member_folder

__all__ = ["extension_of", "take_over"]


def extension_of(config: StudyConfig) -> StudyConfig:
    """The same configuration under the next free name: `photos` becomes `photos-2`, then `photos-3`.

    Raises AutotlError where there is no study to extend, and where its trials have another metric.
    """
    if not study_exists(config.folder):
        raise AutotlError(f"There is no study {config.name!r} in {config.output} to extend: leave --extend out.")
    was, now = load_study(config.folder).user_attrs.get(StudyAttribute.CHOICES, {}).get("metric"), config.metric
    if was != now:
        raise AutotlError(
            f"{config.folder} was searched for {was}, not for {now}: its scores can't be compared. "
            f"Extend it with --metric {was}, or begin anew with another --name."
        )
    names = (f"{config.name}-{number}" for number in itertools.count(2))
    return config.model_copy(update={"name": next(n for n in names if not (config.output / n).exists())})


def take_over(old: Path, study: optuna.Study, context: Context, registry: Registry) -> str:
    """Add the trials of the study in folder `old` that lie in this study's search space, with their fitted models.
    Returns a line for the user."""
    config = context.config
    source = load_study(old)
    num_taken = 0
    finished = source.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    for trial in finished:
        fitting = _fitting(trial, old.name, context, registry)
        if fitting:
            study.add_trial(fitting)
            _take_model(member_folder(old, trial.number), member_folder(context.folder, num_taken), num_taken)
            num_taken += 1
    study.set_user_attr(StudyAttribute.EXTENDS, old.name)
    return f"{num_taken} of the {len(finished)} finished trials of {old.name} fit what {config.name} chooses from"


def _fitting(trial: FrozenTrial, source: str, context: Context, registry: Registry) -> FrozenTrial | None:
    """The trial with the distributions of this study's space; None where one of its parameters lies outside."""
    asked = FixedTrial(trial.params, number=trial.number)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Optuna warns of a value outside of its distribution
        try:
            suggest(asked, context.choices, registry, context.config.seed)  # type: ignore[arg-type]
        except (ValueError, UserWarning, AutotlError):
            return None
    if asked.distributions.keys() != trial.params.keys():
        return None
    return create_trial(
        state=trial.state,
        value=trial.value,
        params=trial.params,
        distributions=asked.distributions,
        user_attrs={**trial.user_attrs, TrialAttribute.TAKEN_FROM: f"{source}/{trial.number}"},
        intermediate_values=trial.intermediate_values,
    )


def _take_model(old: Path, new: Path, number: int) -> None:
    """Copy a trial's fitted model, where it was kept, under its new number."""
    if not (old / "member.json").exists():
        return
    shutil.copytree(old, new, ignore=shutil.ignore_patterns("member.json"))
    write_json(new / "member.json", {**read_json(old / "member.json"), "trial": number})
