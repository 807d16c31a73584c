"""The Optuna study of a search: its journal, sampler and pruner, and what rides on its trials."""

from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.pruners import BasePruner, PercentilePruner
from optuna.trial import FrozenTrial, TrialState

from autotl.tuner.journal import open_storage
from autotl.tuner.progress import TrialLine
from autotl.tuner.sampler import ConditionalTPESampler

__all__ = ["STEPS", "as_line", "open_study", "set_note"]

STEPS = 20
"""The axis that pruning compares on: twentieths of a trial's own budget."""
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


class SameStrategyPruner(BasePruner):
    """Compares a trial with the better half of the finished ones of its own strategy, at the same share of their
    budgets: what a frozen backbone's head reaches in a second says nothing about fine-tuning."""

    def __init__(self) -> None:
        self._median = PercentilePruner(50.0, n_startup_trials=4, n_warmup_steps=STEPS // 5, n_min_trials=3)

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return self._median.prune(_OfStrategy(study, trial.params.get("strategy")), trial)  # type: ignore[arg-type]


class _OfStrategy:
    """The part of a study that has one strategy, for a pruner that asks for trials and the direction."""

    def __init__(self, study: optuna.Study, strategy: Any):
        self._study, self._strategy = study, strategy
        self.direction = study.direction

    def get_trials(self, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:
        trials = self._study.get_trials(deepcopy=deepcopy, states=states)
        return [t for t in trials if t.params.get("strategy") == self._strategy]


def as_line(trial: FrozenTrial) -> TrialLine:
    """A finished trial as people read it."""
    return TrialLine(
        number=trial.number,
        state=STATES[trial.state],
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        words=trial.user_attrs.get("words", ""),
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
