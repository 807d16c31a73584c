"""Near-duplicates: copies of an image that were resized, compressed again or brightened. Computes on arrays only."""

import numpy as np

__all__ = ["MAX_IMAGES", "is_uniform", "near_duplicates"]

MAX_IMAGES = 100_000
"""Number of images up to which all pairs are compared, which takes some ten seconds on two cores."""
MIN_CORRELATION = 0.97
"""Correlation of two thumbnails below which they are never near-duplicates. Measured on five real datasets: a copy at
half the size, at JPEG quality 40 or without colour correlates at 0.993 or more; one that is a quarter brighter, and
clips, at 0.95."""
DISTANCE_RATIO = 4.0
"""A copy is at least this many times nearer than the nearest other image in the median. Solar cells, all in one pose,
have neighbours at a correlation of 0.96, photographs at 0.6 to 0.86."""
UNIFORM_STD = 4.0
"""Standard deviation, in grey levels, below which a thumbnail is uniform: nothing in it can be compared."""
BLOCK_SIZE = 1024
"""Thumbnails compared with all others in one matrix product. Bounds the memory."""


def is_uniform(thumbnails: np.ndarray) -> np.ndarray:
    """bool [n]: whether a thumbnail is of one colour, or nearly. `thumbnails` are uint8 [n, pixels]."""
    return thumbnails.std(1) < UNIFORM_STD


def near_duplicates(thumbnails: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """Find pairs of images that look nearly the same.

    The thumbnails are a perceptual hash that is compared by correlation, which ignores brightness and contrast.
    (A hash of 64 bits, as in Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010, makes
    all solar cells duplicates.) The threshold depends on the dataset: see `DISTANCE_RATIO`.

    Args:
        thumbnails: uint8 [n, pixels]. Uniform ones are in no pair.
        digests: [n]. Images with the same digest are exact duplicates and make no pair.

    Returns:
        int64 [m, 2]: indices of the pairs, by descending correlation.
    """
    indices = np.flatnonzero(~is_uniform(thumbnails))
    if len(indices) < 3 or len(thumbnails) > MAX_IMAGES:
        return np.empty((0, 2), np.int64)
    unit = thumbnails[indices].astype(np.float32)
    unit -= unit.mean(1, keepdims=True)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    _, identity = np.unique(digests[indices], return_inverse=True)
    threshold = max(MIN_CORRELATION, _relative_threshold(unit, identity))
    firsts, seconds, correlations = [], [], []
    for start in range(0, len(unit), BLOCK_SIZE):
        block = unit[start : start + BLOCK_SIZE] @ unit[start:].T
        i, j = np.nonzero(block >= threshold)
        j += start
        i += start
        new = (j > i) & (identity[i] != identity[j])
        firsts.append(i[new])
        seconds.append(j[new])
        correlations.append(block[i[new] - start, j[new] - start])
    order = np.argsort(-np.concatenate(correlations), kind="stable")
    return np.stack([indices[np.concatenate(firsts)], indices[np.concatenate(seconds)]], axis=1)[order]


def _relative_threshold(unit: np.ndarray, identity: np.ndarray, num_samples: int = 500) -> float:
    """Correlation of two images `DISTANCE_RATIO` times nearer than the median distance to the nearest other image."""
    sample = np.random.default_rng(0).permutation(len(unit))[:num_samples]
    correlations = unit[sample] @ unit.T
    correlations[identity[sample][:, None] == identity[None, :]] = -1
    to_nearest = float(np.median(correlations.max(1)))
    return 1 - (1 - to_nearest) / DISTANCE_RATIO**2  # the squared distance of unit vectors is 2 - 2 × correlation
