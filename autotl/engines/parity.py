"""Parity of an engine with PyTorch: the cosine between an engine's features of real images and PyTorch's in fp32."""

import threading
import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from autotl.engines.base import Compiled

__all__ = ["MIN_COSINE", "checked_engine", "engine_cosine", "mean_cosine"]

MIN_COSINE = 0.99
"""Below this mean cosine an engine isn't used. (OpenVINO in bf16 reaches 0.996 on real images.)"""


def engine_cosine(compiled: "Compiled", module: "nn.Module", images: np.ndarray) -> float:
    """The mean cosine between an engine's features and those of `module` in fp32, on the module's own device.

    Args:
        compiled: what `Engine.compile` returned for `module`.
        module: takes uint8 images [N, size, size, 3]; in eval mode.
        images: uint8 [N, size, size, 3], real ones; one batch is enough.

    Non-finite features count as cosine 0, so that a comparison with MIN_COSINE refuses them.
    """
    import torch

    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    with torch.inference_mode(), torch.autocast(device.type, enabled=False):
        expected = module(torch.from_numpy(images).to(device)).float().cpu().numpy()
    return mean_cosine(compiled(images), expected)


def checked_engine(
    compiled: "Compiled", module: "nn.Module", fallback: "Callable[[], Compiled]", name: str
) -> "Compiled":
    """Wrap `compiled` so that its first images are compared with PyTorch in fp32; if they differ, use `fallback()`.

    Args:
        compiled: what `Engine.compile` returned for `module`.
        module: the network, as in `engine_cosine`.
        fallback: compiles the same network with an engine that needs no check.
        name: the backbone's name, for the warning.
    """
    chosen: list[Compiled] = []
    first_call = threading.Lock()

    def run(images: np.ndarray) -> np.ndarray:
        with first_call:
            if not chosen:
                cosine = engine_cosine(compiled, module, images[:8])
                if cosine < MIN_COSINE:
                    warnings.warn(
                        f"{name}: the engine's features differ from PyTorch's in fp32 (mean cosine {cosine:.3f}, at "
                        f"least {MIN_COSINE} is required): torch is used instead",
                        stacklevel=2,
                    )
                chosen.append(compiled if cosine >= MIN_COSINE else fallback())
        return chosen[0](images)

    return run


def mean_cosine(features: np.ndarray, expected: np.ndarray) -> float:
    """The mean over the samples of the cosine between two arrays [N, ...]; 0 where their shapes differ."""
    if features.shape != expected.shape or not len(features):
        return 0.0
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (features, expected))
    with np.errstate(all="ignore"):
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosines = np.where(norms > 0, (a * b).sum(1) / norms, (a == b).all(1))
    return float(np.where(np.isfinite(cosines), cosines, 0.0).mean())
