"""Pruning that compares like with like."""

from typing import Any

import optuna
from optuna.pruners import BasePruner, PercentilePruner
from optuna.trial import FrozenTrial

__all__ = ["STEPS", "SameStrategyPruner"]

STEPS = 20
"""The axis that pruning compares on: twentieths of a trial's own budget."""


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
