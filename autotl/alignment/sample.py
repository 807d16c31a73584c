"""The images that alignment is measured on: nested stratified samples, so that a larger one contains the smaller."""

import numpy as np

__all__ = ["stratified_order"]

MIN_PER_CLASS = 5
"""Images of each class that come first, as far as they exist: nearest neighbours of a rare class need some."""


def stratified_order(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """An order of the samples [n] whose every beginning has the classes in nearly their proportions, after the first
    few of each class.

    Args:
        labels: int64 [n].
        seed: draws the order within a class.

    >>> labels = np.array([0] * 90 + [1] * 10)
    >>> np.bincount(labels[stratified_order(labels)[:30]]).tolist()
    [25, 5]
    """
    rng = np.random.default_rng(seed)
    position = np.empty(len(labels))  # of each sample within its class, as a share of the class
    rank = np.empty(len(labels), int)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        rank[members] = np.arange(len(members))
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    first = np.where(rank < MIN_PER_CLASS, rank, MIN_PER_CLASS)
    return np.lexsort((np.where(first < MIN_PER_CLASS, 0.0, position), first))
