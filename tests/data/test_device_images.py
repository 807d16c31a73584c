"""What an accelerator does with images: the same as the CPU does, here with tensors on the CPU."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from autotl.backbones.base import Preprocessing
from autotl.data import device_images
from autotl.data.augmentation import BUILT_IN
from autotl.data.device_augmentation import jitter_colours, random_crops, random_symmetries, transpose
from autotl.data.device_images import batches_of, can_decode, encoded_image, preprocess_batch
from autotl.data.preprocessing import preprocess

PICTURE = data.astronaut()[100:220, 150:310]
MEAN = (0.5,) * 3


def channels_first(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.transpose(2, 0, 1).copy())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("crop", "squash"), [(0.875, False), (1.0, True), (1.2, False)])
def test_images_of_many_sizes_are_resized_and_cropped_as_on_a_cpu(interpolation, crop, squash) -> None:
    preprocessing = Preprocessing(64, crop, interpolation, MEAN, MEAN, squash)
    pictures = [
        PICTURE,
        PICTURE[:90, :150],
        PICTURE[:40, :30],
        PICTURE[:3, :160],
        PICTURE[::-1],
        PICTURE[10:100, 5:155],
    ]
    batch = preprocess_batch([channels_first(picture) for picture in pictures], preprocessing).numpy()
    for row, picture in zip(batch, pictures, strict=True):
        expected = preprocess(np.ascontiguousarray(picture), preprocessing)
        difference = np.abs(row.astype(int) - expected.astype(int))
        assert difference.max() <= 3  # PyTorch's kernels for bytes round between their two passes
        assert difference.mean() < 0.3


@pytest.mark.parametrize("how", list(Image.Transpose))
def test_transposes_are_pillows(how: Image.Transpose) -> None:
    expected = np.asarray(Image.fromarray(PICTURE).transpose(how))
    assert np.array_equal(transpose(channels_first(PICTURE), how).permute(1, 2, 0).numpy(), expected)


def test_a_gpu_decodes_only_so_many_pixels_at_once(monkeypatch) -> None:
    import io

    def jpeg(width: int) -> bytes:
        content = io.BytesIO()
        Image.new("RGB", (width, 10)).save(content, "JPEG")
        return content.getvalue()

    monkeypatch.setattr(device_images, "MAX_PIXELS_AT_ONCE", 1000)
    encoded = {number: encoded_image(jpeg(width)) for number, width in [(3, 40), (4, 50), (7, 20), (9, 99), (11, 1)]}
    assert list(batches_of(encoded)) == [[3, 4], [7], [9, 11]]


def test_a_machine_without_an_nvidia_gpu_decodes_on_the_cpu() -> None:
    assert not can_decode("cpu")
    assert not can_decode("mps")
    if not torch.cuda.is_available():
        assert not can_decode("cuda:0")


SQUARE = torch.from_numpy(np.ascontiguousarray(data.astronaut()[:96, 150:246]))[None].repeat(64, 1, 1, 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_image_of_a_batch_has_a_symmetry_of_its_own() -> None:
    transposes = BUILT_IN["dihedral"].transposes
    drawn = random_symmetries(SQUARE, transposes, generator())
    picture = Image.fromarray(SQUARE[0].numpy())
    known = [np.asarray(picture), *(np.asarray(picture.transpose(how)) for how in transposes)]
    seen = [next(i for i, one in enumerate(known) if np.array_equal(one, row)) for row in drawn.numpy()]
    assert set(seen) == set(range(8))
    assert SQUARE.eq(SQUARE[0]).all()  # the batch itself is unchanged


def test_crops_are_parts_of_the_image_and_half_of_them_mirrored() -> None:
    ramp = torch.linspace(0, 255, 96).repeat(96, 1)[None, :, :, None].repeat(64, 1, 1, 3).round().to(torch.uint8)
    drawn = random_crops(ramp, 0.5, generator())
    assert drawn.shape == ramp.shape
    assert drawn.min() >= 0
    assert drawn.max() <= 255
    rising = (drawn[:, 48, 90, 0] - drawn[:, 48, 5, 0]) > 0
    assert 16 <= int(rising.sum()) <= 48
    width = (drawn[:, 48, 95, 0] - drawn[:, 48, 0, 0]).abs() / 255  # how much of the ramp is seen
    assert 0.55 < width.min() < width.max() <= 1.0
    assert not random_crops(SQUARE, 1.0, generator())[0].equal(random_crops(SQUARE, 0.5, generator())[0])


def test_colours_change_by_no_more_than_their_strength() -> None:
    flat = torch.full((64, 8, 8, 3), 100.0)
    brightness = jitter_colours(flat, 0.3, generator())[:, 0, 0, 0]
    assert 70 <= brightness.min() < 80
    assert 120 < brightness.max() <= 130
    assert torch.equal(jitter_colours(flat, 0.0, generator()), flat)


@pytest.mark.parametrize("name", ["flip", "dihedral", "crop", "crop_colour"])
def test_a_policy_draws_batches_repeatably_from_the_generator_alone(name: str) -> None:
    first, again, other = (BUILT_IN[name].draw_batch(SQUARE, generator(seed)) for seed in (1, 1, 2))
    assert first.shape == SQUARE.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_policy_may_draw_single_images_only() -> None:
    assert BUILT_IN["trivial"].draw_batch(SQUARE, generator()) is None
