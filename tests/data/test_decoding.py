"""Decoding of image files, and conversion of images in memory."""

import csv
import io
import logging
import os
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from autotl.data.decoding import MAX_PIXELS, UndecodableImage, UntrustedFormat, decode, to_rgb, verify
from autotl.errors import DataError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
ODD = SHARED / "odd-images"

needs_shared = pytest.mark.skipif(not ODD.is_dir(), reason="the folder of odd images is missing")


def odd_images() -> list[dict[str, str]]:
    if not ODD.is_dir():
        return []
    with (ODD / "manifest.csv").open() as file:
        return list(csv.DictReader(file))


def mean_of(image: Image.Image) -> float:
    return float(np.asarray(image).mean())


@pytest.fixture
def photo() -> Image.Image:
    """A real photograph, 451 × 300."""
    from skimage.data import chelsea

    return Image.fromarray(chelsea())


# --- odd images


@needs_shared
@pytest.mark.parametrize("row", odd_images(), ids=lambda row: row["file"])
def test_an_odd_image_is_decoded_or_rejected_with_a_reason(
    row: dict[str, str], recwarn: pytest.WarningsRecorder
) -> None:
    path = ODD / row["file"]
    if row["status"] == "fails":
        with pytest.raises(UndecodableImage, match=r"^it (is|isn't) .{5,}") as caught:
            verify(path)
        assert caught.value.path == path
    else:
        image = decode(path)
        size = int(row["width"]), int(row["height"])
        assert (image.mode, image.size) == ("RGB", size if int(row["exif_orientation"]) < 5 else size[::-1])
        assert np.asarray(image).std() > 10  # neither white nor black
    assert not recwarn.list


@needs_shared
@pytest.mark.parametrize(
    "name", ["hopper_orientation_2.jpg", "hopper_orientation_8.jpg", "hopper.Lab.tif", "avif_hopper.avif"]
)
def test_one_portrait_has_the_same_pixels_in_every_format(name: str) -> None:
    portrait, other = np.asarray(decode(ODD / "hopper.ppm")), np.asarray(decode(ODD / name))
    assert np.abs(portrait.astype(int) - other).mean() < 8


@needs_shared
def test_the_orientation_in_xmp_of_a_png_is_applied() -> None:
    path = ODD / "xmp_tags_orientation.png"
    with Image.open(path) as stored:
        upside_down = Image.alpha_composite(Image.new("RGBA", stored.size, "white"), stored.convert("RGBA"))
    assert np.array_equal(decode(path), upside_down.convert("RGB").transpose(Image.Transpose.ROTATE_180))


@needs_shared
def test_a_12_bit_tiff_is_scaled_to_8_bits() -> None:
    assert 5 < mean_of(decode(ODD / "12bit.cropped.tif")) < 250


@needs_shared
def test_a_phone_photograph_is_upright_and_can_be_decoded_at_reduced_size() -> None:
    path = SHARED / "sign-digits" / "7" / "IMG_5874.JPG"
    assert decode(path).size == (3024, 3024)
    assert decode(path, size_hint=256).size == (378, 378)


# --- modes


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_grey_of_more_than_8_bits_is_scaled_from_its_minimum_and_maximum(tmp_path: Path, dtype: type) -> None:
    ramp = np.tile(np.linspace(291, 694, 64).astype(dtype), (16, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.tif")
    expected = (ramp[0].astype(float) - 291) / 403 * 255
    assert np.abs(np.asarray(decode(tmp_path / "ramp.tif"))[5, :, 1] - expected).max() < 1


def test_a_16_bit_png_is_scaled_from_its_minimum_and_maximum(tmp_path: Path) -> None:
    Image.fromarray(np.array([[1000, 1100], [1200, 1100]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(decode(tmp_path / "a.png"))[:, :, 0].tolist() == [[0, 128], [255, 128]]


def test_nan_in_a_float_image_is_black(tmp_path: Path) -> None:
    Image.fromarray(np.array([[np.nan, 0.0], [1.0, np.inf]], dtype=np.float32)).save(tmp_path / "a.tif")
    assert np.asarray(decode(tmp_path / "a.tif"))[:, :, 0].tolist() == [[0, 0], [255, 255]]


def test_a_constant_16_bit_image_is_black(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 500, dtype=np.uint16)).save(tmp_path / "flat.tif")
    assert mean_of(decode(tmp_path / "flat.tif")) == 0


def test_cmyk_is_converted_to_rgb(tmp_path: Path, photo: Image.Image) -> None:
    photo.convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(np.asarray(decode(tmp_path / "a.jpg")).astype(int) - np.asarray(photo)).mean() < 6


def test_an_invalid_cmyk_profile_is_ignored(tmp_path: Path, photo: Image.Image) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()  # an RGB profile is invalid for CMYK
    photo.convert("CMYK").save(tmp_path / "a.jpg", quality=95, icc_profile=srgb)
    assert np.abs(np.asarray(decode(tmp_path / "a.jpg")).astype(int) - np.asarray(photo)).mean() < 6


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_white(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (2, 1))  # black, transparent
    image.putpixel((1, 0), (0,) * (len(mode) - 1) + (255,))
    image.save(tmp_path / "a.png")
    assert np.asarray(decode(tmp_path / "a.png"))[0].tolist() == [[255] * 3, [0] * 3]


def test_a_transparent_palette_colour_is_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    assert np.asarray(decode(tmp_path / "a.png"))[0].tolist() == [[255] * 3, [0, 0, 255]]


def test_a_transparent_value_of_a_16_bit_png_is_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[7, 9, 11]], dtype=np.uint16)).save(tmp_path / "a.png", transparency=7)
    with Image.open(tmp_path / "a.png") as stored:
        assert stored.info["transparency"] == 7
    assert np.asarray(decode(tmp_path / "a.png"))[0, :, 0].tolist() == [255, 128, 255]


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert decode(tmp_path / "a.gif").getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_every_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = Image.fromarray(np.kron([[0, 80, 160], [240, 40, 120]], np.ones((16, 16))).astype(np.uint8)).convert(
        "RGB"
    )
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"a.{suffix}", exif=exif, quality=95)
    decoded = decode(tmp_path / f"a.{suffix}")
    assert decoded.size == (48, 32)
    assert np.abs(np.asarray(decoded).astype(int) - np.asarray(upright)).max() < 20
    assert np.array_equal(to_rgb(decoded), decoded)  # the orientation is not applied twice


def test_broken_exif_is_ignored(tmp_path: Path, photo: Image.Image) -> None:
    photo.save(tmp_path / "a.jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff garbage")
    assert decode(tmp_path / "a.jpg").size == photo.size


# --- errors


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.jpg", "there is no such file"),
        ("link.jpg", "it is a broken symbolic link"),
        ("folder.jpg", "it is a folder"),
        ("empty.jpg", "it is empty"),
        ("x" * 300, "it can't be read: File name too long"),
        ("loop.jpg", "it is a symbolic link that leads back to itself"),
        ("pipe.jpg", "it is a pipe"),
        ("text.jpg", "it isn't an image in a format that Pillow reads"),
        ("lfs.jpg", "it is a pointer of Git LFS to the image: type git lfs pull"),
        ("page.jpg", "it is a page of HTML"),
        ("phone.jpg", "it is in a format of phones and cameras (HEIC and the like): save it as JPEG"),
        ("cut.jpg", "it is broken: image file is truncated"),
    ],
)
def test_the_error_of_an_undecodable_file_has_the_reason(
    tmp_path: Path, photo: Image.Image, name: str, reason: str
) -> None:
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("image not found")
    (tmp_path / "lfs.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n")
    (tmp_path / "page.jpg").write_text("\n<!DOCTYPE html><html>404</html>")
    (tmp_path / "phone.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    photo.save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:9000])
    with pytest.raises(UndecodableImage) as caught:
        verify(tmp_path / name)
    assert str(caught.value).startswith(reason)


def test_a_decompression_bomb_is_rejected_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # MAX_PIXELS holds even without Pillow's limit
    header = b"P6 20000 20000 255\n"
    assert MAX_PIXELS < 20000 * 20000
    (tmp_path / "bomb.ppm").write_bytes(header)
    with pytest.raises(UndecodableImage, match="too large: 20000 × 20000 pixels"):
        decode(tmp_path / "bomb.ppm")


@pytest.mark.parametrize("name", ["a.tif", "cmyk.jpg"])
def test_trusted_only_rejects_other_formats_and_cmyk(tmp_path: Path, photo: Image.Image, name: str) -> None:
    photo.convert("CMYK" if name == "cmyk.jpg" else "RGB").save(tmp_path / name)
    assert decode(tmp_path / name).size == photo.size
    with pytest.raises(UntrustedFormat):
        decode(tmp_path / name, trusted_only=True)


def test_a_lack_of_memory_is_transient(tmp_path: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: Image.Image) -> None:
        raise MemoryError

    photo.save(tmp_path / "a.png")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(UndecodableImage, match="it doesn't fit into memory") as caught:
        decode(tmp_path / "a.png")
    assert caught.value.transient


def test_decoding_in_threads_restores_the_settings_of_the_program(tmp_path: Path, photo: Image.Image) -> None:
    photo.save(tmp_path / "a.png")
    before = list(warnings.filters), Image.MAX_IMAGE_PIXELS, logging.getLogger("PIL").level
    threads = [threading.Thread(target=decode, args=(tmp_path / "a.png",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (list(warnings.filters), Image.MAX_IMAGE_PIXELS, logging.getLogger("PIL").level) == before


# --- images in memory


@pytest.mark.parametrize(
    "array",
    [
        np.full((4, 5, 3), 51, np.uint8),
        np.full((4, 5, 3), 51, np.int64),
        np.full((4, 5), 51, np.uint8),
        np.full((4, 5, 1), 51, np.uint8),
        np.full((4, 5, 3), 0.2, np.float32),
        np.full((4, 5), 0.2, np.float64),
        np.dstack([np.full((4, 5, 3), 51, np.uint8), np.full((4, 5), 255, np.uint8)]),
        np.full((8, 10, 3), 51, np.uint8)[::2, ::2],
        np.full((3, 4, 5), 51, np.uint8),
        np.full((1, 4, 5), 0.2, np.float32),
    ],
    ids=lambda a: f"{a.dtype}-{a.shape}",
)
def test_arrays_are_converted_to_rgb(array: np.ndarray) -> None:
    image = to_rgb(array)
    assert (image.mode, image.size) == ("RGB", (5, 4))
    assert (np.asarray(image) == 51).all()


def test_floats_may_overshoot_as_they_do_after_resizing() -> None:
    assert np.asarray(to_rgb(np.array([[-1e-6, np.nextafter(np.float32(1), 2)]])))[0, :, 0].tolist() == [0, 255]


def test_a_boolean_array_is_black_and_white() -> None:
    assert np.asarray(to_rgb(np.array([[True, False]])))[0].tolist() == [[255] * 3, [0] * 3]


def test_a_16_bit_grey_array_is_scaled_from_its_minimum_and_maximum() -> None:
    assert np.asarray(to_rgb(np.array([[291, 694]], np.uint16)))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 8, 9), np.uint8), r"1, 3 or 4 channels, not \[2, 8, 9\]"),
        (np.zeros(7, np.uint8), r"not \[7\]"),
        (np.zeros((0, 4, 3), np.uint8), r"not \[0, 4, 3\]"),
        (np.full((4, 4, 3), 200.0), "from 0 to 1, not 200 to 200"),
        (np.full((4, 4), np.nan), "from 0 to 1, not nan to nan"),
        (np.full((4, 4, 3), 4000, np.uint16), "Give uint8"),
        (np.full((4, 4), "x"), "integers, floats or booleans"),
    ],
)
def test_the_error_for_another_array_tells_what_to_give(array: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        to_rgb(array)


def test_a_lazily_loaded_truncated_image_is_undecodable(photo: Image.Image) -> None:
    file = io.BytesIO()
    photo.save(file, "png")
    with pytest.raises(UndecodableImage, match="truncated"):
        to_rgb(Image.open(io.BytesIO(file.getvalue()[:5000])))
