"""Whether an engine's features are the backbone's."""

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


def test_an_engine_that_sees_other_channels_is_refused():
    assert engine_cosine(lambda images: run(images[..., ::-1].copy()), Network(), IMAGES) < MIN_COSINE


def test_an_engine_that_returns_what_is_not_a_number_is_refused():
    assert engine_cosine(lambda images: run(images) * np.nan, Network(), IMAGES) == 0


def test_an_engine_that_returns_another_shape_is_refused():
    assert engine_cosine(lambda images: run(images)[:, :5], Network(), IMAGES) == 0


def test_rows_of_zeros_are_equal_to_themselves():
    assert mean_cosine(np.zeros((2, 3)), np.zeros((2, 3))) == 1
