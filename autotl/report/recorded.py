"""Reads the feature store for a report: never extracts anything, and takes what is there."""

from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from autotl.atomic_io import DiskFull, read_sealed
from autotl.backbones.levels import Layout
from autotl.data.augmentation import ORIGINAL, view_key
from autotl.features.keys import LAYOUT_KEY, fact_file
from autotl.features.store import FeatureStore, StoreUnavailable

__all__ = ["RecordedFeatures", "nearest"]


@dataclass
class RecordedFeatures:
    """The features of plain images that searches have recorded in a cache."""

    cache: Path
    """The cache's folder."""
    _kept: dict[str, dict[str, np.ndarray]] = field(default_factory=dict, init=False, repr=False)

    def outputs(self, backbone: str, digests: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The backbone's output for those images that it is recorded of.

        Args:
            backbone: digest of the backbone.
            digests: of the images.

        Returns:
            Positions in `digests`, [m]; features, float32 [m, num_features].
        """
        none = np.empty(0, np.int64), np.empty((0, 0), np.float32)
        if not (self.cache / "features").is_dir():
            return none
        with suppress(StoreUnavailable, DiskFull, OSError):
            store = FeatureStore(self.cache / "features")
            best = none
            for entry in store.usage():
                spec = entry.spec or {}
                is_plain = spec.get("view") == view_key(ORIGINAL) and spec.get("block", 0) is None
                if spec.get("backbone") != backbone or not is_plain:
                    continue
                with closing(store.open(spec, entry.shape, entry.dtype)) as table:
                    missing = set(table.missing(digests))
                    found = [i for i, digest in enumerate(digests) if digest not in missing]
                    if len(found) > len(best[0]) and len(entry.shape) == 1:
                        part = slice(0, self._num_outputs(backbone, entry.shape[0]))
                        best = np.array(found), table.read([digests[i] for i in found], "float32", part)
            return best
        return none

    def _num_outputs(self, backbone: str, width: int) -> int:
        """How many features of a recorded vector are the network's output: they come first."""
        with suppress(OSError, ValueError, TypeError):
            layout = Layout.from_dict(read_sealed(fact_file(self.cache / "engines", "layout", LAYOUT_KEY, backbone)))
            if layout.width == width:
                return layout.output
        return width


def nearest(queries: np.ndarray, base: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar rows of `base` for each query, by cosine: their numbers and cosines, both [n, k], the nearest
    first. All rows have length 1."""
    k = min(k, len(base))
    numbers, cosines = [], []
    for start in range(0, len(queries), 512):
        product = queries[start : start + 512] @ base.T
        chosen = np.argpartition(-product, k - 1, axis=1)[:, :k]
        similar = np.take_along_axis(product, chosen, 1)
        order = np.argsort(-similar, axis=1, kind="stable")
        numbers.append(np.take_along_axis(chosen, order, 1))
        cosines.append(np.take_along_axis(similar, order, 1))
    return np.concatenate(numbers), np.concatenate(cosines)
