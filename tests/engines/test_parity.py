"""An engine's features are compared with PyTorch's in fp32."""

import numpy as np
import pytest

from autotl.engines.parity import MIN_COSINE, engine_cosine, mean_cosine

torch = pytest.importorskip("torch")
data = pytest.importorskip("skimage.data")

IMAGES = np.stack([data.astronaut()[i : i + 64, i : i + 64] for i in (0, 100, 200, 300)])


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 5, 4), torch.nn.ReLU(), torch.nn.Flatten())
        self.eval()

    def forward(self, images):
        return self.layers(images.permute(0, 3, 1, 2).float() / 255)


def run(images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return Network()(torch.from_numpy(images)).numpy()


def test_an_engine_that_computes_the_same_has_cosine_one():
    assert engine_cosine(run, Network(), IMAGES) == pytest.approx(1)


def test_an_engine_that_swaps_channels_is_below_the_minimum():
    assert engine_cosine(lambda images: run(images[..., ::-1].copy()), Network(), IMAGES) < MIN_COSINE


def test_features_that_are_nan_have_cosine_zero():
    assert engine_cosine(lambda images: run(images) * np.nan, Network(), IMAGES) == 0


def test_features_of_another_shape_have_cosine_zero():
    assert engine_cosine(lambda images: run(images)[:, :5], Network(), IMAGES) == 0


def test_features_of_zeros_have_cosine_one():
    assert mean_cosine(np.zeros((2, 3)), np.zeros((2, 3))) == 1
