"""Folds for cross-validation: stratified, with near-duplicates and groups on one side, fixed for a study."""

import warnings

import numpy as np

__all__ = ["ALWAYS_TRAINED", "draw_folds", "stratified_folds"]

FEW_IMAGES = 500
"""Images below which more folds leave more to train on."""
NUM_FOLDS, NUM_FOLDS_OF_FEW = 5, 8
ENOUGH_IMAGES = 10_000
"""Validation images that tell a score to half a point: no fold is needed beside them."""
ALWAYS_TRAINED = -1
"""In place of a fold: the image is trained on, and never predicted."""


def draw_folds(labels: np.ndarray, units: np.ndarray, held_out: np.ndarray, seed: int) -> np.ndarray:
    """Folds of the training images. The validation images are fold 0.

    Args:
        labels: of training and validation images, [n].
        units: of the same images, [n]: what has the same number stays in one fold.
        held_out: bool [n], whether it is a validation image.

    Returns:
        int64, one for each training image: 1, 2, …, none of them empty, or ALWAYS_TRAINED, for an image whose class
        would be unknown to the model that predicts it, for what is in its unit, and for what looks like a validation
        image.
    """
    folds = np.where(held_out, 0, ALWAYS_TRAINED)
    if held_out.sum() >= ENOUGH_IMAGES:
        return folds[~held_out]
    free = np.flatnonzero(~held_out & ~np.isin(units, units[held_out]))
    wanted = (NUM_FOLDS_OF_FEW if len(labels) < FEW_IMAGES else NUM_FOLDS) - 1
    drawn = stratified_folds(labels[free], units[free], wanted, seed)
    if not drawn.any():
        return folds[~held_out]
    folds[free] = 1 + drawn
    for label in np.unique(labels):
        of_class = labels == label
        if len(np.unique(folds[of_class])) == 1 and folds[of_class][0] > 0:
            folds[np.isin(units, units[of_class])] = ALWAYS_TRAINED
    used = np.unique(folds[folds > 0])  # a fold may have held nothing else
    folds[folds > 0] = 1 + np.searchsorted(used, folds[folds > 0])
    return folds[~held_out]


def stratified_folds(labels: np.ndarray, units: np.ndarray, wanted: int, seed: int) -> np.ndarray:
    """int64 [n]: a fold of each image, 0, 1, … below `wanted`, or fewer where images are few; all 0 where there can't
    be two.

    Args:
        units: [n]; what has the same number is in one fold.
    """
    from sklearn.model_selection import StratifiedKFold

    from autotl.data.stratified_groups import QuickStratifiedGroupKFold

    folds, num_units = np.zeros(len(labels), np.int64), len(np.unique(units))
    number = min(wanted, num_units, int(np.bincount(labels).max(initial=0)))
    if number < 2:
        return folds
    splitter = StratifiedKFold if num_units == len(labels) else QuickStratifiedGroupKFold
    with warnings.catch_warnings():  # of classes with fewer images than folds
        warnings.simplefilter("ignore")
        drawn = splitter(number, shuffle=True, random_state=seed % 2**32).split(labels, labels, units)
        for fold, (_, chosen) in enumerate(drawn):
            folds[chosen] = fold
    return folds
