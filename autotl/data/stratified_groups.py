"""scikit-learn's StratifiedGroupKFold in a fraction of its time. Import this module where folds are drawn, not at the
top: it imports scikit-learn's model selection."""

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

__all__ = ["QuickStratifiedGroupKFold"]


class QuickStratifiedGroupKFold(StratifiedGroupKFold):
    """The same folds as its parent's, bit for bit.

    The parent tries each group in each fold with half a dozen calls of NumPy, 40 µs each: eight draws for 2,600 images
    take four seconds. Here one call tries a group in all folds.
    """

    def _find_best_fold(
        self, y_counts_per_fold: np.ndarray, y_cnt: np.ndarray, group_y_counts: np.ndarray
    ) -> int | None:
        """The fold with which a group's images make the class counts of the folds most even.

        Args:
            y_counts_per_fold: [folds, classes]; the images that the folds have so far.
            y_cnt: [classes]; all images.
            group_y_counts: [classes]; the group's images.
        """
        number = len(y_counts_per_fold)
        tried = np.repeat(y_counts_per_fold[None], number, axis=0)  # [the fold that gets the group, folds, classes]
        tried[np.arange(number), np.arange(number)] += group_y_counts
        tried /= y_cnt
        # np.std and np.mean, without their checks of arguments
        tried -= np.add.reduce(tried, axis=1, keepdims=True) / number
        spread = np.sqrt(np.add.reduce(tried * tried, axis=1) / number)
        unevenness = (np.add.reduce(spread, axis=1) / len(y_cnt)).tolist()
        sizes = np.add.reduce(y_counts_per_fold, axis=1).tolist()
        best, least, fewest = None, np.inf, np.inf
        for fold, (value, size) in enumerate(zip(unevenness, sizes, strict=True)):
            is_tie = abs(value - least) <= 1e-8 + 1e-5 * least < np.inf  # np.isclose
            if value < least or (is_tie and size < fewest):
                best, least, fewest = fold, value, size
        return best
