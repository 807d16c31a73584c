"""Preprocessing: the same pixels as timm's transform, for every view of an image."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autotl.backbones.base import Preprocessing
from autotl.backbones.timm import TimmBackbone
from autotl.data.augmentation import BUILT_IN, ORIGINAL, View
from autotl.data.decoding import UntrustedFormat, decode
from autotl.data.preprocessing import load_view, load_views, preprocess


@pytest.fixture
def photo() -> Image.Image:
    """A real photograph, 451 × 300."""
    from skimage.data import chelsea

    return Image.fromarray(chelsea())


def lite0() -> Preprocessing:
    return Preprocessing(224, 0.875, "bicubic", (0.5,) * 3, (0.5,) * 3)


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
def test_preprocessing_matches_timms_transform(name: str, photo: Image.Image) -> None:
    from skimage.data import coffee
    from timm.data import create_transform, resolve_data_config
    from timm.models import get_pretrained_cfg

    config = resolve_data_config(pretrained_cfg=get_pretrained_cfg(name).to_dict())
    preprocessing = TimmBackbone(name).preprocessing
    transform = create_transform(**config, normalize=False)
    for image in (photo, photo.rotate(90, expand=True), Image.fromarray(coffee()), photo.resize((91, 130))):
        expected = transform(image).permute(1, 2, 0).numpy()
        difference = np.abs(preprocess(image, preprocessing).astype(int) - expected)
        assert difference.max() <= 2  # of 255
        assert difference.mean() < 0.01


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (1, 50_000), (50_000, 2)])
def test_tiny_and_elongated_images_fill_the_square(size: tuple[int, int]) -> None:
    pixels = preprocess(Image.new("RGB", size, (10, 200, 30)), lite0())
    assert pixels.shape == (224, 224, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == (10, 200, 30)).all()


def test_the_original_view_is_the_preprocessed_image(tmp_path: Path, photo: Image.Image) -> None:
    photo.save(tmp_path / "a.png")
    assert np.array_equal(load_view(tmp_path / "a.png", "d1", lite0()), preprocess(photo, lite0()))


@pytest.mark.parametrize("policy", ["none", *BUILT_IN])
def test_views_of_a_grey_file_equal_those_of_its_rgb_copy(tmp_path: Path, photo: Image.Image, policy: str) -> None:
    photo.convert("L").save(tmp_path / "grey.png")
    photo.convert("L").convert("RGB").save(tmp_path / "rgb.png")
    assert decode(tmp_path / "grey.png", keep_grey=True).mode == "L"
    for number in range(12):
        grey, rgb = (
            load_view(tmp_path / name, "d1", lite0(), View(policy, number)) for name in ("grey.png", "rgb.png")
        )
        assert np.array_equal(grey, rgb)


def test_a_jpeg_decoded_at_reduced_size_gives_nearly_the_same_pixels(tmp_path: Path, photo: Image.Image) -> None:
    large = photo.resize((1804, 1200), Image.Resampling.BICUBIC)
    large.save(tmp_path / "a.jpg", quality=95)
    assert decode(tmp_path / "a.jpg", 512).size == (902, 600)
    reduced, full = load_view(tmp_path / "a.jpg", "d1", lite0()), preprocess(decode(tmp_path / "a.jpg"), lite0())
    assert np.abs(reduced.astype(int) - full).mean() < 0.5


def test_a_view_is_reproducible_and_differs_by_its_number(tmp_path: Path, photo: Image.Image) -> None:
    photo.save(tmp_path / "a.png")
    first, again, other = (load_view(tmp_path / "a.png", "d1", lite0(), View("crop", n)) for n in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_several_views_of_one_decoding_equal_single_ones(tmp_path: Path, photo: Image.Image) -> None:
    photo.save(tmp_path / "a.png")
    views = [ORIGINAL, View("dihedral", 2), View("trivial", 5)]
    several = load_views(tmp_path / "a.png", "d1", lite0(), views)
    assert list(several) == views
    for view, pixels in several.items():
        assert np.array_equal(pixels, load_view(tmp_path / "a.png", "d1", lite0(), view))


def test_trusted_only_is_passed_on_to_the_decoder(tmp_path: Path, photo: Image.Image) -> None:
    photo.save(tmp_path / "a.tif")
    assert load_view(tmp_path / "a.tif", "d1", lite0()).shape == (224, 224, 3)
    with pytest.raises(UntrustedFormat):
        load_view(tmp_path / "a.tif", "d1", lite0(), trusted_only=True)


def test_a_crop_over_1_adds_a_black_border() -> None:
    preprocessing = Preprocessing(64, 2.0, "bilinear", (0.5,) * 3, (0.5,) * 3)
    pixels = preprocess(Image.new("RGB", (40, 40), "white"), preprocessing)
    assert pixels.shape == (64, 64, 3)
    assert (pixels[16:48, 16:48] == 255).all()
    assert pixels.sum() == 32 * 32 * 3 * 255
