"""From decoded images to the pixels that a backbone sees: resized, cropped, and drawn as augmented views."""

import math
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from autotl.data.augmentation import ORIGINAL, View, draw
from autotl.data.decoding import decode

if TYPE_CHECKING:
    from autotl.backbones.base import Preprocessing

__all__ = ["load_view", "load_views", "preprocess"]


def preprocess(image: Image.Image, preprocessing: "Preprocessing") -> np.ndarray:
    """Resize the shorter side (or squash both) to floor(size / crop) and cut out the centre, as timm does before it
    normalises.

    Returns:
        uint8 [size, size, 3].
    """
    size = preprocessing.size
    shorter = math.floor(size / preprocessing.crop)
    resized = (shorter, shorter)
    if not preprocessing.squash:
        image = _without_far_ends(image)
        shortest = min(image.size)
        # torchvision's own rounding: of the longer side the fraction is dropped, the cut's corner is rounded
        resized = (int(shorter * image.width / shortest), int(shorter * image.height / shortest))
    pixels = _resize(image, resized, preprocessing.interpolation)
    left, top = (round((side - size) / 2.0) for side in resized)
    if border := max(0, -left, -top):  # a crop of over 1 has one, in black
        pixels = np.pad(pixels, ((border, border), (border, border), (0, 0)))
        left, top = left + border, top + border
    cut = pixels[top : top + size, left : left + size]
    if cut.shape[2] == 3:
        return np.ascontiguousarray(cut)
    rgb = np.empty((*cut.shape[:2], 3), np.uint8)
    for channel in range(3):  # twice as fast as np.repeat
        rgb[:, :, channel] = cut[:, :, 0]
    return rgb


def _resize(image: Image.Image, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """uint8 [height, width, 3], or [height, width, 1] of a grey image.

    PyTorch's kernels have Pillow's filters and are two to three times as fast; a few pixels in a thousand differ by
    one or two of 255. What they don't know Pillow does.
    """
    if interpolation not in ("bilinear", "bicubic"):
        pixels = np.array(image.resize(size, Image.Resampling[interpolation.upper()]))
        return pixels.reshape(*pixels.shape[:2], -1)
    from torch import from_numpy
    from torch.nn.functional import interpolate

    pixels = np.array(image)  # a copy: PyTorch takes no memory that it may not write
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    # a batch of one before it is permuted: or PyTorch can't tell that the channels come last, and moves them twice
    batch = from_numpy(pixels).unsqueeze(0).permute(0, 3, 1, 2)
    return interpolate(batch, size[::-1], mode=interpolation, antialias=True).permute(0, 2, 3, 1)[0].numpy()


def _without_far_ends(image: Image.Image) -> Image.Image:
    """A strip of 1 × 100,000 pixels would be resized to gigabytes, of which the cut then keeps the centre."""
    width, height = image.size
    longest = 16 * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return image.crop((left, top, left + min(width, longest), top + min(height, longest)))


def load_view(
    path: str | os.PathLike[str],
    digest: str,
    preprocessing: "Preprocessing",
    view: View = ORIGINAL,
    usual_only: bool = False,
) -> np.ndarray:
    """A view of the image in a file whose bytes have this digest: uint8 [size, size, 3]. Raises as `decode` does."""
    return load_views(path, digest, preprocessing, (view,), usual_only)[view]


def load_views(
    path: str | os.PathLike[str],
    digest: str,
    preprocessing: "Preprocessing",
    views: Iterable[View],
    usual_only: bool = False,
) -> dict[View, np.ndarray]:
    """Several views of one image, as `load_view` gives them, from one decoding."""
    # Twice what is needed: a reduced JPEG then looks as the whole one does once resized (Pillow's `reducing_gap` says
    # the same), and a view that cuts out half of the image still has pixels enough.
    hint = 2 * math.floor(preprocessing.size / preprocessing.crop)
    image = decode(path, hint, usual_only, grey=True)
    return {view: preprocess(draw(image, digest, view), preprocessing) for view in views}
