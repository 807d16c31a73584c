"""Whether a trial would enter the model: more folds are spent on such trials only."""

from collections.abc import Iterable

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autotl.metrics import Metric, log_loss
from autotl.recipe import Recipe
from autotl.study.comparison import is_ahead
from autotl.study.fold_file import read_fold_file
from autotl.study.pairs import NUM_TUNED_PAIRS
from autotl.study.study import FOLD_FILE, TrialAttribute
from autotl.trial.folds import calibrated
from autotl.trial.state import WorkerState
from autotl.workers.messages import member_folder

__all__ = ["may_be_kept", "why_not_promising"]

SMALLER = 0.999
"""Factor by which a log loss has to be smaller than another one: the same recipe trained again isn't ahead."""


def why_not_promising(
    state: WorkerState, recipe: Recipe, out_of_fold: np.ndarray, folds: int, *, has_time: bool = True
) -> str:
    """Why a trial wouldn't enter the model, as its cause; "" where it may.

    A model averages the best trial of a few pairs of backbone and head, and of each strategy, backbone and head only
    the best trial is kept. So a trial has to be ahead of the kept one on the images that both have predicted, at equal
    scores by log loss, and, after its first fold, ahead of all but a few pairs.

    Args:
        out_of_fold: its probabilities of the development images so far, NaN where there are none.
        folds: the number of folds that it has predicted.
        has_time: whether it can predict the others. One that can't doesn't replace the kept one: a score on few images
            is the best of many by chance.
    """
    metric = state.registry.metric(state.context.config.metric)
    labels = state.labels("development")
    complete = state.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    complete = [trial for trial in complete if TrialAttribute.SAMPLE not in trial.user_attrs]
    kept = _best_of_kind(state, complete, recipe)
    theirs = None if kept is None else read_out_of_fold(state, kept.number)
    if kept is not None and not has_time:
        return f"no time for more than {folds} of {state.context.split.num_folds} folds"
    if kept is not None and theirs is not None:
        both = ~np.isnan(out_of_fold[:, 0]) & ~np.isnan(theirs[:, 0])
        if not _is_ahead(metric, labels[both], out_of_fold[both], theirs[both]):
            of = f"{folds} of {state.context.split.num_folds} folds"
            return f"behind trial {kept.number}, the best of its kind, after {of}"
    predicted = ~np.isnan(out_of_fold[:, 0])
    score = metric.score_or_nan(labels[predicted], out_of_fold[predicted])
    if folds == 1 and (ahead := _pairs_ahead(complete, recipe, score, metric)) >= _num_pairs(state):
        return f"behind {ahead} pairs of backbone and head after 1 of {state.context.split.num_folds} folds"
    return ""


def may_be_kept(state: WorkerState, recipe: Recipe, value: float, folds: int) -> bool:
    """Whether a complete trial that has predicted so many folds may be the best of its strategy, backbone and head:
    only then is its model of use, but for limits, beyond which the others may be."""
    complete = state.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    kept = _best_of_kind(state, complete, recipe)
    if state.context.config.limits or kept is None or kept.user_attrs.get(TrialAttribute.FOLDS) != folds:
        return True
    metric = state.registry.metric(state.context.config.metric)
    return TrialAttribute.SAMPLE in kept.user_attrs or not metric.better(kept.value or 0.0, value)


def read_out_of_fold(state: WorkerState, number: int) -> np.ndarray | None:
    """What a complete trial predicted of the development images, [n, num_classes]; None where it wasn't kept, or can't
    be read."""
    shape = len(state.context.split.development), len(state.context.dataset.classes)
    file = member_folder(state.context.folder, number) / FOLD_FILE
    try:
        if state.link and not file.exists():
            state.link.fetch(file.relative_to(state.context.folder).as_posix())
        return read_fold_file(file.parent, shape)
    except (OSError, ValueError):
        return None


def _best_of_kind(state: WorkerState, complete: Iterable[FrozenTrial], recipe: Recipe) -> FrozenTrial | None:
    """The trial whose model the coordinator keeps, of those with a recipe's strategy, backbone and head."""
    kind = (recipe.strategy, recipe.backbone, recipe.head)
    maximize, limits = state.study.direction == StudyDirection.MAXIMIZE, state.context.config.limits
    best: FrozenTrial | None = None
    for trial in complete:
        if tuple(map(_recipe(trial).get, ("strategy", "backbone", "head"))) == kind and (
            best is None or is_ahead(trial, best, limits, maximize=maximize)
        ):
            best = trial
    return best


def _recipe(trial: FrozenTrial) -> dict[str, str]:
    return trial.user_attrs.get(TrialAttribute.RECIPE, {})


def _is_ahead(metric: Metric, labels: np.ndarray, own: np.ndarray, theirs: np.ndarray) -> bool:
    own, theirs = calibrated(own, labels)[0], calibrated(theirs, labels)[0]
    own_score, score = metric.score_or_nan(labels, own), metric.score_or_nan(labels, theirs)
    if own_score != score:
        return not metric.better(score, own_score)  # NaN is neither better nor worse
    return log_loss(labels, own) < SMALLER * log_loss(labels, theirs)


def _pairs_ahead(complete: Iterable[FrozenTrial], recipe: Recipe, score: float, metric: Metric) -> int:
    """The number of other pairs with a better score on the validation images."""
    ahead = set()
    for trial in complete:
        pair = _recipe(trial).get("backbone"), _recipe(trial).get("head")
        holdout = trial.user_attrs.get(TrialAttribute.HOLDOUT)
        if pair != (recipe.backbone, recipe.head) and holdout is not None and metric.better(holdout, score):
            ahead.add(pair)
    return len(ahead)


def _num_pairs(state: WorkerState) -> int:
    return max(NUM_TUNED_PAIRS, state.context.config.ensemble)
