"""Out-of-fold probabilities: each image is predicted by a fit that saw neither it nor what belongs to it."""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from autotl.data.dataset import ImageDataset
from autotl.data.splits import connect
from autotl.recipe import Recipe
from autotl.trial.state import WorkerState
from autotl.trial.training import train

__all__ = ["cross_predict", "fold_numbers", "out_of_fold", "units_of"]

NUM_FOLDS = 5


def units_of(dataset: ImageDataset, images: np.ndarray) -> np.ndarray:
    """int64 [n]: one number for all images that are of one group, of the same bytes or near-duplicates, or connected by
    a chain of these.

    Args:
        images: indices into the dataset.
    """
    ids = (dataset.digests, dataset.groups, *([dataset.lookalikes] if dataset.lookalikes else []))
    return connect(len(images), *(np.asarray(values)[images] for values in ids))


def fold_numbers(dataset: ImageDataset, images: np.ndarray, seed: int, num_folds: int = NUM_FOLDS) -> np.ndarray:
    """The fold of each image, int64 [n], stratified. Images of one group, of the same bytes, and near-duplicates are in
    one fold.

    Args:
        images: indices into the dataset.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    units = units_of(dataset, images)
    labels, folds = dataset.labels[images], np.zeros(len(images), np.int64)
    number = min(num_folds, len(np.unique(units)), int(np.bincount(labels).max(initial=0)))
    if number < 2:
        return folds
    with warnings.catch_warnings():  # of classes with fewer images than folds
        warnings.simplefilter("ignore")
        splitter = StratifiedGroupKFold(number, shuffle=True, random_state=seed % 2**32)
        for fold, (_, held_out) in enumerate(splitter.split(labels, labels, units)):
            folds[held_out] = fold
    return folds


def cross_predict(folds: np.ndarray, predict: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Probabilities of all rows, [n, num_classes], each fold's by a fit on the other folds.

    Args:
        folds: the fold of each row, [n].
        predict: from the rows to train on and the rows to predict, ascending, to the probabilities of the latter.
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
    """Out-of-fold probabilities of a recipe, [n, num_classes]. Features that aren't recorded are extracted first.

    Args:
        images: indices into the dataset, in any order.
        epochs: to train for, where the recipe trains in epochs; by default the recipe's own.
    """

    def predict(train_rows: np.ndarray, held_out: np.ndarray) -> np.ndarray:
        split = replace(state.context.split, train=images[train_rows], validation=images[held_out])
        fold = replace(
            state,
            context=replace(state.context, split=split),
            extractor=replace(state.extractor, split=split),
        )
        return train(fold, recipe, math.inf, lambda fraction, score: None, epochs).probabilities

    return cross_predict(fold_numbers(state.context.dataset, images, state.context.config.seed), predict)
