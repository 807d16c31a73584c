"""Logs each trial of a search, and the model, to the MLflow server or folder in MLFLOW_TRACKING_URI.

The plugin does nothing unless that variable is set.
"""

import os
from typing import TYPE_CHECKING

import autotl

if TYPE_CHECKING:
    import optuna

    from autotl.model.image_model import ImageModel
    from autotl.strategies.base import Result

__all__ = ["autotl_search_finished", "autotl_trial_failed", "autotl_trial_finished", "autotl_trial_pruned"]


@autotl.hookimpl
def autotl_trial_finished(study: "optuna.Study", trial: "optuna.trial.FrozenTrial", result: "Result") -> None:
    if os.environ.get("MLFLOW_TRACKING_URI"):
        from autotl_mlflow.tracking import log_trial

        log_trial(study, trial, result.history)


@autotl.hookimpl
def autotl_trial_pruned(study: "optuna.Study", trial: "optuna.trial.FrozenTrial") -> None:
    _log_ended(study, trial)


@autotl.hookimpl
def autotl_trial_failed(study: "optuna.Study", trial: "optuna.trial.FrozenTrial") -> None:
    _log_ended(study, trial)


def _log_ended(study: "optuna.Study", trial: "optuna.trial.FrozenTrial") -> None:
    """Log a trial without a result: its cause is among its attributes."""
    if os.environ.get("MLFLOW_TRACKING_URI"):
        from autotl_mlflow.tracking import log_trial

        log_trial(study, trial, [])


@autotl.hookimpl
def autotl_search_finished(
    study: "optuna.Study", model: "ImageModel | None", search: "autotl.FinishedSearch | None"
) -> None:
    if os.environ.get("MLFLOW_TRACKING_URI"):
        from autotl_mlflow.tracking import log_search

        log_search(study, model, search)
