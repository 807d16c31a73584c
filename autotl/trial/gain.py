"""What the second half of a search has brought: a hint of what more time would bring."""

import math
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from optuna.trial import TrialState

from autotl.metrics import Metric
from autotl.model.ensemble import select
from autotl.study.comparison import HoldoutLine
from autotl.study.fold_file import read_fold_file
from autotl.study.study import EARLIER_FILE, FOLD_FILE, TrialAttribute
from autotl.trial.state import WorkerState
from autotl.workers.messages import member_folder

__all__ = ["gain", "paired_difference"]

SAMPLES = 50
"""Bootstrap samples of the images."""
MIN_SECONDS = 10.0
"""A search whose half is shorter says nothing."""


def gain(state: WorkerState, held_out: np.ndarray, seconds: float) -> dict[str, float] | None:
    """By how much the model is better than the one that the trials complete `seconds` ago would have given, in the
    metric of the search, on the images that both have predicted out of fold.

    Args:
        held_out: the model's out-of-fold probabilities of the development images, [n, num_classes]; NaN where there are
            none.

    Returns:
        `seconds`, `difference` (positive where the model is better) and its `standard_error`; None where nothing was
        complete then.
    """
    if seconds < MIN_SECONDS:
        return None
    metric = state.registry.metric(state.context.config.metric)
    earlier = _earlier(state, metric, datetime.now() - timedelta(seconds=seconds))
    if earlier is None:
        return None
    rows = np.isfinite(held_out).all(1) & np.isfinite(earlier).all(1)
    if not rows.any():
        return None
    labels = state.labels("development")[rows]
    difference, error = paired_difference(metric, labels, held_out[rows], earlier[rows])
    if math.isnan(difference) or math.isnan(error):
        return None
    return {"seconds": round(seconds, 1), "difference": round(difference, 6), "standard_error": round(error, 6)}


def _earlier(state: WorkerState, metric: Metric, moment: datetime) -> np.ndarray | None:
    """The out-of-fold probabilities of the model that would have been chosen at a moment."""
    best: dict[tuple[str, ...], np.ndarray] = {}
    shape = len(state.context.split.development), len(state.context.dataset.classes)
    limits = state.context.config.limits
    early = [
        trial
        for trial in state.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if trial.datetime_complete is not None and trial.datetime_complete <= moment
        if TrialAttribute.SAMPLE not in trial.user_attrs and limits.keeps(trial.user_attrs)
    ]
    line = HoldoutLine.of(early)
    for trial in sorted(early, key=lambda trial: line.rank(trial, limits, maximize=metric.greater_is_better)):
        recipe = trial.user_attrs.get(TrialAttribute.RECIPE, {})
        kind = tuple(str(recipe.get(name)) for name in ("strategy", "backbone", "head"))
        if kind in best:
            continue
        folder = member_folder(state.context.folder, trial.number)
        name = next((name for name in (FOLD_FILE, EARLIER_FILE) if (folder / name).exists()), None)
        if name is not None:
            with suppress(OSError, ValueError):  # torn, or a stranger's: the model doesn't need it
                best[kind] = read_fold_file(folder, shape, name)
    if not best:
        return None
    arrays = list(best.values())
    weights = select(arrays, state.labels("development"), state.context.config.ensemble)
    return np.asarray(np.sum([weight * arrays[i] for i, weight in weights.items()], axis=0))


def paired_difference(
    metric: Metric, labels: np.ndarray, new: np.ndarray, old: np.ndarray, seed: int = 0
) -> tuple[float, float]:
    """By how much `new` is better than `old`, [n, num_classes] each, and the standard error over bootstrap samples of
    the images.

    >>> from autotl.metrics import Metric, accuracy
    >>> labels, right, wrong = np.zeros(100, int), np.tile([0.9, 0.1], (100, 1)), np.tile([0.1, 0.9], (100, 1))
    >>> difference, error = paired_difference(
    ...     Metric("accuracy", accuracy), labels, right, np.vstack([right[:90], wrong[90:]])
    ... )
    >>> difference, 0.02 < error < 0.04
    (0.1, True)
    """
    sign = 1.0 if metric.greater_is_better else -1.0

    def better(rows: Any) -> float:
        return sign * (metric.score_or_nan(labels[rows], new[rows]) - metric.score_or_nan(labels[rows], old[rows]))

    rng = np.random.default_rng(seed)
    differences = [better(rng.integers(len(labels), size=len(labels))) for _ in range(SAMPLES)]
    return round(better(slice(None)), 12), float(np.std([d for d in differences if not math.isnan(d)] or [math.nan]))
