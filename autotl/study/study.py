"""The Optuna study of a search: its journal, sampler and pruner, and what rides on its trials."""

from pathlib import Path
from typing import Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from autotl.study.pruner import SameStrategyPruner
from autotl.study.sampler import ConditionalTPESampler
from autotl.study.storage import open_storage
from autotl.ui.progress import TrialLine

__all__ = ["as_line", "open_study", "set_note"]

STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def open_study(folder: Path, name: str, direction: Literal["maximize", "minimize"], seed: int) -> optuna.Study:
    """Open, or begin, the study in `folder/journal.log`. Safe from many processes at once.

    Raises AutotlError where the journal can't be read."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(
        study_name=name,
        storage=open_storage(folder),
        direction=direction,
        sampler=ConditionalTPESampler(seed),
        pruner=SameStrategyPruner(),
        load_if_exists=True,
    )


def as_line(trial: FrozenTrial) -> TrialLine:
    """A finished trial as people read it."""
    return TrialLine(
        number=trial.number,
        state=STATES[trial.state],
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        description=trial.user_attrs.get("description", ""),
        seconds=trial.user_attrs.get("seconds", trial.duration.total_seconds() if trial.duration else 0.0),
        note=trial.user_attrs.get("cause", ""),
    )


def set_note(study: optuna.Study, trial: optuna.Trial | None, text: str) -> None:
    """A note in words on a trial, or on the study, that Optuna Dashboard shows. Without the dashboard there is none."""
    try:
        from optuna_dashboard import save_note
    except ImportError:
        return
    save_note(trial or study, text)
