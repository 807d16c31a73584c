"""Distance of our images' channel statistics to those that a network's batch norms were trained on, block by block."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from autotl.backbones.base import Block

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["BlockDistance", "norm_distances", "ordinary_photographs"]

MAX_KL = 50.0
"""At most so much counts a channel: one whose stored variance is nearly 0 would outweigh all others."""
NUM_CROPS = 32
"""Crops of the ordinary photographs that the distances are anchored on."""


@dataclass(frozen=True)
class BlockDistance:
    """The mean over a block's batch-norm channels of KL(ours ‖ stored), both taken as normal distributions, in nats."""

    block: str
    distance: float
    photographs: float
    """The same of crops of two ordinary photographs: what a network has that sees its own sort of images."""

    @property
    def ratio(self) -> float:
        """How many times as far as ordinary photographs."""
        return self.distance / max(self.photographs, 1e-9)


def ordinary_photographs(size: int, seed: int = 0) -> np.ndarray:
    """Random crops of scikit-learn's two photographs, a temple and a flower: uint8 [32, size, size, 3]."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(seed)
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    crops = []
    for number in range(NUM_CROPS):
        photograph = photographs[number % len(photographs)]
        side = int(min(photograph.size) * rng.uniform(0.5, 1.0))
        left, top = (int(rng.integers(0, length - side + 1)) for length in photograph.size)
        crop = photograph.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
        crops.append(np.asarray(crop))
    return np.stack(crops)


def norm_distances(
    network: "nn.Module", module: "nn.Module", blocks: Sequence[Block], images: np.ndarray, photographs: np.ndarray
) -> tuple[BlockDistance, ...] | None:
    """The distance of each block that has batch norms, from input to output; None where the statistics are unknown: a
    network without batch norms, or one whose stored statistics were folded into other weights or never trained.

    Args:
        network: runs uint8 images [n, size, size, 3] through `module`, in eval mode.
        module: the backbone, whose `blocks` are named.
        images: ours.
        photographs: what distances are anchored on.
    """
    import torch

    norms = {name: layer for name, layer in module.named_modules() if _is_trained_norm(layer)}
    of_block = [[norms[name] for name in norms if _is_in(name, block)] for block in blocks]
    if not any(of_block):
        return None
    given: dict[int, list[Tensor]] = {}

    def hook(layer: "nn.Module", inputs: "tuple[Tensor, ...]") -> None:
        x = inputs[0]
        axes = [axis for axis in range(x.ndim) if axis != 1]
        given.setdefault(id(layer), []).append(torch.stack([x.mean(axes), (x * x).mean(axes)]))

    handles = [layer.register_forward_pre_hook(hook) for layers in of_block for layer in layers]
    try:
        sets = []
        for batch in (images, photographs):
            given.clear()
            with torch.inference_mode():
                for i in range(0, len(batch), 16):
                    network(torch.from_numpy(np.ascontiguousarray(batch[i : i + 16])))
            sets.append({key: torch.stack(parts).mean(0) for key, parts in given.items()})
    finally:
        for handle in handles:
            handle.remove()
    found = []
    for block, layers in zip(blocks, of_block, strict=True):
        ran = [layer for layer in layers if id(layer) in sets[0]]
        if ran:
            ours, theirs = (float(np.mean([_kl(layer, moments[id(layer)]) for layer in ran])) for moments in sets)
            found.append(BlockDistance(block.name, ours, theirs))
    return tuple(found) or None


def _is_in(name: str, block: Block) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in block.modules)


def _is_trained_norm(layer: "nn.Module") -> bool:
    """Whether the layer has stored statistics that aren't those of a new layer: mean 0 and variance 1."""
    mean, variance = getattr(layer, "running_mean", None), getattr(layer, "running_var", None)
    if mean is None or variance is None:
        return False
    return bool((mean != 0).any()) or bool((variance != 1).any())


def _kl(layer: "nn.Module", moments: "Tensor") -> float:
    """Mean over the channels of KL(N(m, s²) ‖ N(μ, σ²)) = log(σ/s) + (s² + (m - μ)²) / 2σ² - 1/2."""
    layer = cast("nn.BatchNorm2d", layer)  # or one with the same buffers
    assert layer.running_mean is not None and layer.running_var is not None  # noqa: PT018
    eps = layer.eps
    mean = moments[0].double()
    variance = (moments[1].double() - mean**2).clamp(min=0) + eps
    stored_mean, stored = layer.running_mean.double(), layer.running_var.double() + eps
    kl = 0.5 * ((stored / variance).log() + (variance + (mean - stored_mean) ** 2) / stored - 1)
    return float(kl.clamp(0, MAX_KL).mean())
