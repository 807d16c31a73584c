"""Folds for cross-validation: stratified, with near-duplicates and groups on one side, fixed for a study."""

import warnings

import numpy as np

__all__ = ["ALWAYS_TRAINED", "draw_folds"]

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
        int64, one for each training image: 1, 2, … or ALWAYS_TRAINED, for an image whose class would be unknown to the
        model that predicts it, and for one that looks like a validation image.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    folds = np.where(held_out, 0, ALWAYS_TRAINED)
    free = np.flatnonzero(~held_out & ~np.isin(units, units[held_out]))
    wanted = (NUM_FOLDS_OF_FEW if len(labels) < FEW_IMAGES else NUM_FOLDS) - 1
    num_units = len(np.unique(units[free]))
    number = min(wanted, num_units, int(np.bincount(labels[free]).max(initial=0)))
    if held_out.sum() >= ENOUGH_IMAGES or number < 2:
        return folds[~held_out]
    splitter = StratifiedKFold if num_units == len(free) else StratifiedGroupKFold
    with warnings.catch_warnings():  # of classes with fewer images than folds
        warnings.simplefilter("ignore")
        drawn = splitter(number, shuffle=True, random_state=seed % 2**32).split(free, labels[free], units[free])
        for fold, (_, chosen) in enumerate(drawn, 1):
            folds[free[chosen]] = fold
    for label in np.unique(labels):
        of_class = labels == label
        if len(np.unique(folds[of_class])) == 1 and folds[of_class][0] > 0:
            folds[of_class] = ALWAYS_TRAINED
    return folds[~held_out]
