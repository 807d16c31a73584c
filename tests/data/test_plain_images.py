"""torchvision decodes the same pixels as Pillow, or leaves the image to Pillow."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
import torchvision.io  # noqa: F401 - the decoder is used only where torchvision is imported
from PIL import Image
from skimage import data

from autotl.backbones.base import Preprocessing
from autotl.data.decoding import UndecodableImage, decode
from autotl.data.plain_images import decode_plain, plain_header
from autotl.data.preprocessing import load_view

PICTURE = Image.fromarray(data.astronaut()[100:220, 150:310])


def encoded(image: Image.Image, format: str, **options) -> bytes:
    content = io.BytesIO()
    image.save(content, format, **options)
    return content.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        encoded(PICTURE, "JPEG"),
        encoded(PICTURE, "JPEG", quality=20, subsampling="4:2:0"),
        encoded(PICTURE, "JPEG", subsampling="4:4:4"),
        encoded(PICTURE, "JPEG", progressive=True),
        encoded(PICTURE, "JPEG", optimize=True, comment="a comment"),
        encoded(PICTURE.convert("L"), "JPEG"),
        encoded(PICTURE, "PNG"),
        encoded(PICTURE.convert("L"), "PNG"),
        encoded(PICTURE.crop((0, 0, 1, 1)), "PNG"),
    ],
)
def test_plain_images_have_pillows_pixels(content: bytes) -> None:
    expected = np.asarray(decode(content, keep_grey=True))
    pixels = decode_plain(content)
    assert pixels is not None
    assert np.array_equal(pixels.reshape(expected.shape), expected)
    header = plain_header(content)
    assert (header.height, header.width, header.channels) == pixels.shape


def rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def upright() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 1
    return exif


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize(
    "content",
    [
        encoded(PICTURE, "JPEG", exif=rotated()),
        encoded(PICTURE, "JPEG", xmp=XMP),
        encoded(PICTURE.convert("CMYK"), "JPEG"),
        encoded(PICTURE, "JPEG")[:-40],
        encoded(PICTURE, "JPEG") + b"more",
        encoded(PICTURE, "PNG", exif=rotated()),
        encoded(PICTURE.convert("P"), "PNG"),
        encoded(PICTURE.convert("RGBA"), "PNG"),
        encoded(PICTURE.convert("LA"), "PNG"),
        encoded(PICTURE.convert("1"), "PNG"),
        encoded(PICTURE.convert("L"), "PNG", transparency=0),
        encoded(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)), "PNG"),
        encoded(PICTURE, "PNG")[:60],
        encoded(PICTURE, "WEBP"),
        encoded(PICTURE, "MPO", save_all=True, append_images=[PICTURE]),
        b"",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe0\xff\xd9",
        b"\x89PNG\r\n\x1a\n",
    ],
)
def test_other_images_are_left_to_pillow(content: bytes) -> None:
    assert decode_plain(content) is None


def test_usual_exif_makes_no_difference() -> None:
    assert decode_plain(encoded(PICTURE, "JPEG", exif=upright())) is not None


def test_a_jpeg_that_pillow_decodes_at_half_its_size_is_left_to_pillow() -> None:
    content = encoded(PICTURE, "JPEG")  # 120 pixels high
    assert decode_plain(content, 60) is None
    assert decode_plain(content, 61) is not None
    assert decode(content, 60).size == (80, 60)


def test_a_damaged_file_is_decoded_as_pillow_decodes_it_or_not_at_all() -> None:
    rng = random.Random(3)
    content = encoded(PICTURE, "JPEG")
    outcomes = set()
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(rng.choice((1, 3))):
            damaged[rng.randrange(2, len(damaged) - 2)] = rng.randrange(256)
        try:
            expected = np.asarray(decode(bytes(damaged), keep_grey=True))
        except UndecodableImage:
            expected = None
        pixels = decode_plain(bytes(damaged))
        if expected is None:
            assert pixels is None
        elif pixels is not None:
            assert np.array_equal(pixels.reshape(expected.shape), expected)
        outcomes.add((expected is None, pixels is None))
    assert outcomes >= {(False, False), (True, True)}


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_both_decoders_lead_to_the_same_input_of_a_network(format: str, tmp_path: Path) -> None:
    """`load_view` decodes bytes with torchvision, and files with Pillow."""
    content = encoded(PICTURE, format)
    (tmp_path / "image").write_bytes(content)
    preprocessing = Preprocessing(96, 0.875, "bicubic", (0.5,) * 3, (0.5,) * 3)
    assert np.array_equal(load_view(content, "", preprocessing), load_view(tmp_path / "image", "", preprocessing))
