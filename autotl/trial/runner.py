"""One trial in a worker, from its recipe to `study.tell()`."""

import ctypes
import gc
import math
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import optuna
from optuna.trial import TrialState

from autotl.atomic_io import as_disk_full, write_atomically
from autotl.devices import is_device_error
from autotl.engines.recorded import FeatureSource, NotRecorded
from autotl.errors import MetricError
from autotl.escaping import escape_markdown
from autotl.features.joined import JoinedFeatures
from autotl.features.sharing import StoreTimeout
from autotl.features.store import StoreUnavailable
from autotl.model.costs import Part
from autotl.model.member import Member, save_member
from autotl.recipe import Recipe
from autotl.strategies.base import OutOfTime, Report, Result
from autotl.study.pruner import STEPS
from autotl.study.space import suggest
from autotl.study.study import FOLD_FILE, TrialAttribute, set_note, take_trial
from autotl.trial.costs import part_of, record_costs, require_affordable, time_backbones
from autotl.trial.events import notify_ended
from autotl.trial.folds import OutOfFold, fit_folds, predicted
from autotl.trial.rivals import may_be_kept, why_not_promising
from autotl.trial.sampling import on_all_images, sampled
from autotl.trial.state import WorkerState
from autotl.workers.messages import DeviceError, TrialEnded, TrialProgress, TrialStarted, member_folder

__all__ = ["release_memory", "run_trial"]

MAX_CAUSE_LENGTH = 500
"""Characters of a trial's cause: the study keeps the traceback too."""


def run_trial(
    state: WorkerState,
    number: int,
    time_budget: float = math.inf,
    source: FeatureSource | None = None,
    sample: int | None = None,
) -> bool:
    """Train a trial's recipe, tell its result. Sends TrialStarted, … TrialEnded or DeviceError.

    An exception fails the trial and is its cause.

    Args:
        number: of the trial, which is running in the study.
        time_budget: seconds that the trial plans to train for.
        source: whose recorded features it reads; None for the worker's own.
        sample: number of training and validation images that it learns from; None for all.

    Returns:
        False after an accelerator error, which makes everything that this process computes later unreliable.

    Raises:
        DiskFull: the disk is full. The trial stays RUNNING, and a resumed search runs its recipe again.
        BrokenPlugin: a plugin failed in an event under --strict-plugins.
    """
    began = time.monotonic()
    if source:
        state = state.reading(source)
    state.extractor.extraction_seconds = 0.0
    trial = take_trial(state.study, number)
    result: Result | None = None
    value: float | None = None
    cause = ""
    device_error = False
    try:
        result, value = _run(state, trial, time_budget, sample)
        outcome = TrialState.COMPLETE
    except optuna.TrialPruned as pruned:
        outcome, cause = TrialState.PRUNED, str(pruned) or "worse than the median of its strategy"
    except NotRecorded as error:
        outcome, cause = TrialState.PRUNED, str(error)
        trial.set_user_attr(TrialAttribute.NOT_RECORDED, value=True)
    except (StoreTimeout, OutOfTime) as error:
        outcome, cause = TrialState.PRUNED, str(error)
        trial.set_user_attr(TrialAttribute.OUT_OF_TIME, value=True)
    except Exception as error:
        if full := as_disk_full(error, state.context.folder):
            raise full from error  # later trials would fail, too
        outcome, cause = TrialState.FAIL, f"{type(error).__name__}: {error}".strip()[:MAX_CAUSE_LENGTH]
        device_error = is_device_error(error)
        trial.set_user_attr(TrialAttribute.TRACEBACK, traceback.format_exc())
    if cause:
        trial.set_user_attr(TrialAttribute.CAUSE, cause)
    trial.set_user_attr(TrialAttribute.SECONDS, round(time.monotonic() - began, 3))
    trial.set_user_attr(TrialAttribute.EXTRACTION_SECONDS, round(state.extractor.extraction_seconds, 3))
    trial.set_user_attr(TrialAttribute.DEVICE, state.context.slot.name)
    finished = state.study.tell(trial, value, state=outcome)
    try:
        if result is not None:
            state.registry.notify("autotl_trial_finished", study=state.study, trial=finished, result=result)
        else:
            notify_ended(state.registry, state.study, finished)
    finally:
        state.send(DeviceError(trial.number, cause) if device_error else TrialEnded(trial.number))
    del result
    release_memory()
    return not device_error and time_backbones(state)


def release_memory() -> None:
    """Return freed memory to the system. glibc keeps what was freed between blocks that are still in use; over many
    trials that grows to gigabytes."""
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library has no malloc_trim
            ctypes.CDLL(None).malloc_trim(0)


def _run(
    state: WorkerState, trial: optuna.Trial, time_budget: float, sample: int | None = None
) -> tuple[Result, float]:
    """Draw the trial's recipe, train it, and save what was fitted; returns the result and its score."""
    recipe = suggest(trial, state.context.choices, state.registry, state.context.config.seed)
    description = recipe.describe()
    state.send(TrialStarted(trial.number, recipe.strategy, recipe.backbone, recipe.head, description))
    trial.set_user_attr(TrialAttribute.DESCRIPTION, description)
    trial.set_user_attr(TrialAttribute.RECIPE, recipe.to_dict())
    if state.link:
        state.link.flush()  # the trial is tried once more with these parameters where its host is lost
    networks = require_affordable(state, trial, recipe)
    report, judge = _reporter(state, trial), _judge(state, trial, recipe)

    def fit() -> OutOfFold:
        if sample is None:
            return fit_folds(state, recipe, time_budget, report, judge)
        of_sample = sampled(state, sample)
        fitted = fit_folds(of_sample, recipe, time_budget, report, folds=1)
        trial.set_user_attr(TrialAttribute.SAMPLE, len(of_sample.context.split.development))
        return replace(fitted, probabilities=on_all_images(state, of_sample, fitted.probabilities))

    try:
        fitted = fit()
    except StoreUnavailable as error:
        state.replace_cache(error)
        fitted = fit()
    value = state.registry.metric(state.context.config.metric)(*predicted(state, fitted.probabilities))
    record_costs(state, trial, _record(state, trial, fitted, value), networks)
    return fitted.result, value


def _reporter(state: WorkerState, trial: optuna.Trial) -> Report:
    """The trial's `report(fraction, score)`: sends its progress, and raises TrialPruned where the pruner decides so."""
    metric = state.context.config.metric
    last_step = 0

    def report(fraction: float, score: float) -> None:
        nonlocal last_step
        if not math.isfinite(score):
            raise MetricError(f"The strategy reported {score} as its score in metric {metric!r}: not a finite number.")
        state.send(TrialProgress(trial.number, float(fraction), float(score)))
        step = int(fraction * STEPS)
        if step > last_step:
            last_step = step
            trial.report(score, step)
            if fraction < 1 and trial.should_prune():
                raise optuna.TrialPruned

    return report


def _judge(state: WorkerState, trial: optuna.Trial, recipe: Recipe) -> Callable[[np.ndarray, int, bool], None]:
    """The trial's `judge(out_of_fold, folds, has_time)`: reports its score, and raises TrialPruned where others are
    ahead."""
    metric = state.registry.metric(state.context.config.metric)

    def judge(out_of_fold: np.ndarray, folds: int, has_time: bool) -> None:  # noqa: FBT001 - a callback
        score = metric.score_or_nan(*predicted(state, out_of_fold))
        if math.isfinite(score):
            trial.report(score, STEPS + folds)
        if cause := why_not_promising(state, recipe, out_of_fold, folds, has_time=has_time):
            raise optuna.TrialPruned(cause)

    return judge


def _record(state: WorkerState, trial: optuna.Trial, fitted: OutOfFold, value: float) -> Part:
    """Save the fitted model and set the trial's attributes; Optuna refuses attributes of a trial that is told. Returns
    what the model needs to predict."""
    context, result, recipe = state.context, fitted.result, fitted.result.recipe
    backbone = state.registry.backbone(recipe.backbone)
    num_classes = len(context.dataset.classes)
    member = Member(recipe, result.fitted, backbone.digest, num_classes, trial=trial.number, validation=value)
    num_features = JoinedFeatures.of(state.extractor, backbone).num_features(result.fitted.levels)
    folder = member_folder(context.folder, trial.number)
    write_atomically(folder / FOLD_FILE, lambda file: np.save(file, fitted.probabilities))
    save_member(member, num_features, folder)
    if state.link:  # what can't enter the model isn't sent: it would be removed when the trial has ended
        is_whole = may_be_kept(state, recipe, value, fitted.folds)
        state.publish(f"trials/{folder.name}" if is_whole else f"trials/{folder.name}/{FOLD_FILE}")

    if recipe.digest != Recipe.from_dict(trial.user_attrs[TrialAttribute.RECIPE]).digest:  # time cut it short
        trial.set_user_attr(TrialAttribute.RECIPE, recipe.to_dict())
        trial.set_user_attr(TrialAttribute.DESCRIPTION, recipe.describe())
    if result.history:
        trial.set_user_attr(TrialAttribute.EPOCHS, len(result.history))
    if result.best_epoch:
        trial.set_user_attr(TrialAttribute.BEST_EPOCH, result.best_epoch)
    trial.set_user_attr(TrialAttribute.TUNED, result.fitted.backbone_state is not None)
    trial.set_user_attr(TrialAttribute.FOLDS, fitted.folds)
    trial.set_user_attr(TrialAttribute.FIT_SECONDS, round(fitted.fit_seconds, 3))
    trial.set_user_attr(TrialAttribute.FITTED_ON_ALL, fitted.fitted_on_all)
    for name, score in _scores(state, *predicted(state, fitted.probabilities)).items():
        trial.set_user_attr(name, round(score, 6))
    metric = state.registry.metric(context.config.metric)
    labels = state.labels("validation")
    whole = len(labels) == len(result.probabilities)  # and not a sample of them
    if whole and math.isfinite(holdout := metric.score_or_nan(labels, result.probabilities)):
        trial.set_user_attr(TrialAttribute.HOLDOUT, round(holdout, 6))
    _upload_history(state, trial, result)
    text = escape_markdown(f"{context.config.metric}: {recipe.describe()}")
    set_note(state.study, trial, f"**{value:.4f}** {text}")
    return part_of(folder, member)


def _scores(state: WorkerState, labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Scores by metric, without those that can't be computed: they only inform."""
    scores = {name: metric.score_or_nan(labels, probabilities) for name, metric in state.registry.metrics.items()}
    return {name: score for name, score in scores.items() if not math.isnan(score)}


def _upload_history(state: WorkerState, trial: optuna.Trial, result: Result) -> None:
    """Upload the learning curve as a picture that Optuna Dashboard shows. Weights are never uploaded: an artifact store
    has no way to delete them."""
    if not result.history:
        return
    from autotl.page.charts import Series, curves, standalone

    epochs = [float(epoch["epoch"]) for epoch in result.history]
    for name in ("score", "loss"):
        values = [epoch.get(name, math.nan) for epoch in result.history]
        if any(math.isfinite(value) for value in values):
            drawing = curves([Series(name, epochs, values)], ("epoch", name))
            state.upload_picture(trial, f"{name}.svg", standalone(drawing))
