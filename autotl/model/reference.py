"""Reference features: what a network answers to a made-up picture, saved with a model.

A model folder holds weights, and the code that builds the network around them is of a library: timm, or a plugin. Where
another version is installed, the features are computed again. A model whose network computes something else there is
refused, and never answers differently in silence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from autotl._version import __version__
from autotl.backbones.base import Backbone, Preprocessing
from autotl.data.preprocessing import preprocess
from autotl.errors import AutotlError
from autotl.registry import Registry

if TYPE_CHECKING:
    from torch import nn

__all__ = ["SavedFeatures", "check_features", "reference_features", "saved_versions"]

LIBRARIES = ("torch", "timm", "scikit-learn", "numpy", "pillow")
NUM_FEATURES = 16
"""Numbers that are kept of a network's features."""


def reference_features(network: "nn.Module", preprocessing: Preprocessing) -> list[float]:
    """16 sums over all features of the network for one made-up picture, computed in fp32 on its own device.

    Args:
        network: takes normalised images [N, 3, size, size] and returns features [N, num_features].
    """
    import torch

    from autotl.backbones.graph_split import Normalize

    y, x, channel = np.meshgrid(np.arange(240), np.arange(320), np.arange(3), indexing="ij")
    picture = ((x * (3 + channel) + y * (5 - channel) + (x * y) // 64) % 256).astype(np.uint8)
    images = torch.from_numpy(preprocess(Image.fromarray(picture), preprocessing)[None])
    with torch.inference_mode():
        features = Normalize(network, preprocessing).eval()(images)[0].double().numpy()
    numbers = np.arange(len(features), dtype=np.float64)
    weights = np.cos(numbers[:, None] * (1 + np.arange(NUM_FEATURES)) * 0.7391 + numbers[:, None] ** 2 * 0.0137)
    sums = features @ weights / np.sqrt(len(features))
    return [float(value) for value in np.nan_to_num(sums, posinf=1e30, neginf=-1e30)]


def same_features(features: Sequence[float], expected: Sequence[float]) -> bool:
    """Whether reference features are equal, except for rounding on another machine."""
    if len(features) != len(expected):
        return False
    return bool(np.linalg.norm(np.subtract(features, expected)) <= 1e-2 * np.linalg.norm(expected) + 1e-6)


def saved_versions(registry: Registry) -> dict[str, str]:
    """The versions of autotl, the libraries and the plugins that a model's answers depend on, by distribution."""
    return {**{name: _version(name) for name in LIBRARIES}, **registry.versions(), "autotl": __version__}


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True)
class SavedFeatures:
    """What the networks of a model answered when it was saved."""

    folder: Path
    features: tuple[list[float], ...]
    """For each member, `reference_features` of its networks, one after the other."""
    versions: dict[str, str]
    """`saved_versions` of then."""


def check_features(
    saved: SavedFeatures, place: tuple[int, int], network: "nn.Module", backbone: Backbone, registry: Registry
) -> None:
    """Compute a network's reference features again where a library has another version than when it was saved.

    Args:
        place: the number of a member that the network belongs to, and its number among the member's networks.
        network: as for `reference_features`.

    Raises:
        AutotlError: the features differ; the message names the versions that made the model.
    """
    here = saved_versions(registry)
    changed = {name: version for name, version in saved.versions.items() if here.get(name, version) != version}
    if not changed:
        return
    member, number = place
    of_member = saved.features[member] if member < len(saved.features) else []
    expected = of_member[number * NUM_FEATURES : (number + 1) * NUM_FEATURES]
    if not same_features(reference_features(network, backbone.preprocessing), expected):
        made = ", ".join(f"{name} {version} (here {here[name]})" for name, version in sorted(changed.items()))
        install = " ".join(f"{name}=={version}" for name, version in sorted(changed.items()))
        raise AutotlError(
            f"The network of {backbone.name} computes other features here than when {saved.folder} was saved, with "
            f"{made}. Type: pip install {install}"
        )
