"""A server of a small model, which all tests of this room ask."""

import pytest
from fastapi.testclient import TestClient

from autotl.engines import probe
from autotl.model.image_model import ImageModel
from autotl.model.member import Member
from autotl.recipe import Recipe
from autotl.server.app import ModelServer, create_app
from autotl.server.settings import ServerSettings

SETTINGS = ServerSettings(max_bytes=4_000_000, max_pixels=4_000_000, max_images=8, allow_urls=False)


@pytest.fixture(scope="session")
def kept():
    return {}


@pytest.fixture
def model(task, tiny, patches, registry, kept, monkeypatch):
    """A linear classifier on a frozen network."""
    monkeypatch.setattr(probe, "native_precision", lambda device: "fp32")
    if "model" not in kept:
        backbone, strategy = tiny("test_resnet"), registry.strategy("fast_extraction")
        problem = task(backbone, "linear")
        params = strategy.defaults(problem.head)
        recipe = Recipe(backbone.name, strategy.name, "linear", 3, params, problem.head.defaults())
        fitted = strategy.fit(recipe, problem, "cpu", lambda fraction, score: None).fitted
        member = Member(recipe, fitted, backbone.digest, 3)
        kept["model"] = ImageModel(
            patches[0].classes, [member], {backbone.digest: backbone}, registry=registry, threads=2, in_fp32=True
        )
    return kept["model"]


@pytest.fixture
def server(model, kept):
    if "server" not in kept:
        kept["server"] = ModelServer(model, "patches", SETTINGS)
    return kept["server"]


@pytest.fixture
def client(server):
    """Asks the server without a socket. The lifespan is left out: it would end the server's threads."""
    return TestClient(create_app(server), base_url="http://localhost")
