"""Whether flips and quarter turns keep the label that nearest neighbours vote for: what augmentation may do."""

from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from autotl.alignment.card import Invariance
from autotl.alignment.scores import neighbours_vote
from autotl.data.augmentation import Symmetries, View

if TYPE_CHECKING:
    from autotl.features.extractor import BackboneFeatures

__all__ = ["measure_invariances"]

NUM_IMAGES = 64
"""Images that are flipped, and turned."""
MIN_IMAGES = 16
T = Image.Transpose
QUARTERS = (T.ROTATE_90, T.ROTATE_270, T.TRANSPOSE, T.TRANSVERSE)
VIEWS: tuple[tuple[Literal["flip", "turn"], str, tuple[Image.Transpose, ...]], ...] = (
    ("flip", "flip", (T.FLIP_LEFT_RIGHT,)),
    ("turn", "dihedral", QUARTERS),
)
"""What is tested, by the first view of which policy: that one, so that trials with the policy find it recorded."""


def measure_invariances(
    features: "BackboneFeatures", sample: np.ndarray, labels: np.ndarray, groups: np.ndarray
) -> tuple[Invariance, ...]:
    """Vote for flipped and for turned images, among the plain ones of a sample.

    Args:
        features: the plain images are recorded.
        sample: indices of the images in the data set, [n].
        labels, groups: int64 [n], in the order of the sample; images of one group don't vote for each other.

    Raises:
        StoreTimeout: there was no time.
    """
    extractor = features.extractor
    plain = features.levels(sample, "last")
    digests = features.digests(sample)
    found = []
    for name, policy, transposes in VIEWS:
        augmentation = extractor.augmentations.get(policy)
        if not isinstance(augmentation, Symmetries):
            continue  # disabled, or a plugin's of that name
        fits = [i for i, digest in enumerate(digests) if augmentation.transpose_of(digest, 0) in transposes]
        chosen = np.array(fits[:NUM_IMAGES], np.int64)
        if len(chosen) < MIN_IMAGES:
            continue
        changed = features.levels(sample[chosen], "last", View(policy, 0))
        own, right = groups[chosen], labels[chosen]
        hits = [neighbours_vote(rows, own, plain, labels, groups) == right for rows in (plain[chosen], changed)]
        difference = hits[0].astype(float) - hits[1]
        # the rule of succession: no error where all agree would be too sure
        error = float(np.sqrt((difference.var() + 1 / len(chosen)) / len(chosen)))
        found.append(Invariance(name, len(chosen), float(hits[0].mean()), float(hits[1].mean()), error))
    return tuple(found)
