"""Out-of-fold probabilities: each image is predicted by a fit that saw neither it nor what belongs to it."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from autotl.data.dataset import ImageDataset
from autotl.data.folds import stratified_folds
from autotl.data.splits import units_of
from autotl.recipe import Recipe
from autotl.trial.folds import at_best_temperature, held_out_logits, train_on
from autotl.trial.state import WorkerState

__all__ = ["cross_predict", "fold_numbers", "out_of_fold"]

NUM_FOLDS = 5


def fold_numbers(dataset: ImageDataset, images: np.ndarray, seed: int, num_folds: int = NUM_FOLDS) -> np.ndarray:
    """The fold of each image, int64 [n], stratified. Images of one group, of the same bytes, and near-duplicates are in
    one fold.

    Args:
        images: indices into the dataset.
    """
    return stratified_folds(dataset.labels[images], units_of(dataset, images), num_folds, seed)


def cross_predict(folds: np.ndarray, predict: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Predictions of all rows, [n, num_classes], each fold's by a fit on the other folds.

    Args:
        folds: the fold of each row, [n].
        predict: from the rows to train on and the rows to predict, ascending, to the predictions of the latter.
    """
    found: np.ndarray | None = None
    for fold in np.unique(folds):
        held_out = np.flatnonzero(folds == fold)
        rows = predict(np.flatnonzero(folds != fold), held_out)
        if found is None:
            found = np.full((len(folds), rows.shape[1]), np.nan)
        found[held_out] = rows
    assert found is not None
    return found


def out_of_fold(state: WorkerState, recipe: Recipe, images: np.ndarray, epochs: int | None = None) -> np.ndarray:
    """Out-of-fold probabilities of a recipe, [n, num_classes], calibrated by one temperature for all. Features that
    aren't recorded are extracted first.

    Args:
        images: indices into the dataset, in any order.
        epochs: to train for, where the recipe trains in epochs; by default the recipe's own.
    """

    def predict(train_rows: np.ndarray, held_out: np.ndarray) -> np.ndarray:
        split = replace(state.context.split, train=images[train_rows], validation=images[held_out])
        return held_out_logits(train_on(state, split, recipe, refit_epochs=epochs))

    dataset = state.context.dataset
    logits = cross_predict(fold_numbers(dataset, images, state.context.config.seed), predict)
    return at_best_temperature(logits, dataset.labels[images])[0]
