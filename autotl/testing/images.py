"""Real images for checks: patches of the two photographs in scikit-learn."""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from autotl.backbones.base import Preprocessing

__all__ = ["patches", "photographs"]


@cache
def photographs() -> tuple[np.ndarray, ...]:
    """A temple in China and a flower, uint8 [427, 640, 3] each."""
    from sklearn.datasets import load_sample_images

    return tuple(load_sample_images().images)


def patches(preprocessing: "Preprocessing", n: int) -> np.ndarray:
    """`n` patches, alternately of the two photographs, after a backbone's preprocessing: uint8 [n, S, S, 3]."""
    from autotl.data.decoding import to_rgb
    from autotl.data.preprocessing import preprocess

    rng = np.random.default_rng(0)
    images = []
    for i in range(n):
        photograph = photographs()[i % 2]
        top, left = (int(rng.integers(side - 200)) for side in photograph.shape[:2])
        images.append(preprocess(to_rgb(photograph[top : top + 200, left : left + 200]), preprocessing))
    return np.stack(images)
