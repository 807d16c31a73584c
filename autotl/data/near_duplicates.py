"""Near-duplicate images: copies that were resized, compressed again or brightened, and photographs of one thing in one
pose. Works on arrays of thumbnails."""

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

__all__ = ["MAX_COMPARED", "connected", "is_uniform", "near_duplicates", "near_duplicates_by_features"]

MAX_COMPARED = 100_000
"""Largest number of images for which all pairs are compared, in about a minute on two cores."""
MIN_SIMILARITY = 0.75
"""Least similarity of near-duplicates, chosen on eight datasets. Found are, of copies at half the size and JPEG quality
40, 98 % and more (of images of 32 px 42 %); of those that are 30 % brighter, and clip, 92 %; of those that lost 2 to
3 % of each side, 92 % of photographs, 80 % of textures and half of solar cells. Different photographs of hymenoptera,
sign-digits and clothing stay below 0.81."""
SAME_SIMILARITY = 0.97
"""From this similarity on, images are near-duplicates whatever surrounds them: a film of a scene that stands still has
dozens of such frames."""
NEIGHBOUR = 10
"""A near-duplicate is nearer than the neighbour of this rank, see `DISTANCE_RATIO`; up to nine copies of an image
don't count against each other."""
DISTANCE_RATIO = 0.7
"""The distance of near-duplicates is at most this share of the distance to the neighbour of rank `NEIGHBOUR`, of both
images. Intact solar cells of one type, dozens of which look the same, are all equally near to each other."""
FEATURE_LIMITS = 0.6, 0.6
"""The same two limits for features of a network. Found are, as the mean of eight datasets, 71 % of mirrored copies,
37 % of those turned by 10°, and 41 % of those that lost 15 % on one side; by thumbnails next to none of these. In four
datasets of distinct images no pair is found; in textures, clothes and tiles other photographs of one thing are; and of
solar cells, those 1 % that have no mark at all."""
PRIOR_IMAGES = 500
"""Weight, in images, of the spectrum of natural images in the covariance: it decides for small datasets."""
NOISE = 1e-4
"""Variance per coefficient, of a thumbnail of norm 1, that compression and resizing add."""
UNIFORM_STD = 4.0
"""Standard deviation, in grey levels, below which a thumbnail is uniform: only noise is left to correlate."""
MAX_PARTNERS = 16
"""Later near-duplicates that are kept for an image: a hundred frames of one film make chains, not 4,950 pairs."""
TILE = 1024
"""Images along a side of a tile of the similarity matrix, of which each thread holds one at a time."""
BLOCK_ELEMENTS = 1 << 22
"""Similarities that a thread holds where it needs whole rows of the matrix."""
MAX_THREADS = 16

T = TypeVar("T")
R = TypeVar("R")


def is_uniform(thumbnails: np.ndarray) -> np.ndarray:
    """bool [n]: whether each thumbnail is of a single colour, or nearly. `thumbnails` is uint8 [n, pixels]."""
    return thumbnails.std(1) < UNIFORM_STD


def near_duplicates(thumbnails: np.ndarray, digests: np.ndarray, threads: int = 2) -> np.ndarray:
    """int64 [m, 2]: index pairs of near-duplicates, the most similar first; of a large group not every pair.

    The similarity of two images is the cosine of their whitened thumbnails: what most images of the dataset share (the
    frame and the bars of solar cells) weighs little, what sets an image apart weighs much. Adding copies of any share
    of the images doesn't change the covariance, so the limits are constants.

    Args:
        thumbnails: uint8 [n, side²]; uniform ones are left out.
        digests: [n]; images with the same digest are exact duplicates and make no pair.
        threads: how many compare.
    """
    _, first = np.unique(digests, return_index=True)
    indices = np.sort(first)
    indices = indices[~is_uniform(thumbnails[indices])]
    if len(indices) < 2 or len(thumbnails) > MAX_COMPARED:
        return np.empty((0, 2), np.int64)
    unit = _whitened(_spectra(thumbnails[indices]))
    pairs = indices[_similar(unit, MIN_SIMILARITY, DISTANCE_RATIO, threads)]
    return _with_exact_duplicates(pairs, digests)


def near_duplicates_by_features(features: np.ndarray) -> np.ndarray:
    """int64 [m, 2]: index pairs of images whose features [n, num_features] are much nearer than those of other images,
    the most similar first: copies that were mirrored, turned or cropped, and photographs of one thing. Empty above
    `MAX_COMPARED` images."""
    if not 2 <= len(features) <= MAX_COMPARED:
        return np.empty((0, 2), np.int64)
    standard = (features - features.mean(0)) / (features.std(0) + 1e-3)
    standard = np.sign(standard) * np.sqrt(np.abs(standard))  # a few large activations would decide otherwise
    norms = np.linalg.norm(standard, axis=1, keepdims=True)
    return _similar((standard / np.maximum(norms, 1e-6)).astype(np.float32), *FEATURE_LIMITS)


def _similar(unit: np.ndarray, least: float, ratio: float, threads: int = 2) -> np.ndarray:
    """int64 [m, 2]: index pairs of unit vectors [n, d] whose similarity is at least `least`, and whose distance is at
    most `ratio` times that to the neighbour of rank `NEIGHBOUR` of both; the most similar first."""
    indices, reach = _candidates(unit, least, ratio, threads)
    unit = unit[indices]
    rows = max(1, min(TILE, BLOCK_ELEMENTS // max(1, len(unit))))

    def compare(start: int) -> tuple[np.ndarray, np.ndarray]:
        """The pairs of some images with later ones, and their similarities."""
        block = unit[start : start + rows] @ unit[start:].T
        near = np.minimum(reach[start : start + rows, None], reach[None, start:])
        required = np.clip(1 - near**2 / 2, least, SAME_SIMILARITY)
        block[(block < required) | (np.tri(*block.shape, dtype=np.bool_))] = -1
        if block.shape[1] > MAX_PARTNERS:
            partition = np.partition(block, -MAX_PARTNERS, axis=1)
            block[block < partition[:, -MAX_PARTNERS, None]] = -1
        i, j = np.nonzero(block > 0)
        return np.stack([indices[i + start], indices[j + start]], axis=1), block[i, j]

    pairs, similarities = [np.empty((0, 2), np.int64)], [np.empty(0, np.float32)]
    for found, similarity in _in_threads(compare, range(0, len(unit), rows), threads):
        pairs.append(found)
        similarities.append(similarity)
    order = np.argsort(-np.concatenate(similarities), kind="stable")
    return np.concatenate(pairs)[order]


def connected(n: int, pairs: np.ndarray) -> np.ndarray:
    """int64 [n]: the number of each image's group, where the images of a pair, and of a chain of pairs, share one."""
    if not len(pairs):
        return np.arange(n, dtype=np.int64)  # the import takes a fifth of a second
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return connected_components(links, directed=False)[1].astype(np.int64)


def _with_exact_duplicates(pairs: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """The pairs of the first images of two digests, each followed by those of their exact duplicates."""
    _, ids, counts = np.unique(digests, return_inverse=True, return_counts=True)
    if not len(pairs) or (counts[ids[pairs]] == 1).all():
        return pairs
    copies = np.split(np.argsort(ids, kind="stable"), np.cumsum(counts)[:-1])
    found = [(i, j) for a, b in ids[pairs] for i in copies[a][:MAX_PARTNERS] for j in copies[b][:MAX_PARTNERS]]
    return np.sort(np.array(found, dtype=np.int64), axis=1)


def _spectra(thumbnails: np.ndarray) -> np.ndarray:
    """float32 [n, side² - 1]: cosine transforms without their constant, of norm 1: brightness and contrast are out.

    The transform is `scipy.fft.dctn(norm="ortho")`, as two products of small matrices: the import of scipy.fft takes
    longer than the transforms of 10,000 images, before the first trial of each search.
    """
    side = math.isqrt(thumbnails.shape[1])
    frequencies, places = np.arange(side)[:, None], np.arange(side) + 0.5
    cosines = np.sqrt(2 / side) * np.cos(np.pi / side * frequencies * places)
    cosines[0] /= np.sqrt(2)
    cosines = cosines.astype(np.float32)
    spectra = np.empty((len(thumbnails), side**2 - 1), np.float32)
    for start in range(0, len(thumbnails), TILE):
        images = thumbnails[start : start + TILE].reshape(-1, side, side).astype(np.float32)
        spectra[start : start + TILE] = (cosines @ images @ cosines.T).reshape(len(images), -1)[:, 1:]
    spectra /= np.linalg.norm(spectra, axis=1, keepdims=True)
    return spectra


def _whitened(spectra: np.ndarray) -> np.ndarray:
    """The spectra, in their own memory, without their mean and covariance, of norm 1. Both are estimated with
    `PRIOR_IMAGES` images whose power falls with the square of the frequency, as that of natural images does (Field,
    JOSA A, 1987)."""
    n, side = len(spectra), math.isqrt(spectra.shape[1] + 1)
    frequencies = np.arange(side) ** 2
    power = 1 / np.add.outer(frequencies, frequencies).ravel()[1:]
    mean = spectra.sum(0) / (n + PRIOR_IMAGES)
    spectra -= mean
    covariance = spectra.T @ spectra + PRIOR_IMAGES * np.diag(power / power.sum())
    variances, directions = np.linalg.eigh(covariance.astype(np.float64) / (n + PRIOR_IMAGES))
    whitening = (directions / np.sqrt(variances.clip(0) + NOISE)).astype(np.float32)
    for start in range(0, n, TILE):
        block = spectra[start : start + TILE] @ whitening
        spectra[start : start + TILE] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return spectra


def _candidates(unit: np.ndarray, least: float, ratio: float, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Which images have another one above `least`, and the largest distance of near-duplicates of each.

    Returns:
        int64 [m], indices into `unit`; and float32 [m], where the distance of unit vectors is at most 2.
    """
    # a neighbour that is less similar leaves `least` as the only limit
    relevant = 1 - (1 - least) / ratio**2
    nearest = np.full((len(unit), NEIGHBOUR), -1, np.float32)
    lock = threading.Lock()

    def compare(tile: tuple[slice, slice]) -> None:
        rows, columns = tile
        similarity = unit[rows] @ unit[columns].T
        if rows == columns:
            np.fill_diagonal(similarity, -1)
        else:
            keep(columns, similarity.T)
        keep(rows, similarity)

    def keep(images: slice, similarity: np.ndarray) -> None:
        """Put similarities to some images' `nearest`, where they are among the largest."""
        known = nearest[images]
        better = np.flatnonzero(similarity.max(1) > np.maximum(known.min(1), relevant))
        if len(better):
            with lock:
                both = np.concatenate([known[better], similarity[better]], axis=1)
                known[better] = np.partition(both, -NEIGHBOUR, axis=1)[:, -NEIGHBOUR:]

    for _ in _in_threads(compare, _tiles(len(unit)), threads):
        pass
    candidates = np.flatnonzero(nearest.max(1) >= least)
    neighbour = nearest[candidates].min(1)
    reach = np.where(neighbour > relevant, ratio * np.sqrt((2 - 2 * neighbour).clip(0)), np.float32(2))
    return candidates, reach.astype(np.float32)


def _tiles(n: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the tiles of a symmetric matrix, without those below its diagonal."""
    slices = [slice(start, start + TILE) for start in range(0, n, TILE)]
    return ((rows, columns) for i, rows in enumerate(slices) for columns in slices[i:])


def _in_threads(compute: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """`compute` of each item, in order. Each thread multiplies alone: between two products, threads of OpenBLAS wait in
    a loop that takes as much of a core as the product."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(min(threads, MAX_THREADS)) as pool:
        yield from pool.map(compute, items)
