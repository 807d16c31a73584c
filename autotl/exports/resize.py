"""`autotl.data.preprocessing.preprocess` as a torch module that can be exported: images of any size in, any runtime.

Resizing is two matrix products, columns first, with weights that are computed in the graph from the image's height and
width. The weights are rounded to the fixed point of PyTorch's kernels (Pillow's for Lanczos), and pixels to integers
after each product, so the pixels are those of `preprocess`: equal up to a downscaling of about 4, and beyond it but for
one in some ten thousand, which differs by 1. For that the weights need more bits than float32 has: they are computed in
float64, as the kernels do, or in two float32 each, for OpenVINO, which converts float64 to float32.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from autotl.backbones.base import Preprocessing
from autotl.data.preprocessing import MAX_ASPECT_RATIO
from autotl.errors import AutotlError
from autotl.exports.split_numbers import SplitNumber

__all__ = ["Resize"]

MAX_BITS = 22
"""Fractional bits of a weight, at most."""
Ratio: TypeAlias = Callable[[Tensor, Tensor], Any]
"""Two tensors of whole numbers to their ratio: a tensor in float64, or a `SplitNumber`."""


class Resize(nn.Module):
    """uint8 images [N, height, width, 3] of any one size to float [N, size, size, 3], whole numbers from 0 to 255.

    Args:
        in_float32: compute weights without float64 (but for Lanczos).

    Raises:
        AutotlError: the preprocessing resizes by the nearest pixel, which depends on the rounding of Pillow's sums.
    """

    def __init__(self, preprocessing: Preprocessing, *, in_float32: bool = False):
        super().__init__()
        if preprocessing.interpolation not in FILTERS:
            raise AutotlError(
                f"Images are resized by {preprocessing.interpolation!r}, and a graph by {', '.join(FILTERS)} alone."
            )
        self.preprocessing = preprocessing
        self.shorter = math.floor(preprocessing.size / preprocessing.crop)
        self.in_float32 = in_float32 and preprocessing.interpolation != "lanczos"
        self.reach = REACH[preprocessing.interpolation]
        self.powers: Tensor
        self.register_buffer("powers", 2.0 ** torch.arange(1, MAX_BITS + 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        height, width = (torch.scalar_tensor(images.shape[i], dtype=torch.int64) for i in (1, 2))
        rows, columns = self._weights(height, width, images.shape[1]), self._weights(width, height, images.shape[2])
        pixels = images.float().permute(0, 3, 1, 2)
        return _to_bytes(rows @ _to_bytes(pixels @ columns.T)).permute(0, 2, 3, 1)

    def _weights(self, side: Tensor, other: Tensor, length: int) -> Tensor:
        """[size, side]: how much each pixel of a side counts in each pixel of the crop.

        Args:
            side, other: the image's side, and the one across, int64 scalars.
            length: the side as a number.
        """
        squash = self.preprocessing.squash
        used = side if squash else torch.minimum(side, MAX_ASPECT_RATIO * other)
        shortest = torch.minimum(used, torch.minimum(other, MAX_ASPECT_RATIO * side))
        # the rest of the arithmetic is that of `resized_sides` and `crop_of`, in whole numbers
        resized = torch.full_like(side, self.shorter) if squash else self.shorter * used // shortest
        size = self.preprocessing.size
        first = _half_to_even(resized - size)
        # the weights at the edges are the largest, also where they lie outside of the crop
        edges = torch.stack([torch.zeros_like(resized), resized - 1])
        position = torch.cat([first + torch.arange(size), edges])
        # a pixel of the crop sees few of a side, which makes the arithmetic cheap: at most so many, from the first on
        count = 2 * self.reach * length // self.shorter + 2 * self.reach + 3
        start = ((2 * position + 1) * used - 2 * self.reach * torch.maximum(used, resized)) // (2 * resized) - 1
        place = start[:, None] + torch.arange(count)
        weights = self._rounded(self._filtered(position, place, used, resized))[:-2]
        # beyond both ends there is room for places outside of the side, whose weights are 0
        columns = (place[:-2] + (side - used) // 2 + count).clamp(torch.zeros_like(side), side + 2 * count - 1)
        return torch.zeros(size, length + 2 * count).scatter(1, columns, weights)[:, count : count + length]

    def _filtered(self, position: Tensor, place: Tensor, side: Tensor, resized: Tensor) -> "Tensor | SplitNumber":
        """The weights of the antialiased filter, [positions, places]. Distances are whole numbers until the last
        division."""
        unit = 2 * torch.maximum(side, resized)
        distance = ((2 * place + 1) * resized - (2 * position[:, None] + 1) * side).abs()
        number = SplitNumber.ratio if self.in_float32 else _ratio
        weights = FILTERS[self.preprocessing.interpolation](torch.minimum(distance, self.reach * unit), unit, number)
        # outside of the image used there is nothing, outside of the resized one the black border
        inside = (place >= 0) & (place < side) & ((position >= 0) & (position < resized))[:, None]
        weights = weights * (inside.float() if self.in_float32 else inside.double())
        total = weights.sum(1, keepdim=True)
        return weights / (total + (total.float() == 0).float())

    def _rounded(self, weights: "Tensor | SplitNumber") -> Tensor:
        """The weights in the fixed point of the kernels: PyTorch's has as many bits as the largest weight leaves of 16,
        Pillow's, for Lanczos, always 22."""
        if self.preprocessing.interpolation == "lanczos":
            scale = self.powers[-1:]
        else:
            largest = (weights.float() if isinstance(weights, SplitNumber) else weights).max()
            fits = (largest * self.powers + 0.5).floor() < 2**15
            scale = torch.where(fits, self.powers, torch.ones_like(self.powers)).max()
        if isinstance(weights, SplitNumber):
            return weights.rounded(scale) / scale
        return (weights.sign() * (weights.abs() * scale + 0.5).floor() / scale).float()


def _to_bytes(values: Tensor) -> Tensor:
    return (values + 0.5).floor().clamp(0, 255)


def _half_to_even(doubled: Tensor) -> Tensor:
    """Half of a whole number, as Python's `round` rounds it."""
    half = doubled // 2  # rounds down
    return half + (doubled % 2) * (half % 2)


def _bilinear(distance: Tensor, unit: Tensor, ratio: Ratio) -> Any:
    return ratio(unit - distance, unit)


def _bicubic(distance: Tensor, unit: Tensor, ratio: Ratio) -> Any:
    """Keys's cubic with a = -0.5, as in Pillow, as products: the differences in it are exact, so that weights which end
    in one half are rounded as in float64."""
    x, less_one, less_two = (ratio(distance - i * unit, unit) for i in range(3))
    near = less_one * (1.5 * x * x - x - 1)
    far = -0.5 * less_one * less_two * less_two
    is_near = (distance < unit).float()
    return near * is_near + far * (1 - is_near)


def _lanczos(distance: Tensor, unit: Tensor, ratio: Ratio) -> Tensor:
    """sinc(x) sinc(x/3)."""
    x = ratio(distance, unit)
    angle = math.pi * torch.where(x == 0, torch.ones_like(x), x)
    value = 3 * angle.sin() * (angle / 3).sin() / (angle * angle)
    return torch.where(x == 0, torch.ones_like(x), torch.where(x < 3, value, torch.zeros_like(x)))


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Of whole numbers."""
    return numerator.double() / denominator.double()


FILTERS = {"bilinear": _bilinear, "bicubic": _bicubic, "lanczos": _lanczos}
REACH = {"bilinear": 1, "bicubic": 2, "lanczos": 3}
"""Pixels of the larger of both grids that a filter reaches to either side."""
