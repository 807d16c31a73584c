"""Trials on a sample of the images, for searches in which a pass over all of them takes too long."""

from dataclasses import replace

import numpy as np

from autotl.alignment.sample import stratified_order
from autotl.trial.state import WorkerState

__all__ = ["on_all_images", "sampled"]


def sampled(state: WorkerState, num_images: int) -> WorkerState:
    """The state with so many of the training and validation images, stratified, without folds. A larger sample contains
    the smaller ones, so that their features are of use."""
    split = state.context.split
    order = stratified_order(state.labels("development"), split.seed)
    chosen = split.development[order[:num_images]]
    train, validation = (subset[np.isin(subset, chosen)] for subset in (split.train, split.validation))
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
