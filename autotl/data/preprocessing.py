"""Turn image files into a backbone's input pixels: decode, augment, resize, crop.

PyTorch resizes, because Pillow's resizing costs more than its decoding: on an AMD EPYC of 2021 a JPEG takes 1.5 ms to
decode, 3.0 ms to resize in Pillow and 0.4 ms to resize in PyTorch.
"""

import math
import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from autotl.data.augmentation import BUILT_IN, ORIGINAL, Augmentation, View, draw
from autotl.data.decoding import decode
from autotl.data.plain_images import decode_plain

if TYPE_CHECKING:
    from autotl.backbones.base import Preprocessing

__all__ = [
    "crop_of",
    "load_view",
    "load_views",
    "preprocess",
    "resized_sides",
    "size_hint",
    "within_aspect_ratio",
]

MAX_ASPECT_RATIO = 16
"""Longer images are cropped to this ratio of their sides before they are resized."""


def preprocess(image: "Image.Image | np.ndarray", preprocessing: "Preprocessing") -> np.ndarray:
    """Resize the shorter side (or both sides, with `squash`) to floor(size / crop) and crop the centre.

    The same as timm's evaluation transform without its normalisation, which is part of the network.

    Args:
        image: mode RGB or L, or its pixels: uint8 [height, width, 3] or [height, width, 1].

    Returns:
        uint8 [size, size, 3].
    """
    size = preprocessing.size
    pixels = np.array(image) if isinstance(image, Image.Image) else image  # a copy: PyTorch needs writable memory
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if not preprocessing.squash:
        rows, columns = within_aspect_ratio(*pixels.shape[:2])
        pixels = np.ascontiguousarray(pixels[rows, columns])
    resized = resized_sides(pixels.shape[0], pixels.shape[1], preprocessing)
    pixels = _resize(pixels, resized, preprocessing.interpolation)
    top, left, border = crop_of(resized, size)
    if border:
        pixels = np.pad(pixels, ((border, border), (border, border), (0, 0)))
    cropped = pixels[top : top + size, left : left + size]
    if cropped.shape[2] == 3:
        return np.ascontiguousarray(cropped)
    rgb = np.empty((*cropped.shape[:2], 3), np.uint8)
    for channel in range(3):  # twice as fast as np.repeat
        rgb[:, :, channel] = cropped[:, :, 0]
    return rgb


def resized_sides(height: int, width: int, preprocessing: "Preprocessing") -> tuple[int, int]:
    """Height and width of a resized image, before its crop."""
    shorter = math.floor(preprocessing.size / preprocessing.crop)
    if preprocessing.squash:
        return shorter, shorter
    shortest = min(height, width)
    # rounds as torchvision does: the longer side is truncated, the corner of the crop is rounded
    return int(shorter * height / shortest), int(shorter * width / shortest)


def within_aspect_ratio(height: int, width: int) -> tuple[slice, slice]:
    """The rows and columns in the centre of an image, at most 16:1. A strip of 1 × 100,000 pixels would be resized to
    gigabytes before its crop."""
    longest = MAX_ASPECT_RATIO * min(height, width)
    top, left = max(0, (height - longest) // 2), max(0, (width - longest) // 2)
    return slice(top, top + min(height, longest)), slice(left, left + min(width, longest))


def crop_of(resized: tuple[int, int], size: int) -> tuple[int, int, int]:
    """Top and left of the centre crop of a resized image, (height, width), after a black border of the third number of
    pixels was added around the image: more than 0 for a crop > 1."""
    top, left = (round((side - size) / 2.0) for side in resized)
    border = max(0, -left, -top)
    return top + border, left + border, border


def _resize(pixels: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """uint8 [height, width, channels], resized to `size`, (height, width).

    PyTorch's antialiased kernels implement Pillow's filters and are two to three times as fast; a few pixels in
    a thousand differ by 1 or 2 of 255. Interpolations that PyTorch lacks are done by Pillow.
    """
    if interpolation not in ("bilinear", "bicubic"):
        image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
        resized = np.array(image.resize(size[::-1], Image.Resampling[interpolation.upper()]))
        return resized.reshape(*resized.shape[:2], -1)
    from torch import from_numpy
    from torch.nn.functional import interpolate

    # unsqueeze before permute, so that PyTorch recognises channels_last; in the other order it copies the image twice
    batch = from_numpy(pixels).unsqueeze(0).permute(0, 3, 1, 2)
    return interpolate(batch, size, mode=interpolation, antialias=True).permute(0, 2, 3, 1)[0].numpy()


def size_hint(preprocessing: "Preprocessing") -> int:
    """Pixels along the shorter side at which a JPEG is decoded: twice the needed size. So decoded it resizes to nearly
    the same pixels as at full size (as does Pillow's `reducing_gap=2`), and a view that crops half of the image still
    has enough pixels."""
    return 2 * math.floor(preprocessing.size / preprocessing.crop)


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
    views: Collection[View],
    *,
    trusted_only: bool = False,
    augmentations: Mapping[str, Augmentation] = BUILT_IN,
    hint: int | None = None,
) -> dict[View, np.ndarray]:
    """Like `load_view`, for several views of one image that is decoded once.

    Args:
        hint: the size to decode at where it isn't `size_hint` of the preprocessing.
    """
    hint = hint or size_hint(preprocessing)
    # in searches, not in predictions: torchvision's decoder prints what is odd about a file
    pixels = decode_plain(path, hint) if isinstance(path, bytes) and not trusted_only else None
    if pixels is None:
        image = decode(path, hint, trusted_only=trusted_only, keep_grey=True)
    elif set(views) == {ORIGINAL}:
        return {ORIGINAL: preprocess(pixels, preprocessing)}
    else:
        image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
    return {view: preprocess(draw(image, digest, view, augmentations), preprocessing) for view in views}
