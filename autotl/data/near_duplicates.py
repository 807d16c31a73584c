"""Near-duplicate images: copies that were resized, compressed again or brightened. Works on arrays of thumbnails."""

import numpy as np

__all__ = ["MAX_COMPARED", "is_uniform", "near_duplicates"]

MAX_COMPARED = 100_000
"""Largest number of images for which all pairs are compared, in about ten seconds on two cores."""
MIN_CORRELATION = 0.97
"""Least correlation of the thumbnails of near-duplicates. Measured on five real datasets: a copy at half the size, at
JPEG quality 40 or without colour has 0.993 and more; one that is a quarter brighter, and clips, 0.95."""
DISTANCE_RATIO = 4.0
"""A near-duplicate must be this many times nearer than the median nearest neighbour. The limit adapts to the dataset:
solar cells, all in one pose, have neighbours at a correlation of 0.96, photographs at 0.6 to 0.86."""
UNIFORM_STD = 4.0
"""Standard deviation, in grey levels, below which a thumbnail is uniform: only noise is left to correlate."""
BLOCK_SIZE = 1024
"""Images per block of the correlation matrix, which bounds its memory."""


def is_uniform(thumbnails: np.ndarray) -> np.ndarray:
    """bool [n]: whether each thumbnail is of a single colour, or nearly. `thumbnails` is uint8 [n, pixels]."""
    return thumbnails.std(1) < UNIFORM_STD


def near_duplicates(thumbnails: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """int64 [m, 2]: index pairs of near-duplicates, the most similar first.

    Compares thumbnails by their correlation, which doesn't change with brightness and contrast. A perceptual hash of 64
    bits (Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010) gives nearly all solar
    cells the same hash. The threshold depends on the dataset: see `DISTANCE_RATIO`.

    Args:
        thumbnails: uint8 [n, pixels]; uniform ones are left out.
        digests: [n]; images with the same digest are exact duplicates and make no pair.
    """
    indices = np.flatnonzero(~is_uniform(thumbnails))
    if len(indices) < 3 or len(thumbnails) > MAX_COMPARED:
        return np.empty((0, 2), np.int64)
    unit = thumbnails[indices].astype(np.float32)
    unit -= unit.mean(1, keepdims=True)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    _, digest_ids = np.unique(digests[indices], return_inverse=True)
    threshold = max(MIN_CORRELATION, _dataset_threshold(unit, digest_ids))
    firsts, seconds, correlations = [], [], []
    for start in range(0, len(unit), BLOCK_SIZE):
        block = unit[start : start + BLOCK_SIZE] @ unit[start:].T
        i, j = np.nonzero(block >= threshold)
        j += start
        i += start
        keep = (j > i) & (digest_ids[i] != digest_ids[j])
        firsts.append(i[keep])
        seconds.append(j[keep])
        correlations.append(block[i[keep] - start, j[keep] - start])
    order = np.argsort(-np.concatenate(correlations), kind="stable")
    return np.stack([indices[np.concatenate(firsts)], indices[np.concatenate(seconds)]], axis=1)[order]


def _dataset_threshold(unit: np.ndarray, digest_ids: np.ndarray, sample: int = 500) -> float:
    """The correlation of images that are `DISTANCE_RATIO` times nearer than the median nearest neighbour.

    Args:
        unit: float32 [n, pixels], rows of mean 0 and norm 1.
        digest_ids: int64 [n].
        sample: the number of images whose nearest neighbour is looked up.
    """
    chosen = np.random.default_rng(0).permutation(len(unit))[:sample]
    correlations = unit[chosen] @ unit.T
    correlations[digest_ids[chosen][:, None] == digest_ids[None, :]] = -1  # the image itself, and exact duplicates
    median = float(np.median(correlations.max(1)))
    return 1 - (1 - median) / DISTANCE_RATIO**2  # the squared distance of unit vectors is 2 - 2 × their correlation
