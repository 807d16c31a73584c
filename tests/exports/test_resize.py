"""Resizing in a graph gives the pixels of `preprocess`, for any size of image."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from autotl.backbones.base import Preprocessing
from autotl.data.preprocessing import preprocess
from autotl.engines.openvino import load_openvino
from autotl.errors import AutotlError
from autotl.exports.resize import Resize

GREY = (0.5, 0.5, 0.5)
SIZES = [(300, 300), (97, 333), (224, 256), (1, 1), (1, 700), (40, 900), (3, 2), (900, 700)]


def prepared_otherwise(size, crop, interpolation, squash=False):
    return Preprocessing(size, crop, interpolation, GREY, GREY, squash)


@pytest.mark.parametrize(
    "preprocessing",
    [
        prepared_otherwise(160, 0.875, "bicubic"),
        prepared_otherwise(96, 1.0, "bilinear"),
        prepared_otherwise(64, 0.9, "bicubic", squash=True),
        prepared_otherwise(64, 1.2, "bilinear"),  # with a black border
        prepared_otherwise(96, 0.95, "lanczos"),
    ],
    ids=lambda p: f"{p.size}-{p.crop}-{p.interpolation}",
)
@pytest.mark.parametrize("in_float32", [False, True], ids=["float64", "float32"])
def test_pixels_are_those_of_the_preprocessing(preprocessing, in_float32):
    resize = Resize(preprocessing, in_float32=in_float32)
    for height, width in SIZES:
        image = np.array(Image.fromarray(data.astronaut()).resize((width, height)))
        expected = preprocess(image, preprocessing).astype(int)
        pixels = resize(torch.from_numpy(image)[None])[0].numpy()
        differences = np.abs(pixels - expected)
        assert differences.max() <= 1, (height, width)
        assert (differences > 0).mean() < 1e-3, (height, width)


@pytest.mark.parametrize("in_float32", [False, True], ids=["float64", "float32"])
def test_weights_that_end_in_one_half_are_rounded_as_in_float64(in_float32):
    """From 400 to 256 pixels one weight in fifty does: in float32 a tenth of a per cent of the pixels would differ."""
    preprocessing = prepared_otherwise(224, 0.875, "bicubic")
    image = np.array(Image.fromarray(data.astronaut()).resize((400, 534)))
    pixels = Resize(preprocessing, in_float32=in_float32)(torch.from_numpy(image)[None])[0].numpy()
    assert (pixels != preprocess(image, preprocessing)).mean() < 1e-5


@pytest.mark.parametrize("size", [(224, 243), (711, 400)])
@pytest.mark.parametrize("in_float32", [False, True], ids=["float64", "float32"])
def test_weights_have_more_bits_than_float32(size, in_float32):
    """In plain float32 some weights would be rounded otherwise, and some pixels of these sizes differ."""
    preprocessing = prepared_otherwise(224, 0.875, "bicubic")
    image = np.array(Image.fromarray(data.astronaut()).resize(size))
    pixels = Resize(preprocessing, in_float32=in_float32)(torch.from_numpy(image)[None])[0].numpy()
    assert np.array_equal(pixels, preprocess(image, preprocessing))


def test_openvino_resizes_to_the_same_pixels():
    """It converts float64 to float32, and fuses operations of a graph."""
    openvino = load_openvino()
    preprocessing = prepared_otherwise(224, 0.875, "bicubic")
    resize = Resize(preprocessing, in_float32=True)
    example = torch.zeros(1, 97, 131, 3, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        converted = openvino.convert_model(resize, example_input=example, input=[-1, -1, -1, 3])
    compiled = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for size in ((224, 243), (711, 400), (400, 534), (40, 900), (3, 2)):
        image = np.array(Image.fromarray(data.astronaut()).resize(size))
        assert np.array_equal(compiled(image[None])[0][0], preprocess(image, preprocessing)), size


def test_the_nearest_pixel_is_refused():
    with pytest.raises(AutotlError, match="Images are resized by 'nearest'"):
        Resize(prepared_otherwise(64, 1.0, "nearest"))
