"""From an image file, or an image in memory, to the pixels that a backbone sees. Pillow reads: what it knows works.

Measured on one core of an Intel Xeon, images a second. Grey PNGs of 300 × 300 pixels: Pillow 1,170, torchvision 1,250.
JPEGs of about 400 × 530: Pillow 1,000, torchvision 1,650, simplejpeg 1,730. A second reader, which knows no CMYK, no
orientation and gives other pixels for a broken file, would make a search a twentieth faster. kornia-rs reads such PNGs
in half of Pillow's time (0.38 ms, on an AMD EPYC of 2024), but holds Python's global lock while it does: two threads
that also run a network end up no faster. Resizing cost more than reading: on an AMD EPYC of 2021 a JPEG took 1.5 ms to
read, 3.0 to resize in Pillow, and takes 0.4 in PyTorch.

Colours of RGB files are taken as they are stored, as in pretraining: an embedded profile is used for CMYK alone, whose
numbers mean little without one.
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
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from autotl.errors import DataError

if TYPE_CHECKING:
    pass

__all__ = [
    "MAX_PIXELS",
    "THUMBNAIL",
    "UndecodableImage",
    "UnusualImage",
    "decode",
    "to_rgb",
    "verify",
]

MAX_PIXELS = 178_956_970
"""An image that claims more is refused by its header, unread. Where Pillow, unless told otherwise, refuses too."""

USUAL = ("JPEG", "PNG")
"""Formats whose readers every browser tries on strangers' files each day. Others may crash the process that reads a
hostile file: `autotl.data.sandbox` lets a child process try first."""

THUMBNAIL = 16
"""Pixels a side of what `verify` returns."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets an image upright, by its EXIF orientation. (ImageOps.exif_transpose also writes the EXIF anew, and fails
where a camera wrote nonsense into another tag.)"""

# Pillow logs oddities of files; without any handler Python prints those. A program's own handlers still get them.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class UndecodableImage(DataError):
    """An image that can't be read. Its text is the reason, in words; `path` is the file, where it is one.

    `passing` says that it may be read another time: memory was short, say.
    """

    def __init__(self, reason: str, path: Path | None = None, passing: bool = False):
        super().__init__(reason)
        self.path, self.passing = path, passing


class UnusualImage(UndecodableImage):
    """It isn't of a usual format, and only those were to be read."""


def decode(
    path: str | os.PathLike[str], size_hint: int | None = None, usual_only: bool = False, grey: bool = False
) -> Image.Image:
    """The image in a file as a person sees it: mode RGB, upright, on white, the first frame of an animation.

    Grey values of more than 8 bits are scaled from their own minimum and maximum to 0 and 255.

    Args:
        path: any file that Pillow reads.
        size_hint: pixels that the caller needs along the shorter side. A JPEG may come at 1/2, 1/4 or 1/8 of its size
            as long as its shorter side keeps that many, which is up to several times faster.
        usual_only: leave formats but JPEG and PNG unread, and what else asks for a rarely tried reader.
        grey: leave an image that is grey in mode L, a third of the work for whatever comes next.

    Raises:
        UndecodableImage: for whatever goes wrong with the file.
        UnusualImage: with `usual_only`.
    """
    with _one_failure(Path(path), usual_only), _opened(path, usual_only) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise UndecodableImage(f"it is too large: {width} × {height} pixels, and up to {MAX_PIXELS:,} are read")
        if size_hint:
            image.draft(None, (size_hint, size_hint))  # does nothing where the format can't
        return _as_seen(image, grey)


def _opened(path: str | os.PathLike[str], usual_only: bool) -> Image.Image:
    mode = os.stat(path).st_mode  # noqa: PTH116 - any path-like, and once for each decoding
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UndecodableImage("it is a pipe, a socket or a device")  # to open it would wait for a writer
    image = Image.open(path, formats=USUAL if usual_only else None)
    if usual_only and image.mode == "CMYK":  # its colour profile has a reader of its own
        image.close()
        raise UnusualImage("it is in CMYK")
    return image


def verify(path: str | os.PathLike[str], usual_only: bool = False) -> bytes:
    """Read the whole file once, a JPEG at reduced size.

    Returns a thumbnail to compare images by: THUMBNAIL × THUMBNAIL grey values, row by row. Raises UndecodableImage,
    and UnusualImage as `decode` does.
    """
    image = decode(path, 4 * THUMBNAIL, usual_only)
    return image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR).tobytes()


def to_rgb(image: Image.Image | np.ndarray) -> Image.Image:
    """An image in memory as `decode` would return it.

    Args:
        image: a Pillow image of any mode; or an array [height, width], [height, width, 1], [height, width, 3] or
            [height, width, 4] (RGBA) of integers in 0..255, of floats in 0..1 or of booleans; or an array
            [height, width] of larger integers, which are scaled from their own minimum and maximum to 0 and 255.

    Raises:
        DataError: where the array is none of these.
        UndecodableImage: where a Pillow image that is read lazily can't be read.
    """
    if isinstance(image, Image.Image):
        with _one_failure(None):
            return _as_seen(image)
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if 0 in array.shape or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        channels_first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        hint = " It looks like channels first: give image.transpose(1, 2, 0)." if channels_first else ""
        raise DataError(
            f"An image array has the shape [height, width] or [height, width, 3 or 4], not {list(array.shape)}.{hint}"
        )
    return _as_seen(Image.fromarray(_eight_bits(array)))


def _as_seen(image: Image.Image, grey: bool = False) -> Image.Image:
    image.load()
    turn = _turn(image)  # after loading: a TIFF sets itself upright then
    if 0 in image.size:
        raise UndecodableImage("it has no pixels")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        seen = Image.fromarray(_deep_grey(image)).convert("RGB")
    elif image.mode == "CMYK":
        seen = _from_cmyk(image)
    elif image.has_transparency_data:
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        seen = Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")
    else:
        seen = image.convert("L" if grey and image.mode == "L" else "RGB")
    if turn is not None:
        seen = seen.transpose(turn)
    seen.info = {}  # the orientation it had must not turn it again
    return seen


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF spoils no pixels
        return None


def _from_cmyk(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        seen = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
        return cast(Image.Image, seen)  # None is for in-place alone
    except (KeyError, OSError, ValueError, ImageCms.PyCMSError):  # no profile, or a useless one
        return image.convert("RGB")


def _deep_grey(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    grey = _stretch(values)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return grey


def _stretch(values: np.ndarray) -> np.ndarray:
    """Any numbers to uint8, their smallest to 0 and their largest to 255; NaN is 0, and so is all of a flat image."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    # halved first: the range of the largest floats is infinite
    share = (np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low) / 2 - low / 2) / (
        (high / 2 - low / 2) or 1.0
    )
    return (share * 255).round().astype(np.uint8)


def _eight_bits(array: np.ndarray) -> np.ndarray:
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind not in "iuf":
        raise DataError(f"An image array holds integers, floats or booleans, not {array.dtype}.")
    low, high = array.min(), array.max()
    if array.dtype.kind == "f":
        if not (low >= 0 and high <= 1):  # NaN fails this too
            raise DataError(
                f"An image array of floats holds values from 0 to 1, not {low:g} to {high:g}. "
                "Scale it, or give integers from 0 to 255."
            )
        return (array.astype(np.float64) * 255).round().astype(np.uint8)
    if low >= 0 and high <= 255 and array.dtype.itemsize != 2:  # 16 bits are a deep grey image, however dark
        return array.astype(np.uint8)
    if array.ndim == 2:
        return _stretch(array)
    raise DataError(f"A colour image's array of {array.dtype} can't be scaled: give uint8 values from 0 to 255.")


@contextmanager
def _one_failure(path: Path | None, usual_only: bool = False) -> Iterator[None]:
    """Whatever reading an image raises becomes UndecodableImage, and Pillow's warnings stay off the terminal."""
    try:
        with _silence:
            yield
    except UndecodableImage as error:
        error.path = path
        raise
    except Exception as error:  # Pillow's readers raise nearly every kind for broken files
        unusual = usual_only and isinstance(error, UnidentifiedImageError)
        kind = UnusualImage if unusual else UndecodableImage
        raise kind(_reason(error, path), path, passing=isinstance(error, MemoryError)) from error


def _reason(error: Exception, path: Path | None) -> str:
    if isinstance(error, FileNotFoundError):
        return "it is a link to nothing" if path and path.is_symlink() else "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return "it is a link that leads back to itself"
    if isinstance(error, PermissionError):
        return "there is no permission to read it"
    if isinstance(error, Image.DecompressionBombError):
        return f"it is too large: {error}"
    if isinstance(error, UnidentifiedImageError):
        empty = path is not None and path.is_file() and path.stat().st_size == 0
        return "it is empty" if empty else "it isn't an image in a format that Pillow knows"
    if isinstance(error, MemoryError):
        return "it doesn't fit into memory"
    return f"it is broken: {' '.join(str(error).split()) or type(error).__name__}"


class _Silence:
    """No warnings from Pillow while any thread reads an image.

    `warnings.catch_warnings` puts the filters of its own start back, whatever other threads did since; this adds one
    filter and takes that one away.
    """

    filter = ("ignore", None, Warning, re.compile(r"PIL\b"), 0)

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.readers = 0

    def __enter__(self) -> None:
        with self.lock:
            self.readers += 1
            filters = cast("list[Any]", warnings.filters)
            if self.filter not in filters[:1]:
                filters.insert(0, self.filter)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.readers -= 1
            filters = cast("list[Any]", warnings.filters)
            while not self.readers and self.filter in filters:
                filters.remove(self.filter)


_silence = _Silence()
