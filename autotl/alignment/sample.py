"""The images that alignment is measured on: nested stratified samples, so that a larger one contains the smaller."""

import numpy as np

__all__ = ["SAMPLE_SIZES", "sample_sizes", "stratified_order"]

SAMPLE_SIZES = (256, 512)
"""Images of the first rounds of successive halving; the last round takes all images."""
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


def sample_sizes(num_images: int, limit: int | None = None) -> list[int]:
    """The sizes of the rounds: 256, 512, all; those that are as large as the next are left out.

    Args:
        limit: the largest size; None for all images.

    >>> sample_sizes(1300), sample_sizes(300), sample_sizes(5000, 600)
    ([256, 512, 1300], [256, 300], [256, 512, 600])
    """
    most = num_images if limit is None else min(num_images, limit)
    return [*(size for size in SAMPLE_SIZES if size < most), most]
