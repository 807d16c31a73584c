"""Decode an image file, or convert an image in memory, to an upright RGB image. Every format that Pillow reads works.

Why Pillow is the only decoder: a faster one for JPEGs ignores CMYK and orientation, returns other pixels for a broken
file, and would make a search 5 % faster. Images per second on one core of an Intel Xeon: grey PNGs of 300 × 300 pixels,
Pillow 1,170, torchvision 1,250; JPEGs of about 400 × 530, Pillow 1,000, torchvision 1,650, simplejpeg 1,730. kornia-rs
decodes such PNGs in half of Pillow's time (0.38 ms, AMD EPYC of 2024) but holds the GIL meanwhile, so that two threads
that also run a network gain nothing.

RGB values are taken as stored, as in pretraining. An embedded colour profile is applied to CMYK images only, which
can't be converted well without one.
"""

import errno
import io
import logging
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from autotl.data.members import is_member, read_image
from autotl.errors import DataError

__all__ = [
    "MAX_PIXELS",
    "THUMBNAIL_SIDE",
    "ImageLimits",
    "TooManyPixels",
    "UndecodableImage",
    "UntrustedFormat",
    "decode",
    "inspect",
    "to_rgb",
    "verify",
]

MAX_PIXELS = 178_956_970
"""An image with more pixels in its header is refused before it is decoded. Equals Pillow's default error limit."""

TRUSTED_FORMATS = ("JPEG", "PNG")
"""Formats whose decoders are hardened by use in browsers, and run in this process. A hostile file of another format may
crash its decoder: `autotl.data.sandbox` decodes it in a child process first."""

ROUNDING = 1e-4
"""How far floats may lie outside of 0 to 1, as they do after resizing."""
ANIMATED_FORMATS = ("GIF", "PNG", "WEBP", "AVIF")

THUMBNAIL_SIDE = 16
"""Pixels along a side of the thumbnail that `verify` returns."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transpose that sets an image upright, by EXIF orientation. (ImageOps.exif_transpose also rewrites the EXIF block,
and fails if another tag of it is invalid.)"""

# Without a handler Python prints Pillow's log messages about odd files. Handlers of the calling program still get them.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class UndecodableImage(DataError):
    """An image can't be decoded. The text is the reason; `path` is the file, or None for an image in memory.

    `transient`: decoding may succeed another time, for example if memory was short.
    """

    def __init__(self, reason: str, path: Path | None = None, *, transient: bool = False):
        super().__init__(reason)
        self.path, self.transient = path, transient


class UntrustedFormat(UndecodableImage):
    """The image has none of TRUSTED_FORMATS, and only those were allowed."""


class TooManyPixels(UndecodableImage):
    """The image's header states more pixels than are allowed."""


@dataclass(frozen=True)
class ImageLimits:
    """What an image may be, for one who takes images from anywhere."""

    max_pixels: int = MAX_PIXELS
    animations: bool = True
    """False refuses an animation, of which only the first frame would be seen."""
    memory: int = 8 << 30
    """Address space in bytes of a child process that decodes untrusted formats: by default several times what the
    largest allowed image takes."""


def decode(
    path: str | os.PathLike[str] | bytes,
    size_hint: int | None = None,
    *,
    trusted_only: bool = False,
    keep_grey: bool = False,
) -> Image.Image:
    """Decode an image file: mode RGB, upright, on a white background, the first frame of an animation.

    Grey values of more than 8 bits are scaled linearly, from the image's minimum and maximum to 0 and 255.

    Args:
        path: a file of any format that Pillow reads, or its bytes.
        size_hint: pixels needed along the shorter side. A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long
            as its shorter side keeps this many pixels, which is up to several times faster.
        trusted_only: decode JPEG and PNG only, and no JPEG in CMYK, which needs a colour profile's decoder.
        keep_grey: return a grey image in mode L, which makes the following steps three times cheaper.

    Raises:
        UndecodableImage: the file can't be decoded, for whatever reason.
        UntrustedFormat: with `trusted_only`, the file has another format or is in CMYK.
    """
    file = None if isinstance(path, bytes) else Path(path)
    with _raise_undecodable(file, trusted_only=trusted_only), _open(path, trusted_only=trusted_only) as image:
        _refuse_large(image, MAX_PIXELS)
        if size_hint:
            image.draft(None, (size_hint, size_hint))  # no effect on formats without reduced decoding
        return _to_upright(image, keep_grey=keep_grey)


def inspect(path: str | os.PathLike[str] | bytes, limits: ImageLimits, *, trusted_only: bool = False) -> None:
    """Check the header of an image file, or of its bytes, without decoding a pixel.

    Raises:
        TooManyPixels: it states more pixels than the limits allow.
        UndecodableImage: it is no image, or an animation, and the limits allow none.
        UntrustedFormat: as `decode`.
    """
    file = None if isinstance(path, bytes) else Path(path)
    with _raise_undecodable(file, trusted_only=trusted_only), _open(path, trusted_only=trusted_only) as image:
        _check_header(image, limits)


def _check_header(image: Image.Image, limits: ImageLimits) -> None:
    _refuse_large(image, limits.max_pixels)
    # a photograph of several pictures (MPO) is none, nor is a TIFF of several pages
    if not limits.animations and image.format in ANIMATED_FORMATS and getattr(image, "is_animated", False):
        raise UndecodableImage("it is an animation: give one picture")


def _refuse_large(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise TooManyPixels(f"it is too large: {width} × {height} pixels, the limit is {max_pixels:,} in all")


def _open(path: str | os.PathLike[str] | bytes, *, trusted_only: bool) -> Image.Image:
    if not isinstance(path, bytes) and is_member(os.fspath(path)):
        path = read_image(Path(path))
    if not isinstance(path, bytes):
        mode = os.stat(path).st_mode  # noqa: PTH116 - takes any path-like, and is called for every image
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UndecodableImage("it is a pipe, a socket or a device")  # opening a pipe would wait for a writer
    source = io.BytesIO(path) if isinstance(path, bytes) else path
    image = Image.open(source, formats=TRUSTED_FORMATS if trusted_only else None)
    if trusted_only and image.mode == "CMYK":  # its colour profile is parsed by another library
        image.close()
        raise UntrustedFormat("it is in CMYK")
    return image


def verify(
    path: str | os.PathLike[str] | bytes,
    limits: ImageLimits | None = None,
    *,
    content: bytes | None = None,
    trusted_only: bool = False,
) -> bytes:
    """Check the header as `inspect` does, and decode the whole file once, a JPEG at reduced size.

    Args:
        content: the bytes of the file, where they were read.

    Returns:
        A thumbnail to find near-duplicates with: THUMBNAIL_SIDE × THUMBNAIL_SIDE grey values of a byte, row by row.

    Raises:
        TooManyPixels, UndecodableImage, UntrustedFormat: as `inspect` and `decode`.
    """
    file = None if isinstance(path, bytes) else Path(path)
    source = path if content is None else content
    with _raise_undecodable(file, trusted_only=trusted_only), _open(source, trusted_only=trusted_only) as opened:
        _check_header(opened, limits or ImageLimits())
        opened.draft(None, (4 * THUMBNAIL_SIDE, 4 * THUMBNAIL_SIDE))
        image = _to_upright(opened, keep_grey=True)
    return image.convert("L").resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BILINEAR).tobytes()


def to_rgb(image: Image.Image | np.ndarray) -> Image.Image:
    """Convert an image in memory to what `decode` returns for a file.

    Args:
        image: a Pillow image of any mode; or an array or tensor [height, width], [height, width, channels] or
            [channels, height, width] with 1, 3 or 4 channels (grey, RGB, RGBA) of integers in 0..255, of floats in 0..1
            or of booleans; or an array [height, width] of larger integers, which are scaled from their minimum and
            maximum to 0 and 255. An array whose first and last axis may both be channels has them last.

    Raises:
        DataError: the array has another shape, type or range of values.
        UndecodableImage: a lazily loaded Pillow image can't be decoded.
    """
    if isinstance(image, Image.Image):
        with _raise_undecodable(None):
            return _to_upright(image)
    try:
        array = np.asarray(image)
    except (RuntimeError, TypeError, ValueError) as error:  # a tensor on a GPU, or one that requires a gradient
        raise DataError(f"NumPy can't read this {type(image).__name__}: {error}") from error
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if 0 in array.shape or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise DataError(
            "An image array has the shape [height, width], [height, width, channels] or [channels, height, width] "
            f"with 1, 3 or 4 channels, not {list(array.shape)}."
        )
    return _to_upright(Image.fromarray(_array_to_uint8(array)))


def _to_upright(image: Image.Image, *, keep_grey: bool = False) -> Image.Image:
    """Mode RGB (L for a grey image with `keep_grey`), upright, on white."""
    image.load()
    transpose = _upright_transpose(image)  # after load(), which already turns a TIFF upright
    if 0 in image.size:
        raise UndecodableImage("it has no pixels")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        upright = Image.fromarray(_deep_grey_to_uint8(image)).convert("RGB")
    elif image.mode == "CMYK":
        upright = _cmyk_to_rgb(image)
    elif image.has_transparency_data:
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")
    else:
        upright = image.convert("L" if keep_grey and image.mode == "L" else "RGB")
    if transpose is not None:
        upright = upright.transpose(transpose)
    upright.info = {}  # without the EXIF orientation, so that a second call does not transpose again
    return upright


def _upright_transpose(image: Image.Image) -> Image.Transpose | None:
    try:
        return _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the pixels of an image with broken EXIF are still usable
        return None


def _cmyk_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        rgb = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
        return cast(Image.Image, rgb)  # None is returned for inPlace=True only
    except (KeyError, OSError, ValueError, ImageCms.PyCMSError):  # no profile, or not a valid CMYK profile
        return image.convert("RGB")


def _deep_grey_to_uint8(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    grey = _scale_to_uint8(values)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return grey


def _scale_to_uint8(values: np.ndarray) -> np.ndarray:
    """Scale the finite minimum to 0 and the finite maximum to 255. NaN becomes 0, as does a constant image."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    # halved first: max - min may overflow to infinity
    fraction = (np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low) / 2 - low / 2) / (
        (high / 2 - low / 2) or 1.0
    )
    return (fraction * 255).round().astype(np.uint8)


def _array_to_uint8(array: np.ndarray) -> np.ndarray:
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind not in "iuf":
        raise DataError(f"An image array holds integers, floats or booleans, not {array.dtype}.")
    low, high = array.min(), array.max()
    if array.dtype.kind == "f":
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # also true of NaN
            raise DataError(
                f"An image array of floats holds values from 0 to 1, not {low:g} to {high:g}. "
                "Scale it, or give integers from 0 to 255."
            )
        return (array.astype(np.float64).clip(0, 1) * 255).round().astype(np.uint8)
    if low >= 0 and high <= 255 and array.dtype.itemsize != 2:  # 16 bits: deep grey, even if dark
        return array.astype(np.uint8)
    if array.ndim == 2:
        return _scale_to_uint8(array)
    raise DataError(f"A colour image of {array.dtype} values can't be scaled. Give uint8 values from 0 to 255.")


@contextmanager
def _raise_undecodable(path: Path | None, *, trusted_only: bool = False) -> Iterator[None]:
    """Turn every exception of decoding into UndecodableImage, and suppress Pillow's warnings."""
    try:
        with _no_pillow_warnings:
            yield
    except UndecodableImage as error:
        error.path = path
        raise
    except Exception as error:  # Pillow's decoders raise nearly every exception type for broken files
        is_untrusted = trusted_only and isinstance(error, UnidentifiedImageError)
        is_bomb = isinstance(error, Image.DecompressionBombError)
        error_type = UntrustedFormat if is_untrusted else TooManyPixels if is_bomb else UndecodableImage
        raise error_type(_reason(error, path), path, transient=isinstance(error, MemoryError)) from error


def _reason(error: Exception, path: Path | None) -> str:
    if isinstance(error, FileNotFoundError):
        return "it is a broken symbolic link" if path and path.is_symlink() else "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return "it is a symbolic link that leads back to itself"
    if isinstance(error, PermissionError):
        return "there is no permission to read it"
    if isinstance(error, Image.DecompressionBombError):
        return f"it is too large: {error}"
    if isinstance(error, UnidentifiedImageError):
        return _what_else(path)
    if isinstance(error, MemoryError):
        return "it doesn't fit into memory"
    if isinstance(error, OSError) and error.errno:  # of the system, not of a decoder: the text would repeat the name
        return f"it can't be read: {error.strerror}"
    return f"it is broken: {' '.join(str(error).split()) or type(error).__name__}"


def _what_else(path: Path | None) -> str:
    """What a file is that Pillow doesn't know."""
    start = b""
    if path is not None and path.is_file():
        with suppress(OSError), path.open("rb") as file:
            start = file.read(64)
            if not start:
                return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS to the image: type git lfs pull"
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "it is a page of HTML, as a server sends it in place of a file: download it again"
    if start[4:8] == b"ftyp":
        return "it is in a format of phones and cameras (HEIC and the like): save it as JPEG"
    return "it isn't an image in a format that Pillow reads"


class _NoPillowWarnings:
    """Suppress Pillow's warnings while any thread is inside of the context.

    `warnings.catch_warnings` isn't thread-safe: on exit it restores the filters that were set on entry, and undoes
    what other threads changed meanwhile. This class inserts and removes its own filter only.
    """

    filter = ("ignore", None, Warning, re.compile(r"PIL\b"), 0)

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.num_inside = 0

    def __enter__(self) -> None:
        with self.lock:
            self.num_inside += 1
            filters = cast("list[Any]", warnings.filters)
            if self.filter not in filters[:1]:
                filters.insert(0, self.filter)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.num_inside -= 1
            filters = cast("list[Any]", warnings.filters)
            while not self.num_inside and self.filter in filters:
                filters.remove(self.filter)


_no_pillow_warnings = _NoPillowWarnings()
