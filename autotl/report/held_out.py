"""Predictions of images that the model was not trained on, and the file that keeps those of the test images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autotl.atomic_io import write_atomically

__all__ = ["TEST_FILE", "HeldOut", "load_test", "save_test"]

TEST_FILE = "test.npz"
"""In the study's folder."""


@dataclass(frozen=True)
class HeldOut:
    """Predicted probabilities of some images, and what a frozen backbone recorded of them."""

    images: np.ndarray
    """int64 [n]: indices into the image dataset."""
    probabilities: np.ndarray
    """float64 [n, num_classes]."""
    features: np.ndarray | None = None
    """float32 [m, num_features], with m ≤ n: the backbone's output for the first m images."""
    backbone: str = ""
    """Digest of that backbone."""

    @property
    def predicted(self) -> np.ndarray:
        """int64 [n]: the most probable class of each image."""
        return np.asarray(self.probabilities.argmax(1))


def save_test(folder: Path, tested: HeldOut, digests: Sequence[str]) -> None:
    """Keep the predictions of the test images in the study's folder.

    Args:
        digests: of all images of the dataset: images are found again by them.
    """
    content = {
        "digests": np.array([digests[i] for i in tested.images], dtype="S32"),
        "probabilities": tested.probabilities,
        "features": np.empty((0, 0), np.float16) if tested.features is None else tested.features.astype(np.float16),
        "backbone": np.array(tested.backbone, dtype="S128"),
    }
    write_atomically(folder / TEST_FILE, lambda file: np.savez(file, allow_pickle=False, **content))


def load_test(folder: Path, digests: Sequence[str], among: np.ndarray, num_classes: int) -> HeldOut | None:
    """The kept predictions of a study's test images; None where there are none, or the file is of other images.

    Args:
        digests: of all images of the dataset.
        among: indices of the test images.
    """
    try:
        with np.load(folder / TEST_FILE, allow_pickle=False) as file:
            content = {name: file[name] for name in ("digests", "probabilities", "features", "backbone")}
    except (OSError, ValueError, KeyError):
        return None
    index = {digests[i]: int(i) for i in among}
    names = [name.decode("ascii", "replace") for name in content["digests"].tolist()]
    probabilities, features = content["probabilities"], content["features"]
    fits = probabilities.shape == (len(names), num_classes) and np.isfinite(probabilities).all()
    if not names or not fits or not index.keys() >= set(names) or features.ndim != 2 or len(features) > len(names):
        return None
    return HeldOut(
        np.array([index[name] for name in names]),
        probabilities.astype(np.float64),
        features.astype(np.float32) if len(features) else None,
        content["backbone"].item().decode("ascii", "replace"),
    )
