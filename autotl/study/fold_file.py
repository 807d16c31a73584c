"""Reads what a trial predicted out of fold. The file may be torn, or a stranger's."""

from pathlib import Path

import numpy as np

from autotl.study.study import FOLD_FILE

__all__ = ["read_fold_file"]

MOST = 1.001
"""The largest probability, with room for rounding."""


def read_fold_file(folder: Path, shape: tuple[int, int], name: str = FOLD_FILE) -> np.ndarray:
    """Probabilities of the development images, [n, num_classes]; rows of NaN for images that weren't predicted.

    Args:
        folder: with the fitted model of a trial.
        shape: of the array.
        name: of the file; another one with probabilities of images.

    Raises:
        OSError: there is no such file, or it can't be read.
        ValueError: it holds no such array. A header that states terabytes allocates nothing.
    """
    try:
        array = np.load(folder / name, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype.kind != "f":
            raise ValueError(f"it holds {getattr(array, 'dtype', 'no')} values {getattr(array, 'shape', '')}")
    except OSError:
        raise
    except Exception as error:  # whatever a forged header makes NumPy do
        raise ValueError(f"{name} has no probabilities {list(shape)}: {error}") from error
    rows = np.array(array)
    predicted = rows[~np.isnan(rows[:, 0])]
    if not ((predicted >= 0) & (predicted <= MOST)).all():
        raise ValueError(f"{name} holds values that are no probabilities")
    return rows
