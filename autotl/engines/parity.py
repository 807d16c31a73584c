"""Whether an engine may be trusted: its features of real images against those of plain PyTorch in fp32."""

import threading
import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from autotl.engines.base import Compiled

__all__ = ["LEAST_COSINE", "check_engine", "mean_cosine", "trusted"]

LEAST_COSINE = 0.99
"""Below this an engine's features aren't the backbone's any more. (OpenVINO in bf16 has 0.996 on real images.)"""


def check_engine(compiled: "Compiled", module: "nn.Module", images: np.ndarray) -> float:
    """The mean cosine between an engine's rows and those of `module` in fp32, where it is, for real images.

    Args:
        compiled: what `Engine.compile` made of `module`.
        module: takes uint8 images [N, size, size, 3]; in eval mode.
        images: uint8 [N, size, size, 3]; one batch is enough.

    What isn't finite counts as 0, so that a comparison with LEAST_COSINE refuses it.
    """
    import torch

    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    with torch.inference_mode(), torch.autocast(device.type, enabled=False):
        expected = module(torch.from_numpy(images).to(device)).float().cpu().numpy()
    return mean_cosine(compiled(images), expected)


def trusted(compiled: "Compiled", module: "nn.Module", exact: "Callable[[], Compiled]", name: str) -> "Compiled":
    """`compiled`, which is checked on the first images that it gets; `exact()` in its place where it strays.

    Args:
        module: what `compiled` was made of, as in `check_engine`.
        name: whose features they are, for the warning.
    """
    chosen: list[Compiled] = []
    first = threading.Lock()

    def run(images: np.ndarray) -> np.ndarray:
        with first:
            if not chosen:
                cosine = check_engine(compiled, module, images[:8])
                if cosine < LEAST_COSINE:
                    warnings.warn(
                        f"{name}: the engine's features stray from PyTorch's in fp32 (mean cosine {cosine:.3f}, at "
                        f"least {LEAST_COSINE} is asked): torch is used instead",
                        stacklevel=2,
                    )
                chosen.append(compiled if cosine >= LEAST_COSINE else exact())
        return chosen[0](images)

    return run


def mean_cosine(rows: np.ndarray, expected: np.ndarray) -> float:
    """Over [N, ...] row by row; 0 where the shapes differ."""
    if rows.shape != expected.shape or not len(rows):
        return 0.0
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (rows, expected))
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosines = np.where(lengths > 0, (a * b).sum(1) / lengths, (a == b).all(1))
    return float(np.where(np.isfinite(cosines), cosines, 0.0).mean())
