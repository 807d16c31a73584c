"""Convert a transformers image processor to a `Preprocessing`."""

import math
from typing import Any

from autotl.backbones.base import Preprocessing
from autotl.errors import AutotlError

__all__ = ["preprocessing_of"]

INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Interpolation methods by Pillow's numbers."""


def preprocessing_of(processor: Any, name: str) -> Preprocessing:
    """The preprocessing of a transformers image processor.

    Raises:
        AutotlError: the processor has a step that `Preprocessing` can't express.
    """
    edge, squash = _resized_edge(processor, name)
    size = edge
    if processor.do_center_crop:
        size = _square(processor.crop_size, name)
        if size > edge:
            raise _unsupported(name, f"crops {size} px from {edge} px, with a border around")
    rescale = float(processor.rescale_factor) * 255
    if not processor.do_rescale or abs(rescale - 1) > 1e-6:
        raise _unsupported(name, "doesn't scale its images to 0 … 1")
    interpolation = INTERPOLATIONS.get(int(processor.resample))
    if interpolation is None:
        raise _unsupported(name, f"resizes by method {processor.resample!r}")
    return Preprocessing(
        size,
        _crop(size, edge),
        interpolation,
        tuple(map(float, processor.image_mean)) if processor.do_normalize else (0.0, 0.0, 0.0),  # type: ignore[arg-type]
        tuple(map(float, processor.image_std)) if processor.do_normalize else (1.0, 1.0, 1.0),  # type: ignore[arg-type]
        squash=squash,
    )


def _resized_edge(processor: Any, name: str) -> tuple[int, bool]:
    """(length that the shorter side is resized to, False), or (length that both sides are resized to, True)."""
    size = processor.size
    if not processor.do_resize or not size:
        raise _unsupported(name, "takes images of any size")
    if size.shortest_edge and not size.longest_edge:
        return int(size.shortest_edge), False
    return _square(size, name), True


def _square(size: Any, name: str) -> int:
    if not size.height or size.height != size.width:
        raise _unsupported(name, f"takes images of {size.width}×{size.height} px, which aren't square")
    return int(size.height)


def _crop(size: int, edge: int) -> float:
    """size / edge, adjusted for rounding errors so that floor(size / crop) is exactly the edge."""
    crop = size / edge
    return crop if math.floor(size / crop) == edge else math.nextafter(crop, 0)


def _unsupported(name: str, step: str) -> AutotlError:
    return AutotlError(f"{name}: its image processor {step}; autotl doesn't support that. Choose another backbone.")
