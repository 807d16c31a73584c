"""The event hooks of plugins for trials that have no result."""

import optuna
from optuna.trial import FrozenTrial, TrialState

from autotl.registry import Registry
from autotl.study.study import TrialAttribute

__all__ = ["notify_ended"]

HOOKS = {TrialState.PRUNED: "autotl_trial_pruned", TrialState.FAIL: "autotl_trial_failed"}


def notify_ended(registry: Registry, study: optuna.Study, trial: FrozenTrial) -> None:
    """Call the plugins' hook for a trial that was pruned or failed, with its cause."""
    cause = trial.user_attrs.get(TrialAttribute.CAUSE, "")
    registry.notify(HOOKS[trial.state], study=study, trial=trial, cause=cause)
