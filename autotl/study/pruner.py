"""Median pruning among the trials of one strategy."""

from collections.abc import Container

import optuna
from optuna.pruners import BasePruner, PercentilePruner
from optuna.trial import FrozenTrial, TrialState

from autotl.recipe import Value

__all__ = ["STEPS", "SameStrategyPruner"]

STEPS = 20
"""Number of steps at which trials are compared. A step is a share of a trial's own budget, here a twentieth."""


class SameStrategyPruner(BasePruner):
    """Prunes a trial whose score is below the median of the finished trials of its strategy at the same step.

    Strategies are not compared with each other: a head on recorded features has its final score after a second, long
    before fine-tuning has.
    """

    def __init__(self) -> None:
        self._median = PercentilePruner(50.0, n_startup_trials=4, n_warmup_steps=STEPS // 5, n_min_trials=3)

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return self._median.prune(_StrategyView(study, trial.params.get("strategy")), trial)  # type: ignore[arg-type]


class _StrategyView:
    """The trials of one strategy, with the attributes of a study that a pruner reads."""

    def __init__(self, study: optuna.Study, strategy: Value):
        self._study, self._strategy = study, strategy
        self.direction = study.direction

    def get_trials(self, *, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        trials = self._study.get_trials(deepcopy=deepcopy, states=states)
        return [trial for trial in trials if trial.params.get("strategy") == self._strategy]
