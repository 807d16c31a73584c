"""`autotl.data.preprocessing.preprocess` as a torch module that can be exported: images of any size in, any runtime.

Resizing is two matrix products, columns first, with weights that are computed in the graph from the image's height and
width. The weights are rounded to the fixed point of PyTorch's kernels (Pillow's for Lanczos), and pixels to integers
after each product, so the pixels are those of `preprocess`: equal up to a downscaling of about 4, and beyond it but for
one in some ten thousand, which differs by 1. Weights are computed in float64, as the kernels do: in float32, to which
OpenVINO converts them, one in some hundred thousand is rounded otherwise, and some pixels differ by 1.
"""

import math

import torch
from torch import Tensor, nn

from autotl.backbones.base import Preprocessing
from autotl.data.preprocessing import MAX_ASPECT_RATIO
from autotl.errors import AutotlError

__all__ = ["Resize"]

MAX_BITS = 22
"""Fractional bits of a weight, at most."""


class Resize(nn.Module):
    """uint8 images [N, height, width, 3] of any one size to float [N, size, size, 3], whole numbers from 0 to 255.

    Raises:
        AutotlError: the preprocessing resizes by the nearest pixel, which depends on the rounding of Pillow's sums.
    """

    def __init__(self, preprocessing: Preprocessing):
        super().__init__()
        if preprocessing.interpolation not in FILTERS:
            raise AutotlError(
                f"Images are resized by {preprocessing.interpolation!r}, and a graph by {', '.join(FILTERS)} alone."
            )
        self.preprocessing = preprocessing
        self.shorter = math.floor(preprocessing.size / preprocessing.crop)
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
        first = _half_to_even(resized - self.preprocessing.size)
        position = first + torch.arange(self.preprocessing.size)
        place = torch.arange(length) - (side - used) // 2
        # the weights at the edges are the largest, also where they lie outside of the crop
        edges = torch.stack([torch.zeros_like(resized), resized - 1])
        weights = self._filtered(torch.cat([position, edges]), place, used, resized)
        return self._rounded(weights)[:-2]

    def _filtered(self, position: Tensor, place: Tensor, side: Tensor, resized: Tensor) -> Tensor:
        """The weights of the antialiased filter. Distances are whole numbers until the last division."""
        distance = (2 * place[None] + 1) * resized - (2 * position[:, None] + 1) * side
        weights = FILTERS[self.preprocessing.interpolation](distance.abs(), 2 * torch.maximum(side, resized))
        # outside of the image used there is nothing, outside of the resized one the black border
        weights = weights * ((place >= 0) & (place < side))[None].double()
        weights = weights * ((position >= 0) & (position < resized))[:, None].double()
        total = weights.sum(1, keepdim=True)
        return weights / torch.where(total == 0, torch.ones_like(total), total)

    def _rounded(self, weights: Tensor) -> Tensor:
        """The weights in the fixed point of the kernels: PyTorch's has as many bits as the largest weight leaves of 16,
        Pillow's, for Lanczos, always 22."""
        if self.preprocessing.interpolation == "lanczos":
            scale = self.powers[-1:]
        else:
            fits = (weights.max() * self.powers + 0.5).floor() < 2**15
            scale = torch.where(fits, self.powers, torch.ones_like(self.powers)).max()
        return (weights.sign() * (weights.abs() * scale + 0.5).floor() / scale).float()


def _to_bytes(values: Tensor) -> Tensor:
    return (values + 0.5).floor().clamp(0, 255)


def _half_to_even(doubled: Tensor) -> Tensor:
    """Half of a whole number, as Python's `round` rounds it."""
    half = doubled // 2  # rounds down
    return half + (doubled % 2) * (half % 2)


def _bilinear(distance: Tensor, unit: Tensor) -> Tensor:
    return _ratio(unit - distance, unit).clamp(min=0)


def _bicubic(distance: Tensor, unit: Tensor) -> Tensor:
    """Keys's cubic with a = -0.5, as in Pillow, as products: the differences in it are exact, so that weights which end
    in one half are rounded as in float64."""
    x, less_one, less_two = (_ratio(distance - i * unit, unit) for i in range(3))
    near = less_one * (1.5 * x * x - x - 1)
    far = -0.5 * less_one * less_two * less_two
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _lanczos(distance: Tensor, unit: Tensor) -> Tensor:
    """sinc(x) sinc(x/3) up to 3."""
    x = _ratio(distance, unit)
    angle = math.pi * torch.where(x == 0, torch.ones_like(x), x)
    value = 3 * angle.sin() * (angle / 3).sin() / (angle * angle)
    return torch.where(x == 0, torch.ones_like(x), torch.where(x < 3, value, torch.zeros_like(x)))


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Of whole numbers."""
    return numerator.double() / denominator.double()


FILTERS = {"bilinear": _bilinear, "bicubic": _bicubic, "lanczos": _lanczos}
