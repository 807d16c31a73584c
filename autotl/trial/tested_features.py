"""What a model's frozen backbone computes of the test images while it predicts them, kept for the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from autotl.data.augmentation import ORIGINAL, View
from autotl.features.extractor import FEATURE_DTYPE
from autotl.model.image_model import ImageModel
from autotl.model.network import SharedNetwork

__all__ = ["OutputRecorder"]

MAX_IMAGES = 2_000
"""What a report shows and scores of the test images: 5 MB of features."""


class OutputRecorder:
    """Keeps the outputs of the frozen backbone with the largest weight in a model, as `ImageModel.on_features`.

    `backbone` is that backbone's digest, "" where the model has no frozen one that sees the plain image.
    """

    def __init__(self, model: ImageModel):
        weights: dict[str, float] = {}
        for member in model.members:
            if member.fitted.backbone_state is None and ORIGINAL in member.fitted.views:
                weights[member.backbone_digest] = weights.get(member.backbone_digest, 0.0) + member.weight
        self.backbone = max(weights, key=lambda digest: weights[digest], default="")
        self._outputs: dict[Path, np.ndarray] = {}

    def __call__(self, network: SharedNetwork, paths: Sequence[Path], features: Mapping[View, np.ndarray]) -> None:
        member = network.members[0]
        is_own = member.fitted.backbone_state is None and member.backbone_digest == self.backbone
        if is_own and len(self._outputs) < MAX_IMAGES:
            for path, row in zip(paths, features[ORIGINAL], strict=True):
                self._outputs[path] = row[: network.layout.output].astype(FEATURE_DTYPE)

    def outputs(self, paths: Sequence[Path]) -> np.ndarray | None:
        """The outputs for the first of `paths`, float16 [m, num_features], up to one that was not kept."""
        rows = []
        for path in paths:
            if path not in self._outputs:
                break
            rows.append(self._outputs[path])
        return np.stack(rows) if rows else None
