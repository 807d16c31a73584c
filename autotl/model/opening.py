"""Opens what users pass as an image: a file, its bytes, or pixels in memory."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from autotl.backbones.base import Backbone
from autotl.data.augmentation import ORIGINAL, Augmentation, View, draw
from autotl.data.decoding import UndecodableImage, UntrustedFormat, decode, to_rgb
from autotl.data.digests import digest_bytes, digest_file
from autotl.data.preprocessing import load_views, preprocess
from autotl.data.sandbox import SandboxedDecoder
from autotl.errors import DataError, InputError
from autotl.folders import expand_home

__all__ = ["load_file", "open_item", "open_picture"]


def open_item(
    item: tuple[int, Any],
    backbone: Backbone,
    views: set[View],
    augmentations: Mapping[str, Augmentation],
    decoder: SandboxedDecoder,
    hint: int,
) -> dict[View, np.ndarray]:
    """The views of a numbered image, each uint8 [size, size, 3]. Raises UndecodableImage, InputError."""
    number, image = item
    if isinstance(image, str | os.PathLike | bytes):
        try:
            file = image if isinstance(image, bytes) else expand_home(Path(image))
            return load_file(file, backbone, views, augmentations, decoder, hint)
        except UndecodableImage as error:
            raise UndecodableImage(f"{_name(number, image)}: {error}", error.path) from error
    picture = _from_memory(number, image)
    digest = digest_bytes(picture.tobytes()) if views != {ORIGINAL} else ""
    return {view: preprocess(draw(picture, digest, view, augmentations), backbone.preprocessing) for view in views}


def load_file(
    path: Path | bytes,
    backbone: Backbone,
    views: set[View],
    augmentations: Mapping[str, Augmentation],
    decoder: SandboxedDecoder,
    hint: int,
    *,
    checked: bool = False,
) -> dict[View, np.ndarray]:
    """The same views of a file, or of its content, as a search draws for it. Raises UndecodableImage.

    Args:
        hint: pixels along the shorter side at which it is decoded.
        checked: the file was verified before, so that none is decoded in a child process.
    """
    try:
        digest = (digest_bytes(path) if isinstance(path, bytes) else digest_file(path)) if views != {ORIGINAL} else ""
    except (OSError, ValueError):  # load_views raises UndecodableImage with the reason
        digest = ""
    options: Any = {"augmentations": augmentations, "hint": hint}
    if not checked:
        try:
            return load_views(path, digest, backbone.preprocessing, views, trusted_only=True, **options)
        except UntrustedFormat:
            decoder.verify(path)
    return load_views(path, digest, backbone.preprocessing, views, **options)


def open_picture(item: tuple[int, Any], size_hint: int, decoder: SandboxedDecoder) -> Image.Image:
    """A numbered image whole and upright, in mode RGB; a JPEG with at least `size_hint` pixels along its shorter side.
    Raises UndecodableImage, InputError."""
    number, image = item
    if not isinstance(image, str | os.PathLike | bytes):
        return _from_memory(number, image)
    file = image if isinstance(image, bytes) else expand_home(Path(image))
    try:
        try:
            return decode(file, size_hint, trusted_only=True)
        except UntrustedFormat:
            decoder.verify(file)
            return decode(file, size_hint)
    except UndecodableImage as error:
        raise UndecodableImage(f"{_name(number, image)}: {error}", error.path) from error


def _from_memory(number: int, image: Any) -> Image.Image:
    try:
        return to_rgb(image)
    except UndecodableImage as error:
        raise UndecodableImage(f"images[{number}]: {error}") from error
    except DataError as error:
        raise InputError(f"images[{number}]: {error}") from error


def _name(number: int, image: Any) -> Any:
    return f"images[{number}]" if isinstance(image, bytes) else image
