"""Fit a recipe fold by fold, so that every image but the test images is predicted by a model that hasn't seen it."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from autotl.data.augmentation import ORIGINAL, View
from autotl.data.dataset import Subset
from autotl.data.splits import Split
from autotl.errors import AutotlError
from autotl.features.joined import JoinedFeatures
from autotl.features.sharing import StoreTimeout
from autotl.heads.calibration import fit_temperature
from autotl.heads.inference import MISSING, probabilities
from autotl.recipe import Recipe
from autotl.strategies.base import OutOfTime, Report, Result
from autotl.trial.state import WorkerState
from autotl.trial.training import train
from autotl.workers.messages import Activity

__all__ = ["OutOfFold", "at_best_temperature", "calibrated", "fit_folds", "held_out_logits", "predicted", "train_on"]

FOLDS_TIME_SHARE = 0.25
"""Share of the remaining time that the folds of one trial may take beside the first one."""
MAX_SPREAD = 600.0
"""Logits that lie no farther apart have probabilities above 0 in float64."""


@dataclass
class OutOfFold:
    """A fitted recipe, and what it predicts of images that it wasn't fitted on."""

    result: Result
    """Of the fit that is kept. Its probabilities are those of the validation images, calibrated."""
    probabilities: np.ndarray
    """Of the development images (`Split.development`), [n, num_classes], float64; NaN for images that weren't predicted
    out of fold. Calibrated by one temperature for all."""
    folds: int
    """How many folds were predicted: 1 where it was the validation images alone."""
    fit_seconds: float
    """Of one fit, without the extraction of features."""
    fitted_on_all: bool
    """Whether the fit that is kept has seen the validation images, too."""


def fit_folds(
    state: WorkerState,
    recipe: Recipe,
    time_budget: float,
    report: Report,
    judge: Callable[[np.ndarray, int, bool], None] = lambda out_of_fold, folds, has_time: None,
    folds: int | None = None,
) -> OutOfFold:
    """Fit a recipe on the training images and predict the validation images, fold 0. Then do the same for each other
    fold, where the strategy is cross-validated and there is time. A head that predicts folds by itself is fitted once,
    on all development images.

    Args:
        time_budget: seconds of training to plan for.
        judge: called before each fold but the first with the probabilities so far, as in `OutOfFold` but not
            calibrated, the number of folds, and whether there is time for the others. It may raise optuna.TrialPruned.
        folds: exactly so many folds, whatever the time; by default all.

    Raises:
        OutOfTime, StoreTimeout: the deadline passed during the first fit.
        optuna.TrialPruned: `report` or `judge` raised it.
    """
    split, dataset = state.context.split, state.context.dataset
    development, of_fold = split.development, split.development_folds
    logits = np.full((len(development), len(dataset.classes)), np.nan)
    is_cross_validated = state.registry.strategy(recipe.strategy).cross_validated and folds != 1
    num_folds = (folds or split.num_folds) if is_cross_validated else 1
    began, extracted = time.monotonic(), state.extractor.extraction_seconds

    def seconds() -> float:
        return time.monotonic() - began - (state.extractor.extraction_seconds - extracted)

    head = state.registry.head(recipe.head)
    at_once = num_folds > 1 and head.type == "estimator" and head.predicts_folds
    if at_once:
        everything = replace(split, train=development)
        result = train_on(state, everything, recipe, time_budget, report, of_fold=of_fold)
        logits[of_fold >= 0] = held_out_logits(result, of_fold >= 0)
        done, fit_seconds = num_folds, seconds()
    else:
        result = train(state, recipe, time_budget, report)
        logits[of_fold == 0] = held_out_logits(result)
        done, fit_seconds = 1, seconds()
    while done < num_folds:
        left = (
            min(time_budget - seconds(), FOLDS_TIME_SHARE * state.deadline.remaining()) if folds is None else math.inf
        )
        has_time = fit_seconds * (num_folds - done) <= left
        judge(_softened(logits), done, has_time)
        if not has_time:
            break
        state.send(Activity(f"fold {done + 1} of {num_folds}"))
        try:
            # what was decided by the scores of the first fold holds for the others
            fitted = train_on(state, split.of_fold(done), result.recipe, refit_epochs=result.best_epoch)
        except (OutOfTime, StoreTimeout):
            break
        logits[of_fold == done] = held_out_logits(fitted)
        done += 1
    rows, out_of_fold = ~np.isnan(logits[:, 0]), np.full_like(logits, np.nan)
    labels = state.labels("development")[rows]
    out_of_fold[rows], result.fitted.temperature = at_best_temperature(logits[rows], labels)
    result.probabilities = out_of_fold[of_fold == 0]
    return OutOfFold(result, out_of_fold, done, fit_seconds, fitted_on_all=at_once)


def predicted(state: WorkerState, out_of_fold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of the images that were predicted."""
    rows = ~np.isnan(out_of_fold[:, 0])
    return state.labels("development")[rows], out_of_fold[rows]


def _ignore(fraction: float, score: float) -> None:
    """Progress within a fold is no step of the trial's."""


def train_on(
    state: WorkerState,
    split: Split,
    recipe: Recipe,
    time_budget: float = math.inf,
    report: Report = _ignore,
    refit_epochs: int | None = None,
    of_fold: np.ndarray | None = None,
) -> Result:
    """Train a recipe with another split of the state's images. For the other arguments see `train`."""
    state = replace(state, context=replace(state.context, split=split))
    if state.registry.strategy(recipe.strategy).cross_validated:
        features = _Features(JoinedFeatures.of(state.extractor, state.registry.backbone(recipe.backbone)), split)
        return train(state, recipe, time_budget, report, refit_epochs, features=features, folds=of_fold)
    # what stays in an accelerator's memory is kept by the name of a subset, which has other images now
    state = replace(state, extractor=replace(state.extractor, split=split, resident=None))
    return train(state, recipe, time_budget, report, refit_epochs, folds=of_fold)


@dataclass(frozen=True)
class _Features:
    """A recipe's recorded features, by the subsets of another split."""

    features: JoinedFeatures
    split: Split

    def levels(self, subset: Subset, levels: str, view: View = ORIGINAL) -> np.ndarray:
        return self.features.levels(getattr(self.split, subset), levels, view)

    def boundary(self, subset: Subset, block: int, view: View = ORIGINAL) -> None:
        raise NotImplementedError("A cross-validated strategy reads features, and no activations.")


def calibrated(uncalibrated: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """Probabilities [n, num_classes] at the temperature, which is returned too, that fits the labels best.

    One temperature changes no decision, and the probabilities of all heads can be averaged. Support vector machines
    have no probabilities of their own.
    """
    return at_best_temperature(_log(uncalibrated), labels)


def at_best_temperature(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """As `calibrated`, from logits [n, num_classes]."""
    temperature = fit_temperature(logits, labels)
    return probabilities(logits, temperature), temperature


def held_out_logits(result: Result, images: np.ndarray | slice = slice(None)) -> np.ndarray:
    """The logits of images that a fit hasn't seen, [n, num_classes].

    Args:
        images: which of the images of the result; by default all.

    Raises:
        AutotlError: some are not finite. NaN would pass for an image that no fold predicts, and only the others would
            be scored.
    """
    logits = _log(result.probabilities[images]) if result.logits is None else result.logits[images]
    if not np.isfinite(logits).all():
        raise AutotlError(f"the predictions of {result.recipe.head} are not finite")
    return logits


def _log(probabilities: np.ndarray) -> np.ndarray:
    """The logits of a head, up to a constant in each row."""
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(probabilities), MISSING)


def _softened(logits: np.ndarray) -> np.ndarray:
    """Probabilities at a temperature of 1, or at the least one at which none is rounded to 0; NaN stays."""
    known = logits > MISSING / 2
    spread = np.max(logits, 1, where=known, initial=MISSING) - np.min(logits, 1, where=known, initial=-MISSING)
    return probabilities(logits, max(1.0, float(spread.max(initial=0.0)) / MAX_SPREAD))
