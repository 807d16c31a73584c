"""Random augmentation of whole batches on the device where they are, with another draw for each image."""

import math
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

__all__ = ["jitter_colours", "random_crops", "random_symmetries", "transpose"]

RATIO = 4 / 3
"""The sides of a crop have a ratio from its inverse to this, as in torchvision's RandomResizedCrop."""
GREY = (0.2989, 0.587, 0.114)
"""Shares of the channels in the brightness, as in torchvision."""


def random_symmetries(images: Tensor, transposes: Sequence[Image.Transpose], generator: torch.Generator) -> Tensor:
    """Each image [n, size, size, 3] as it is, or transposed in one of the given ways, all equally probable."""
    choice = torch.randint(len(transposes) + 1, (len(images),), generator=generator)
    result = images.clone()
    for number, how in enumerate(transposes, 1):
        chosen = (choice == number).nonzero()[:, 0].to(images.device)
        if len(chosen):
            result[chosen] = transpose(images[chosen].permute(0, 3, 1, 2), how).permute(0, 2, 3, 1)
    return result


def random_crops(images: Tensor, min_area: float, generator: torch.Generator) -> Tensor:
    """Mirror half of the images, crop `min_area` to 1 of their area, and resize the crops to the images' size.

    Args:
        images: uint8 or float [n, size, size, 3], values 0 to 255.

    Returns:
        float32 [n, size, size, 3].
    """
    n = len(images)
    area, ratio, x, y, mirror = torch.rand(5, n, generator=generator)
    area = min_area + area * (1 - min_area)
    ratio = torch.exp((2 * ratio - 1) * math.log(RATIO))
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    sign = torch.where(mirror < 0.5, -1.0, 1.0)
    zero = torch.zeros(n)
    left_right, top_bottom = (2 * x - 1) * (1 - width), (2 * y - 1) * (1 - height)
    rows = (torch.stack([width * sign, zero, left_right], 1), torch.stack([zero, height, top_bottom], 1))
    theta = torch.stack(rows, 1).to(images.device)
    pixels = images.permute(0, 3, 1, 2).float()
    grid = affine_grid(theta, list(pixels.shape), align_corners=False)
    cropped = grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return cropped.permute(0, 2, 3, 1)


def jitter_colours(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Multiply brightness, contrast and saturation by random factors from 1 - strength to 1 + strength.

    Args:
        images: float32 [n, size, size, 3], values 0 to 255.
    """
    factors = 1 + strength * (2 * torch.rand(3, len(images), 1, 1, 1, generator=generator) - 1)
    brightness, contrast, saturation = factors.to(images.device)
    weights = torch.tensor(GREY, device=images.device)
    images = (images * brightness).clamp(0, 255)
    mean = (images @ weights).mean((1, 2))[:, None, None, None]
    images = torch.lerp(mean, images, contrast).clamp(0, 255)
    return torch.lerp((images @ weights)[..., None], images, saturation).clamp(0, 255)


def transpose(image: Tensor, how: Image.Transpose) -> Tensor:
    """Pillow's `Image.transpose` for a tensor [channels, height, width]."""
    T = Image.Transpose
    match how:
        case T.FLIP_LEFT_RIGHT:
            return image.flip(-1)
        case T.FLIP_TOP_BOTTOM:
            return image.flip(-2)
        case T.ROTATE_180:
            return image.flip((-2, -1))
        case T.ROTATE_90:
            return image.rot90(1, (-2, -1))
        case T.ROTATE_270:
            return image.rot90(3, (-2, -1))
        case T.TRANSPOSE:
            return image.transpose(-2, -1)
        case _:  # TRANSVERSE
            return image.transpose(-2, -1).flip((-2, -1))
