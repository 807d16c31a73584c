"""The recorded features of several backbones, side by side."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from autotl.backbones.base import Backbone
from autotl.data.augmentation import ORIGINAL, View
from autotl.errors import AutotlError
from autotl.features.extractor import BackboneFeatures, FeatureExtractor

if TYPE_CHECKING:
    from autotl.features.extractor import StoredSamples
    from autotl.features.resident import ResidentSamples

__all__ = ["JoinedFeatures"]


class JoinedFeatures:
    """The features of a recipe's backbones: each one's are recorded by itself, and a head sees one after the other."""

    def __init__(self, parts: Sequence[BackboneFeatures]):
        self.parts = tuple(parts)

    @classmethod
    def of(cls, extractor: FeatureExtractor, backbone: Backbone) -> "JoinedFeatures":
        """Those of `backbone.parts`."""
        return cls([extractor.of(part) for part in backbone.parts])

    @property
    def single(self) -> BackboneFeatures:
        """The only backbone's.

        Raises:
            AutotlError: there are several, which have no network in common that could be trained.
        """
        if len(self.parts) > 1:
            names = ", ".join(part.backbone.name for part in self.parts)
            raise AutotlError(f"The networks of {names} can't be trained together. Name one backbone.")
        return self.parts[0]

    def levels(self, subset: "str | np.ndarray", levels: str, view: View = ORIGINAL) -> np.ndarray:
        """The features of `levels` [n, num_features], float32: those of the first backbone, then those of the next."""
        rows = [part.levels(subset, levels, view) for part in self.parts]
        return rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)

    def boundary(
        self, subset: Literal["train", "validation", "test"], block: int, view: View = ORIGINAL
    ) -> "StoredSamples | ResidentSamples | None":
        """As `BackboneFeatures.boundary`, of a single backbone."""
        return self.single.boundary(subset, block, view)

    def num_features(self, levels: str) -> int:
        """The number of features of `levels`."""
        return sum(part.num_features(levels) for part in self.parts)
