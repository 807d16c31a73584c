"""Fitted members and models of tiny networks, shared by the tests of this room."""

import pytest

from autotl.engines import probe
from autotl.model.image_model import ImageModel
from autotl.model.member import Member
from autotl.recipe import Recipe
from autotl.registry import load_registry
from autotl.trial.folds import calibrated


@pytest.fixture(autouse=True)
def fp32(monkeypatch):
    """Trial and model compute in fp32 on every CPU, so that their results can be compared."""
    monkeypatch.setattr(probe, "native_precision", lambda device: "fp32")


@pytest.fixture(scope="module")
def torch_only():
    return load_registry(without=["engines.openvino"])


@pytest.fixture(scope="module")
def kept():
    return {}


@pytest.fixture
def fitted(task, torch_only, kept):
    """`fitted(backbone, strategy, head, **params)`: a member, and its validation probabilities."""

    def fit(backbone, strategy, head, **params):
        key = (backbone.digest, strategy, head, *params.items())
        if key not in kept:
            kept[key] = train(backbone, strategy, head, params)
        return kept[key]

    def train(backbone, strategy, head, params):
        problem, implementation = task(backbone, head), torch_only.strategy(strategy)
        params = {**implementation.defaults(problem.head), **params}
        recipe = Recipe(backbone.name, strategy, head, 3, params, problem.head.defaults())
        result = implementation.fit(recipe, problem, "cpu", lambda fraction, score: None)
        result.probabilities, result.fitted.temperature = calibrated(result.probabilities, problem.validation_labels)
        return Member(result.recipe, result.fitted, backbone.digest, 3, trial=7), result.probabilities

    return fit


@pytest.fixture
def make(patches, torch_only):
    """`make(backbone, *members)`: a model of these members."""

    def make(backbone, *members):
        backbones = {backbone.digest: backbone}
        return ImageModel(patches[0].classes, list(members), backbones, registry=torch_only, threads=1)

    return make


@pytest.fixture
def validation(patches):
    dataset, split = patches
    return [dataset.paths[i] for i in split.validation]


@pytest.fixture
def frozen(tiny, fitted, make):
    """A model of a frozen backbone with a linear head."""
    backbone = tiny("test_resnet")
    return make(backbone, fitted(backbone, "fast_extraction", "linear")[0])


@pytest.fixture
def folder(frozen, tmp_path):
    """The folder of the model `frozen`."""
    return frozen.save(tmp_path / "model")
