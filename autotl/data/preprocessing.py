"""Turn image files into a backbone's input pixels: decode, augment, resize, crop.

PyTorch resizes, because Pillow's resizing costs more than its decoding: on an AMD EPYC of 2021 a JPEG takes 1.5 ms to
decode, 3.0 ms to resize in Pillow and 0.4 ms to resize in PyTorch.
"""

import math
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from autotl.data.augmentation import BUILT_IN, ORIGINAL, Augmentation, View, draw
from autotl.data.decoding import decode

if TYPE_CHECKING:
    from autotl.backbones.base import Preprocessing

__all__ = ["load_view", "load_views", "preprocess"]


def preprocess(image: Image.Image, preprocessing: "Preprocessing") -> np.ndarray:
    """Resize the shorter side (or both sides, with `squash`) to floor(size / crop) and crop the centre.

    The same as timm's evaluation transform without its normalisation, which is part of the network.

    Args:
        image: mode RGB or L.

    Returns:
        uint8 [size, size, 3].
    """
    size = preprocessing.size
    shorter = math.floor(size / preprocessing.crop)
    resized = (shorter, shorter)
    if not preprocessing.squash:
        image = _limit_aspect_ratio(image)
        shortest = min(image.size)
        # rounds as torchvision does: the longer side is truncated, the corner of the crop is rounded
        resized = (int(shorter * image.width / shortest), int(shorter * image.height / shortest))
    pixels = _resize(image, resized, preprocessing.interpolation)
    left, top = (round((side - size) / 2.0) for side in resized)
    if border := max(0, -left, -top):  # for crop > 1: a black border
        pixels = np.pad(pixels, ((border, border), (border, border), (0, 0)))
        left, top = left + border, top + border
    cropped = pixels[top : top + size, left : left + size]
    if cropped.shape[2] == 3:
        return np.ascontiguousarray(cropped)
    rgb = np.empty((*cropped.shape[:2], 3), np.uint8)
    for channel in range(3):  # twice as fast as np.repeat
        rgb[:, :, channel] = cropped[:, :, 0]
    return rgb


def _resize(image: Image.Image, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """uint8 [height, width, 3], or [height, width, 1] for a grey image. `size` is (width, height).

    PyTorch's antialiased kernels implement Pillow's filters and are two to three times as fast; a few pixels in
    a thousand differ by 1 or 2 of 255. Interpolations that PyTorch lacks are done by Pillow.
    """
    if interpolation not in ("bilinear", "bicubic"):
        pixels = np.array(image.resize(size, Image.Resampling[interpolation.upper()]))
        return pixels.reshape(*pixels.shape[:2], -1)
    from torch import from_numpy
    from torch.nn.functional import interpolate

    pixels = np.array(image)  # a copy: PyTorch needs writable memory
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    # unsqueeze before permute, so that PyTorch recognises channels_last; in the other order it copies the image twice
    batch = from_numpy(pixels).unsqueeze(0).permute(0, 3, 1, 2)
    return interpolate(batch, size[::-1], mode=interpolation, antialias=True).permute(0, 2, 3, 1)[0].numpy()


def _limit_aspect_ratio(image: Image.Image) -> Image.Image:
    """Crop the centre to at most 16:1. A strip of 1 × 100,000 pixels would be resized to gigabytes before its crop."""
    width, height = image.size
    longest = 16 * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return image.crop((left, top, left + min(width, longest), top + min(height, longest)))


def load_view(
    path: str | os.PathLike[str] | bytes,
    digest: str,
    preprocessing: "Preprocessing",
    view: View = ORIGINAL,
    *,
    trusted_only: bool = False,
    augmentations: Mapping[str, Augmentation] = BUILT_IN,
) -> np.ndarray:
    """Decode an image file and return one preprocessed view of it.

    Args:
        path: an image file, or its bytes.
        digest: of the file's bytes. It seeds the view's random draws. Unused for ORIGINAL.
        preprocessing: the backbone's.
        view: which view.
        trusted_only: see `decode`.
        augmentations: the policies of views, by name.

    Returns:
        uint8 [size, size, 3].

    Raises:
        UndecodableImage, UntrustedFormat: as `decode`.
        UnknownName: unknown policy.
    """
    loaded = load_views(path, digest, preprocessing, (view,), trusted_only=trusted_only, augmentations=augmentations)
    return loaded[view]


def load_views(
    path: str | os.PathLike[str] | bytes,
    digest: str,
    preprocessing: "Preprocessing",
    views: Iterable[View],
    *,
    trusted_only: bool = False,
    augmentations: Mapping[str, Augmentation] = BUILT_IN,
) -> dict[View, np.ndarray]:
    """Like `load_view`, for several views of one image that is decoded once."""
    # Twice the needed size: a JPEG decoded at reduced size then resizes to nearly the same pixels as at full size (as
    # does Pillow's `reducing_gap=2`), and a view that crops half of the image still has enough pixels.
    size_hint = 2 * math.floor(preprocessing.size / preprocessing.crop)
    image = decode(path, size_hint, trusted_only=trusted_only, keep_grey=True)
    return {view: preprocess(draw(image, digest, view, augmentations), preprocessing) for view in views}
