"""Fit a recipe fold by fold, so that every image but the test images is predicted by a model that hasn't seen it."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from autotl.data.augmentation import ORIGINAL, View
from autotl.data.dataset import Subset
from autotl.data.splits import Split
from autotl.features.extractor import BackboneFeatures
from autotl.features.sharing import StoreTimeout
from autotl.heads.calibration import fit_temperature
from autotl.heads.inference import MISSING, probabilities
from autotl.recipe import Recipe
from autotl.strategies.base import OutOfTime, Report, Result
from autotl.trial.state import WorkerState
from autotl.trial.training import train
from autotl.workers.messages import Activity

__all__ = ["OutOfFold", "calibrated", "fit_folds", "predicted"]

FOLDS_TIME_SHARE = 0.25
"""Share of the remaining time that the folds of one trial may take beside the first one."""


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
    out_of_fold = np.full((len(development), len(dataset.classes)), np.nan)
    is_cross_validated = state.registry.strategy(recipe.strategy).cross_validated and folds != 1
    num_folds = (folds or split.num_folds) if is_cross_validated else 1
    began, extracted = time.monotonic(), state.extractor.extraction_seconds

    def seconds() -> float:
        return time.monotonic() - began - (state.extractor.extraction_seconds - extracted)

    head = state.registry.head(recipe.head)
    at_once = num_folds > 1 and head.type == "estimator" and head.predicts_folds
    if at_once:
        everything = replace(split, train=development)
        result = _train_on(state, everything, recipe, time_budget, report, of_fold=of_fold)
        out_of_fold[:] = result.probabilities
        done, fit_seconds = num_folds, seconds()
    else:
        result = train(state, recipe, time_budget, report)
        out_of_fold[of_fold == 0] = result.probabilities
        done, fit_seconds = 1, seconds()
    while done < num_folds:
        left = (
            min(time_budget - seconds(), FOLDS_TIME_SHARE * state.deadline.remaining()) if folds is None else math.inf
        )
        has_time = fit_seconds * (num_folds - done) <= left
        judge(out_of_fold, done, has_time)
        if not has_time:
            break
        state.send(Activity(f"fold {done + 1} of {num_folds}"))
        try:
            # what was decided by the scores of the first fold holds for the others
            fitted = _train_on(state, split.of_fold(done), result.recipe, math.inf, _ignore, result.best_epoch)
        except (OutOfTime, StoreTimeout):
            break
        out_of_fold[of_fold == done] = fitted.probabilities
        done += 1
    rows = ~np.isnan(out_of_fold[:, 0])
    out_of_fold[rows], result.fitted.temperature = calibrated(out_of_fold[rows], state.labels("development")[rows])
    result.probabilities = out_of_fold[of_fold == 0]
    return OutOfFold(result, out_of_fold, done, fit_seconds, fitted_on_all=at_once)


def predicted(state: WorkerState, out_of_fold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of the images that were predicted."""
    rows = ~np.isnan(out_of_fold[:, 0])
    return state.labels("development")[rows], out_of_fold[rows]


def _train_on(
    state: WorkerState,
    split: Split,
    recipe: Recipe,
    time_budget: float,
    report: Report,
    refit_epochs: int | None = None,
    of_fold: np.ndarray | None = None,
) -> Result:
    """Train a recipe on recorded features with another split of the development images."""
    state = replace(state, context=replace(state.context, split=split))
    features = _Features(state.extractor.of(state.registry.backbone(recipe.backbone)), split)
    return train(state, recipe, time_budget, report, refit_epochs, features=features, folds=of_fold)


@dataclass(frozen=True)
class _Features:
    """A backbone's recorded features, by the subsets of another split."""

    features: BackboneFeatures
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
    with np.errstate(divide="ignore"):  # the head's own logits, up to a constant in each row
        logits = np.maximum(np.log(uncalibrated), MISSING)
    temperature = fit_temperature(logits, labels)
    return probabilities(logits, temperature), temperature


def _ignore(fraction: float, score: float) -> None:
    """Progress within a fold is no step of the trial's."""
