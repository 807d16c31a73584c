"""What a transformers image processor does to an image, in autotl's words."""

import math
from typing import Any

from autotl.backbones.base import Preprocessing
from autotl.errors import AutotlError

__all__ = ["preprocessing_of"]

INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""By Pillow's numbers."""


def preprocessing_of(processor: Any, name: str) -> Preprocessing:
    """Of a transformers image processor. Raises AutotlError for steps that autotl doesn't take."""
    edge, squash = _resized(processor, name)
    size = edge
    if processor.do_center_crop:
        size = _square(processor.crop_size, name)
        if size > edge:
            raise _unlike(name, f"cuts {size} px out of {edge} px, with a border around")
    rescale = float(processor.rescale_factor) * 255
    if not processor.do_rescale or abs(rescale - 1) > 1e-6:
        raise _unlike(name, "doesn't scale its images to 0 … 1")
    interpolation = INTERPOLATIONS.get(int(processor.resample))
    if interpolation is None:
        raise _unlike(name, f"resizes by method {processor.resample!r}")
    return Preprocessing(
        size,
        _crop(size, edge),
        interpolation,
        tuple(map(float, processor.image_mean)) if processor.do_normalize else (0.0, 0.0, 0.0),  # type: ignore[arg-type]
        tuple(map(float, processor.image_std)) if processor.do_normalize else (1.0, 1.0, 1.0),  # type: ignore[arg-type]
        squash=squash,
    )


def _resized(processor: Any, name: str) -> tuple[int, bool]:
    """The length that the shorter side is resized to, or that both are (squash)."""
    size = processor.size
    if not processor.do_resize or not size:
        raise _unlike(name, "takes images of any size")
    if size.shortest_edge and not size.longest_edge:
        return int(size.shortest_edge), False
    return _square(size, name), True


def _square(size: Any, name: str) -> int:
    if not size.height or size.height != size.width:
        raise _unlike(name, f"takes images of {size.width}×{size.height} px, which aren't square")
    return int(size.height)


def _crop(size: int, edge: int) -> float:
    """size / edge, so that size / crop, rounded down, is the edge again whatever binary fractions do."""
    crop = size / edge
    return crop if math.floor(size / crop) == edge else math.nextafter(crop, 0)


def _unlike(name: str, does: str) -> AutotlError:
    return AutotlError(f"{name}: its image processor {does}; autotl's preprocessing doesn't. Choose another backbone.")
