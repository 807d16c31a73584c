"""Trials on a sample of the images, for searches in which a pass over all of them takes too long."""

from dataclasses import replace

import numpy as np

from autotl.alignment.sample import stratified_order
from autotl.trial.state import WorkerState

__all__ = ["on_all_images", "sampled"]

MOST_PER_VALIDATION = 8
"""Images of a sample for each validation image at most, as far as there are as many of these."""


def sampled(state: WorkerState, num_images: int) -> WorkerState:
    """The state with so many of the training and validation images, stratified, without folds. A larger sample contains
    the smaller ones, so that their features are of use.

    The validation images are in proportion, but not too few to be scored on.
    """
    split = state.context.split
    share = len(split.validation) / len(split.development)
    num_validation = min(len(split.validation), max(num_images // MOST_PER_VALIDATION, round(share * num_images)))
    order_of = {name: stratified_order(state.labels(name), split.seed) for name in ("train", "validation")}
    train = np.sort(split.train[order_of["train"][: max(1, num_images - num_validation)]])
    validation = np.sort(split.validation[order_of["validation"][:num_validation]])
    split = replace(split, train=train, validation=validation, folds=split.folds[:0])
    return replace(state, context=replace(state.context, split=split), extractor=replace(state.extractor, split=split))


def on_all_images(state: WorkerState, sample: WorkerState, probabilities: np.ndarray) -> np.ndarray:
    """Probabilities of the development images, NaN for those that aren't in the sample.

    Args:
        probabilities: of the sample's development images, [n, num_classes].
    """
    images = state.context.split.development
    of_all = np.full((len(images), probabilities.shape[1]), np.nan)
    of_all[np.isin(images, sample.context.split.development)] = probabilities
    return of_all
