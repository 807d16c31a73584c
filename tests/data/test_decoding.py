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

from autotl.backbones.base import Preprocessing
from autotl.backbones.timm import TimmBackbone
from autotl.data.augmentation import POLICIES, View
from autotl.data.decoding import MAX_PIXELS, UndecodableImage, decode, to_rgb, verify
from autotl.data.preprocessing import load_view, preprocess
from autotl.errors import DataError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
ODD = SHARED / "odd-images"

needs_shared = pytest.mark.skipif(not ODD.is_dir(), reason="the shared images aren't here")


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


def lite0() -> Preprocessing:
    return Preprocessing(224, 0.875, "bicubic", (0.5,) * 3, (0.5,) * 3)


# --- every odd image


@needs_shared
@pytest.mark.parametrize("row", odd_images(), ids=lambda row: row["file"])
def test_an_odd_image_is_seen_or_refused_with_a_reason(row: dict[str, str], recwarn: pytest.WarningsRecorder) -> None:
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
def test_the_same_portrait_looks_the_same_in_every_format(name: str) -> None:
    portrait, other = np.asarray(decode(ODD / "hopper.ppm")), np.asarray(decode(ODD / name))
    assert np.abs(portrait.astype(int) - other).mean() < 8


@needs_shared
def test_orientation_in_xmp_turns_a_png() -> None:
    path = ODD / "xmp_tags_orientation.png"
    with Image.open(path) as stored:
        upside_down = Image.alpha_composite(Image.new("RGBA", stored.size, "white"), stored.convert("RGBA"))
    assert np.array_equal(decode(path), upside_down.convert("RGB").transpose(Image.Transpose.ROTATE_180))


@needs_shared
def test_a_12_bit_tiff_is_not_all_white() -> None:
    assert 5 < mean_of(decode(ODD / "12bit.cropped.tif")) < 250


@needs_shared
def test_a_phone_photograph_stands_upright_and_is_read_reduced() -> None:
    path = SHARED / "sign-digits" / "7" / "IMG_5874.JPG"
    assert decode(path).size == (3024, 3024)
    assert decode(path, size_hint=256).size == (378, 378)


# --- modes


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_grey_is_scaled_from_its_own_range(tmp_path: Path, dtype: type) -> None:
    ramp = np.tile(np.linspace(291, 694, 64).astype(dtype), (16, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.tif")
    expected = (ramp[0].astype(float) - 291) / 403 * 255
    assert np.abs(np.asarray(decode(tmp_path / "ramp.tif"))[5, :, 1] - expected).max() < 1


def test_a_16_bit_png_is_scaled_from_its_own_range(tmp_path: Path) -> None:
    Image.fromarray(np.array([[1000, 1100], [1200, 1100]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(decode(tmp_path / "a.png"))[:, :, 0].tolist() == [[0, 128], [255, 128]]


def test_not_a_number_in_a_float_image_is_black(tmp_path: Path) -> None:
    Image.fromarray(np.array([[np.nan, 0.0], [1.0, np.inf]], dtype=np.float32)).save(tmp_path / "a.tif")
    assert np.asarray(decode(tmp_path / "a.tif"))[:, :, 0].tolist() == [[0, 0], [255, 255]]


def test_a_flat_deep_image_is_read(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 500, dtype=np.uint16)).save(tmp_path / "flat.tif")
    assert mean_of(decode(tmp_path / "flat.tif")) == 0


def test_cmyk_looks_like_the_photograph_it_was(tmp_path: Path, photo: Image.Image) -> None:
    photo.convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(np.asarray(decode(tmp_path / "a.jpg")).astype(int) - np.asarray(photo)).mean() < 6


def test_a_useless_cmyk_profile_is_passed_over(tmp_path: Path, photo: Image.Image) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()  # one for RGB, not for CMYK
    photo.convert("CMYK").save(tmp_path / "a.jpg", quality=95, icc_profile=srgb)
    assert np.abs(np.asarray(decode(tmp_path / "a.jpg")).astype(int) - np.asarray(photo)).mean() < 6


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str) -> None:
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


def test_the_first_frame_of_an_animation_is_seen(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert decode(tmp_path / "a.gif").getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_every_exif_orientation_is_set_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
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
    seen = decode(tmp_path / f"a.{suffix}")
    assert seen.size == (48, 32)
    assert np.abs(np.asarray(seen).astype(int) - np.asarray(upright)).max() < 20
    assert np.array_equal(to_rgb(seen), seen)  # and isn't turned a second time


def test_broken_exif_spoils_no_pixels(tmp_path: Path, photo: Image.Image) -> None:
    photo.save(tmp_path / "a.jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff garbage")
    assert decode(tmp_path / "a.jpg").size == photo.size


# --- failures


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.jpg", "there is no such file"),
        ("link.jpg", "it is a link to nothing"),
        ("folder.jpg", "it is a folder"),
        ("empty.jpg", "it is empty"),
        ("loop.jpg", "it is a link that leads back to itself"),
        ("pipe.jpg", "it is a pipe"),
        ("text.jpg", "it isn't an image in a format that Pillow knows"),
        ("cut.jpg", "it is broken: image file is truncated"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, photo: Image.Image, name: str, reason: str) -> None:
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("image not found")
    photo.save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:9000])
    with pytest.raises(UndecodableImage) as caught:
        verify(tmp_path / name)
    assert str(caught.value).startswith(reason)


def test_a_bomb_is_refused_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # our limit holds where Pillow's is off
    header = b"P6 20000 20000 255\n"
    assert MAX_PIXELS < 20000 * 20000
    (tmp_path / "bomb.ppm").write_bytes(header)
    with pytest.raises(UndecodableImage, match="too large: 20000 × 20000 pixels"):
        decode(tmp_path / "bomb.ppm")


def test_reading_leaves_a_programs_own_settings_alone(tmp_path: Path, photo: Image.Image) -> None:
    photo.save(tmp_path / "a.png")
    before = list(warnings.filters), Image.MAX_IMAGE_PIXELS, logging.getLogger("PIL").level
    threads = [threading.Thread(target=decode, args=(tmp_path / "a.png",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (list(warnings.filters), Image.MAX_IMAGE_PIXELS, logging.getLogger("PIL").level) == before


# --- what a backbone sees


@pytest.mark.parametrize(
    "name",
    [
        "tf_efficientnet_lite0",
        "resnet34",
        "resnet50.a1_in1k",
        "mobilenetv3_small_100",
        "vit_tiny_patch16_224",
        "vit_base_patch16_siglip_224.webli",
    ],
)
def test_preprocessing_is_timms_own(name: str, photo: Image.Image) -> None:
    from skimage.data import coffee
    from timm.data import create_transform, resolve_data_config
    from timm.models import get_pretrained_cfg

    config = resolve_data_config(pretrained_cfg=get_pretrained_cfg(name).to_dict())
    ours = TimmBackbone(name).preprocessing
    timms = create_transform(**config, normalize=False)
    for image in (photo, photo.rotate(90, expand=True), Image.fromarray(coffee()), photo.resize((91, 130))):
        expected = timms(image).permute(1, 2, 0).numpy()
        off = np.abs(preprocess(image, ours).astype(int) - expected)
        assert off.max() <= 2  # of 255
        assert off.mean() < 0.01


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (1, 50_000), (50_000, 2)])
def test_tiny_and_thin_images_fill_the_square(size: tuple[int, int]) -> None:
    pixels = preprocess(Image.new("RGB", size, (10, 200, 30)), lite0())
    assert pixels.shape == (224, 224, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == (10, 200, 30)).all()


def test_the_plain_view_is_the_preprocessed_image(tmp_path: Path, photo: Image.Image) -> None:
    photo.save(tmp_path / "a.png")
    assert np.array_equal(load_view(tmp_path / "a.png", "d1", lite0()), preprocess(photo, lite0()))


@pytest.mark.parametrize("policy", ["none", *POLICIES])
def test_a_grey_image_gives_what_its_rgb_gives(tmp_path: Path, photo: Image.Image, policy: str) -> None:
    photo.convert("L").save(tmp_path / "grey.png")
    photo.convert("L").convert("RGB").save(tmp_path / "rgb.png")
    assert decode(tmp_path / "grey.png", grey=True).mode == "L"
    for number in range(12):
        grey, rgb = (
            load_view(tmp_path / name, "d1", lite0(), View(policy, number)) for name in ("grey.png", "rgb.png")
        )
        assert np.array_equal(grey, rgb)


def test_a_reduced_jpeg_looks_as_the_whole_one(tmp_path: Path, photo: Image.Image) -> None:
    large = photo.resize((1804, 1200), Image.Resampling.BICUBIC)
    large.save(tmp_path / "a.jpg", quality=95)
    assert decode(tmp_path / "a.jpg", 512).size == (902, 600)
    seen, whole = load_view(tmp_path / "a.jpg", "d1", lite0()), preprocess(decode(tmp_path / "a.jpg"), lite0())
    assert np.abs(seen.astype(int) - whole).mean() < 0.5


def test_a_view_is_the_same_each_time_and_another_for_another_number(tmp_path: Path, photo: Image.Image) -> None:
    photo.save(tmp_path / "a.png")
    one, again, other = (load_view(tmp_path / "a.png", "d1", lite0(), View("crop", n)) for n in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


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
    ],
    ids=lambda a: f"{a.dtype}-{a.shape}",
)
def test_arrays_become_rgb(array: np.ndarray) -> None:
    image = to_rgb(array)
    assert (image.mode, image.size) == ("RGB", (5, 4))
    assert (np.asarray(image) == 51).all()


def test_booleans_are_black_and_white() -> None:
    assert np.asarray(to_rgb(np.array([[True, False]])))[0].tolist() == [[255] * 3, [0] * 3]


def test_a_deep_grey_array_is_scaled_from_its_own_range() -> None:
    assert np.asarray(to_rgb(np.array([[291, 694]], np.uint16)))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 8, 9), np.uint8), r"channels first: give image\.transpose\(1, 2, 0\)"),
        (np.zeros(7, np.uint8), r"not \[7\]"),
        (np.zeros((0, 4, 3), np.uint8), r"not \[0, 4, 3\]"),
        (np.full((4, 4, 3), 200.0), "from 0 to 1, not 200 to 200"),
        (np.full((4, 4), np.nan), "from 0 to 1, not nan to nan"),
        (np.full((4, 4, 3), 4000, np.uint16), "give uint8"),
        (np.full((4, 4), "x"), "integers, floats or booleans"),
    ],
)
def test_other_arrays_are_refused_with_what_to_give(array: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        to_rgb(array)


def test_a_lazy_image_that_is_cut_off_is_undecodable(photo: Image.Image) -> None:
    file = io.BytesIO()
    photo.save(file, "png")
    with pytest.raises(UndecodableImage, match="truncated"):
        to_rgb(Image.open(io.BytesIO(file.getvalue()[:5000])))
