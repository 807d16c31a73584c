"""Tiny models to export, of members of every kind."""

import pytest

from autotl.engines import probe
from autotl.model.image_model import ImageModel
from autotl.model.member import Member
from autotl.recipe import Recipe


@pytest.fixture(autouse=True)
def fp32(monkeypatch):
    monkeypatch.setattr(probe, "native_precision", lambda device: "fp32")


@pytest.fixture(scope="session")
def kept():
    return {}


@pytest.fixture
def model_of(task, tiny, patches, registry, kept):
    """`model_of((backbone, strategy, head, params), …)`: a model of members that are trained once for all tests."""

    def train(name, strategy, head, params):
        backbone, implementation = tiny(name), registry.strategy(strategy)
        problem = task(backbone, head)
        params = {**implementation.defaults(problem.head), **params}
        recipe = Recipe(backbone.name, strategy, head, 3, params, problem.head.defaults())
        result = implementation.fit(recipe, problem, "cpu", lambda fraction, score: None)
        return Member(result.recipe, result.fitted, backbone.digest, 3, trial=len(kept))

    def make(*specs):
        members, backbones = [], {}
        for name, strategy, head, params in specs:
            key = (name, strategy, head, *params.items())
            kept.setdefault(key, None)
            kept[key] = kept[key] or train(name, strategy, head, params)
            members.append(kept[key])
            backbones[kept[key].backbone_digest] = tiny(name)
        return ImageModel(patches[0].classes, members, backbones, registry=registry, threads=1)

    return make


@pytest.fixture
def images(patches):
    dataset, split = patches
    return [dataset.paths[i] for i in split.test]
