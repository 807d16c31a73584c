"""A network of a model: built from saved weights, compiled, and run once for all members that share it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from autotl.backbones.base import Backbone
from autotl.backbones.levels import Layout, Levels
from autotl.backbones.limits import limited_build, tensor_shapes
from autotl.data.augmentation import View
from autotl.engines.base import Compiled, Engine
from autotl.engines.parity import checked_engine
from autotl.engines.torch import TorchEngine
from autotl.errors import AutotlError, find_named
from autotl.features.batching import batches
from autotl.features.extractor import LARGEST_FEATURE
from autotl.model.member import Member, MemberNetwork

if TYPE_CHECKING:
    from torch import Tensor, nn

    from autotl.backbones.graph_split import FeatureLevels

__all__ = [
    "Load",
    "Measure",
    "SharedNetwork",
    "averaging",
    "build_from_file",
    "compile_features",
    "feature_network",
    "load_backbone_state",
    "predictions",
]

T = TypeVar("T")


@dataclass
class SharedNetwork:
    """A compiled network and the members that use its features: all of one frozen backbone, or a fine-tuned one."""

    backbone: Backbone
    compiled: Compiled
    layout: Layout
    used: MemberNetwork
    feature_levels: Mapping[str, Levels]
    """By name."""

    @property
    def key(self) -> str:
        return self.used.key

    @property
    def frozen_digest(self) -> str | None:
        """The digest of its frozen backbone; None for a fine-tuned network."""
        return self.used.digest if self.used.state is None else None

    @property
    def views(self) -> set[View]:
        """The views that any of the members uses."""
        return self.used.views

    def features(self, images: Mapping[View, np.ndarray]) -> dict[View, np.ndarray]:
        """All levels of each view, float32 [n, layout.width], in the range of recorded features, and not rounded to
        their 11 bits: near a boundary the last bit of a network's sum would decide which way, and a model's answers
        alone, in a batch and in an export would differ by more than they have to.

        Args:
            images: for each of `views`, uint8 [n, size, size, 3].
        """
        return {
            view: np.clip(self.compiled(pixels).astype(np.float32), -LARGEST_FEATURE, LARGEST_FEATURE)
            for view, pixels in images.items()
        }

    def levels(self, features: np.ndarray, levels: str) -> list[np.ndarray]:
        """The columns of all levels' features [n, layout.width] that belong to `levels`, in parts."""
        return [features[:, part] for part in self.layout.slices(find_named("levels", levels, self.feature_levels))]


Load: TypeAlias = Callable[[T, Backbone, set[View]], dict[View, np.ndarray]]
"""From an item to the views of its image, uint8 [size, size, 3]."""
Measure: TypeAlias = Callable[[SharedNetwork, Mapping[View, np.ndarray]], list[np.ndarray]]
"""From a network and its features of some views of n images to further columns [n, 1]."""


def averaging(
    networks: Sequence[SharedNetwork],
    members: Sequence[Member],
    load: Load[T],
    num_classes: int,
    measure: Measure | None = None,
    on_features: Callable[[SharedNetwork, Any, dict[View, np.ndarray]], None] | None = None,
) -> Callable[[list[T]], np.ndarray]:
    """A function from items to their probabilities averaged over all members, followed by the columns of `measure`:
    [n, num_classes + columns]. It may be called by several threads. An item is decoded once for all networks with the
    same preprocessing.

    Args:
        networks: all that the members need.
        load: from an item to its views, uint8 [size, size, 3]; those that it leaves out are black.
        on_features: called on any thread with a network, the items of a batch, and the features that it computed.
    """
    backbone_of = {n.backbone.preprocessing: n.backbone for n in networks}
    views_of = {p: {v for n in networks if n.backbone.preprocessing == p for v in n.views} for p in backbone_of}
    by_key = {network.key: network for network in networks}
    total_weight = sum(member.weight for member in members)

    def average(chunk: list[T]) -> np.ndarray:
        loaded = {p: [load(item, b, views_of[p]) for item in chunk] for p, b in backbone_of.items()}
        summed, columns = np.zeros((len(chunk), num_classes)), []
        computed: dict[str, dict[View, np.ndarray]] = {}
        for network in networks:
            images, size = loaded[network.backbone.preprocessing], network.backbone.preprocessing.size
            blank = np.zeros((size, size, 3), np.uint8)  # in place of a skipped image
            features = network.features(
                {view: np.stack([image.get(view, blank) for image in images]) for view in network.views}
            )
            if on_features:
                on_features(network, chunk, features)
            computed[network.key] = features
            columns += measure(network, features) if measure else []
        for member in members:
            views = []
            for view in member.fitted.views:
                parts = (by_key[k].levels(computed[k][view], member.fitted.levels) for k in member.network_keys)
                views.append(np.concatenate([columns_of for part in parts for columns_of in part], axis=1))
            summed += member.weight * member.probabilities(views)
        return np.hstack([summed / total_weight, *columns])

    return average


def predictions(
    networks: Sequence[SharedNetwork],
    members: Sequence[Member],
    items: Iterable[T],
    load: Load[T],
    num_classes: int,
    threads: int,
    measure: Measure | None = None,
    on_features: Callable[[SharedNetwork, Any, dict[View, np.ndarray]], None] | None = None,
) -> Iterator[tuple[T, np.ndarray]]:
    """Each item with its row of what `averaging` computes, in order, computed by `threads` threads."""
    average = averaging(networks, members, load, num_classes, measure, on_features)
    for chunk, rows in batches(items, average, threads):
        yield from zip(chunk, rows, strict=True)


def build_from_file(backbone: Backbone, file: Path) -> "nn.Module":
    """The backbone's network with the weights in a safetensors file of a model folder.

    A hostile page may describe a network of gigabytes, or of a million layers: it is built without storage first, and
    only to the size of the file.

    Raises:
        AutotlError: the file is missing, damaged, or holds other weights.
    """
    from safetensors.torch import load_file

    try:
        tensors = load_file(file)
        with limited_build(len(tensors), sum(tensor.numel() for tensor in tensors.values())):
            shapes = tensor_shapes(lambda: backbone.build(pretrained=False))
            if shapes is not None and shapes != {name: tuple(tensor.shape) for name, tensor in tensors.items()}:
                raise ValueError("its tensors have other names or shapes.")
            module = backbone.build(pretrained=False)
        module.load_state_dict(tensors, strict=True)
    except AutotlError:
        raise
    except Exception as error:  # a library's constructor raises nearly any exception for arguments it didn't expect
        reason = " ".join(str(error).split())[:400]
        raise AutotlError(
            f"{file} doesn't hold the weights of {backbone.name}: {type(error).__name__}: {reason} "
            "Copy the model's folder again."
        ) from error
    return module


def feature_network(module: "nn.Module", backbone: Backbone) -> "tuple[FeatureLevels, Layout]":
    """The network with all feature levels as its output, in eval mode, and their layout.

    Raises:
        AutotlError: the network can't be run on the backbone's images.
    """
    from autotl.backbones.graph_split import FeatureLevels, GraphSplit

    module.eval()
    try:
        levels = FeatureLevels(GraphSplit(module, backbone.blocks(module)))
        return levels, levels.layout(backbone.preprocessing.size)
    except AutotlError:
        raise
    except Exception as error:  # a network with options that don't fit together
        reason = " ".join(str(error).split())[:400]
        raise AutotlError(
            f"The network of {backbone.name} doesn't run on images of {backbone.preprocessing.size} pixels: "
            f"{type(error).__name__}: {reason} Copy the model's folder again."
        ) from error


def compile_features(
    engine: Engine,
    features: "FeatureLevels",
    backbone: Backbone,
    device: str,
    threads: int,
    cache: Path | None,
    key: str,
) -> Compiled:
    """Compile `feature_network`'s network for a device. An engine whose features differ from those of PyTorch in fp32
    is replaced by that.

    Args:
        cache, key: as for `Engine.compile`.
    """
    from autotl.backbones.graph_split import Normalize

    network, size = Normalize(features, backbone.preprocessing).eval(), backbone.preprocessing.size
    precision = engine.precision(device)
    compiled = engine.compile(network, size, device, threads, precision, cache=cache, key=key)
    if (engine.name, precision) == (TorchEngine.name, "fp32"):
        return compiled

    def exact() -> Compiled:
        return TorchEngine(bf16=False).compile(network, size, device, threads, "fp32")

    return checked_engine(compiled, network, exact, backbone.name)


def load_backbone_state(module: "nn.Module", state: "dict[str, Tensor]", backbone: str) -> None:
    """Load the weights of the unfrozen blocks over the pretrained ones.

    Raises:
        AutotlError: they belong to another network.
    """
    try:
        unexpected = module.load_state_dict(state, strict=False).unexpected_keys
    except RuntimeError as error:
        raise AutotlError(f"The fine-tuned weights don't fit backbone {backbone!r}: {error}") from error
    if unexpected:
        raise AutotlError(
            f"Backbone {backbone!r} has no {unexpected[0]!r}: the fine-tuned weights belong to another backbone."
        )
