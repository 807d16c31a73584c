"""Images that look nearly the same: copies that were resized, compressed again or brightened. Arrays only."""

import numpy as np

__all__ = ["MOST", "is_plain", "near_duplicates"]

MOST = 100_000
"""Images up to which all are compared with all: some ten seconds on two cores."""
LEAST = 0.97
"""Correlation of two thumbnails below which nothing is called the same. Measured on five real data sets: a copy at half
the size, at JPEG quality 40 or without colour has 0.993 and more; one that is a quarter brighter, and clips, 0.95."""
NEARER = 4.0
"""Times that a copy is nearer than the nearest other image usually is: solar cells, all in one pose, have neighbours at
0.96, photographs at 0.6 to 0.86."""
PLAIN = 4.0
"""Standard deviation, in grey levels, below which a thumbnail shows nothing to compare."""
BLOCK = 1024


def is_plain(thumbnails: np.ndarray) -> np.ndarray:
    """bool [n]: of one colour, or nearly. `thumbnails` are uint8 [n, pixels]."""
    return thumbnails.std(1) < PLAIN


def near_duplicates(thumbnails: np.ndarray, names: np.ndarray) -> np.ndarray:
    """int64 [m, 2]: pairs of rows that look nearly the same, the most alike first.

    The thumbnails are a perceptual hash that is compared by its correlation, which brightness and contrast leave alone
    (a hash of 64 bits, as in Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010, takes
    all solar cells for one). How alike is too alike depends on the data: see `NEARER`.

    Args:
        thumbnails: uint8 [n, pixels]; plain ones are in no pair.
        names: [n], rows of the same name (digest) are no pair: they are known to be the same.
    """
    rows = np.flatnonzero(~is_plain(thumbnails))
    if len(rows) < 3 or len(thumbnails) > MOST:
        return np.empty((0, 2), np.int64)
    unit = thumbnails[rows].astype(np.float32)
    unit -= unit.mean(1, keepdims=True)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    _, name = np.unique(names[rows], return_inverse=True)
    least = max(LEAST, _usual(unit, name))
    firsts, seconds, likeness = [], [], []
    for start in range(0, len(unit), BLOCK):
        block = unit[start : start + BLOCK] @ unit[start:].T
        i, j = np.nonzero(block >= least)
        j += start
        i += start
        later = (j > i) & (name[i] != name[j])
        firsts.append(i[later])
        seconds.append(j[later])
        likeness.append(block[i[later] - start, j[later] - start])
    order = np.argsort(-np.concatenate(likeness), kind="stable")
    return np.stack([rows[np.concatenate(firsts)], rows[np.concatenate(seconds)]], axis=1)[order]


def _usual(unit: np.ndarray, name: np.ndarray, sample: int = 500) -> float:
    """The correlation of images that are `NEARER` times as near as the nearest other one usually is."""
    chosen = np.random.default_rng(0).permutation(len(unit))[:sample]
    likeness = unit[chosen] @ unit.T
    likeness[name[chosen][:, None] == name[None, :]] = -1
    usual = float(np.median(likeness.max(1)))
    return 1 - (1 - usual) / NEARER**2  # the squared distance of unit vectors is 2 - 2 × their correlation
