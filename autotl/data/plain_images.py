"""Decode plain JPEG and PNG files with torchvision: Pillow's pixels in half of Pillow's time, without Python's lock.

Pillow holds the lock while it hands blocks of bytes to its decoder, so that 16 threads decode no more than two. Plain
files are those of which torchvision returns the same pixels as Pillow: 8 bits a channel, grey or RGB, upright, without
transparency, and whole. All others are left to Pillow.
"""

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import ExifTags, Image

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PlainHeader", "as_tensor", "decode_plain", "plain_header"]

JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
BASELINE, EXTENDED, PROGRESSIVE = 0xC0, 0xC1, 0xC2
"""Markers of the frames that both decoders read."""
TABLES = (0xC4, 0xC8, 0xCC)
START_OF_SCAN, APP1, APP2, APP14 = 0xDA, 0xE1, 0xE2, 0xEE
UNCHANGED = 0
"""torchvision's mode: grey stays grey."""
ADOBE_YCC = 1
"""The colour transform in an Adobe segment that JPEGs of three channels have without one."""
PNG_START = b"\x89PNG\r\n\x1a\n"
GREY, RGB = 0, 2
"""Colour types of PNGs."""
SPECIAL_CHUNKS = frozenset((b"tRNS", b"eXIf", b"acTL", b"iTXt", b"zTXt"))
"""PNG chunks of transparency, animations, and of texts that may state an orientation."""


@dataclass(frozen=True)
class PlainHeader:
    """What the header of a plain image states."""

    format: Literal["jpeg", "png"]
    width: int
    height: int
    channels: int
    """1 or 3."""


def plain_header(content: bytes) -> PlainHeader | None:
    """The header of a plain JPEG or PNG; None for every other content."""
    try:
        if content.startswith(JPEG_START):
            return _jpeg_header(content)
        return _png_header(content) if content.startswith(PNG_START) else None
    except (IndexError, ValueError):  # the content ends inside of a segment
        return None


def decode_plain(content: bytes, size_hint: int | None = None) -> np.ndarray | None:
    """Decode a plain image: uint8 [height, width, channels], with 1 or 3 channels.

    None for other images, for a JPEG that Pillow decodes at a reduced size (see `size_hint` of `decode`), where
    torchvision isn't imported yet, which takes longer than a few images, and where its decoder fails.
    """
    if "torchvision.io" not in sys.modules or (header := plain_header(content)) is None:
        return None
    if header.format == "jpeg" and size_hint and min(header.width, header.height) >= 2 * size_hint:
        return None
    decoder = _decoder(header.format)
    if decoder is None:
        return None
    try:
        pixels = decoder(as_tensor(content), UNCHANGED)
    except RuntimeError:  # Pillow says what is broken
        return None
    if tuple(pixels.shape) != (header.channels, header.height, header.width) or pixels.element_size() != 1:
        return None
    return pixels.permute(1, 2, 0).contiguous().numpy()


def _decoder(name: str) -> "Callable[[Tensor, int], Tensor] | None":
    """torchvision's operator, without its Python function, which warns at each call that a later torchvision will do
    without it. None where this torchvision has none."""
    import torch

    return getattr(torch.ops.image, f"decode_{name}", None)


def as_tensor(content: bytes) -> "Tensor":
    """The bytes as a uint8 tensor [n], a copy: PyTorch warns of memory that it must not write to."""
    import torch

    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _jpeg_header(content: bytes) -> PlainHeader | None:
    if content[-2:] != JPEG_END:  # torn, or followed by something else
        return None
    header, position = None, 2
    while True:
        if content[position] != 0xFF:
            return None
        marker = content[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == START_OF_SCAN:
            return header
        length = int.from_bytes(content[position + 2 : position + 4], "big")
        segment = content[position + 4 : position + 2 + length]
        if marker in (BASELINE, EXTENDED, PROGRESSIVE):
            height, width = int.from_bytes(segment[1:3], "big"), int.from_bytes(segment[3:5], "big")
            if segment[0] != 8 or segment[5] not in (1, 3) or not (width and height):
                return None
            header = PlainHeader("jpeg", width, height, segment[5])
        elif _is_special(marker, segment):
            return None
        position += 2 + length


def _is_special(marker: int, segment: bytes) -> bool:
    """Whether a segment makes a JPEG one that the two decoders may read differently."""
    if marker == APP1:
        return not _is_upright(segment)
    if marker == APP2:
        return segment.startswith(b"MPF\0")  # several pictures
    if marker == APP14:
        return segment.startswith(b"Adobe") and segment[11] != ADOBE_YCC
    return 0xC3 <= marker <= 0xCF and marker not in TABLES  # lossless, hierarchical or arithmetic


def _is_upright(segment: bytes) -> bool:
    """Whether an APP1 segment, EXIF or XMP, states no orientation but the usual one."""
    if not segment.startswith(b"Exif\0\0"):
        return b"Orientation" not in segment
    try:
        exif = Image.Exif()
        exif.load(segment)
        return exif.get(ExifTags.Base.Orientation, 1) == 1
    except Exception:  # Pillow's parser raises nearly any exception for broken EXIF
        return False


def _png_header(content: bytes) -> PlainHeader | None:
    stream = io.BytesIO(content)
    stream.seek(len(PNG_START))
    header = None
    while True:
        length, name = int.from_bytes(stream.read(4), "big"), stream.read(4)
        if name == b"IHDR":
            data = stream.read(length)
            width, height = int.from_bytes(data[:4], "big"), int.from_bytes(data[4:8], "big")
            depth, colour, interlaced = data[8], data[9], data[12]
            if depth != 8 or colour not in (GREY, RGB) or interlaced or not (width and height):
                return None
            header = PlainHeader("png", width, height, 1 if colour == GREY else 3)
            stream.seek(4, io.SEEK_CUR)
        elif name in SPECIAL_CHUNKS or (name == b"tEXt" and b"xif" in stream.read(length)):
            return None
        elif name == b"IEND":
            return header
        elif len(name) < 4:
            return None
        elif name == b"tEXt":
            stream.seek(4, io.SEEK_CUR)
        else:
            stream.seek(length + 4, io.SEEK_CUR)
