"""The images that alignment is measured on: nested stratified samples, so that a larger one contains the smaller."""

import numpy as np

__all__ = ["rounds", "stratified_order"]

SAMPLE_SIZES = (256, 512)
"""Images of the first rounds of successive halving; the last round takes all images."""
FIRST_SIZE = 48
"""Images of the first round at least: fewer tell random weights from others, and hardly more."""
MAX_SHARE = 0.1
"""Images that are run for other backbones than the best, as a share of a full pass of all. A search runs the best one's
anyway."""
FIRST_SHARE = 2 / 3
"""Share of them for the first round, in which all backbones take part."""
MIN_GROWTH = 1.25
"""How many times as many images the next round has at least."""
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


def rounds(num_images: int, num_backbones: int, limit: int | None = None) -> list[tuple[int, int]]:
    """The rounds of successive halving: the images of each, and how many backbones take part.

    All take part in the first round, and the better half of each in the next. The rounds have 256, 512 and all images,
    or as many as the images that may be run for other backbones than the best allow. The best one alone
    goes on to all images.

    Args:
        limit: images of the largest sample; None for all images.

    >>> rounds(50_000, 8, 2048)
    [(256, 8), (512, 4), (2048, 2)]
    >>> rounds(1000, 8)
    [(76, 8), (120, 4), (256, 2), (1000, 1)]
    >>> rounds(1000, 1), rounds(100, 8), rounds(10, 3)
    ([(1000, 1)], [(48, 8), (100, 1)], [(10, 3)])
    """
    most = num_images if limit is None else min(num_images, limit)
    budget = MAX_SHARE * num_images * num_backbones
    found: list[tuple[int, int]] = []
    spent, left, size = 0.0, num_backbones, 0
    for wanted in (*SAMPLE_SIZES, most):
        if left < 2:
            break
        share = FIRST_SHARE if not found else 0.5 if left > 2 else 1.0
        affordable = size + int(share * (budget - spent) / (left - 1))
        if found and min(wanted, affordable, most) < MIN_GROWTH * size:
            break
        new = min(wanted, most, affordable if found else max(FIRST_SIZE, affordable))
        spent += (new - size) * (left - 1)
        size = new
        found.append((size, left))
        left = -(-left // 2)
    return found if size == most else [*found, (most, 1)]
