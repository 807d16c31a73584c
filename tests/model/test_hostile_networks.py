"""Hostile configurations of a network in a model's folder: refused in words before anything large is built."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotl.backbones.timm import TimmBackbone
from autotl.errors import AutotlError
from autotl.model.image_model import ImageModel, load
from autotl.model.member import Member
from autotl.recipe import Recipe
from autotl.registry import load_registry
from autotl.strategies.base import Fitted

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no test folder
from forging import seal

NETWORKS: dict[str, tuple[dict[str, Any], str]] = {
    "sixty thousand blocks": ({"depth": 60_000}, r"larger than the file with its weights"),
    "a billion blocks": ({"depth": 10**9}, r"model_args\.depth = 1000000000 is no number of a network"),
    "a width of gigabytes": ({"embed_dim": 65_472}, r"larger than the file with its weights"),
    "a network of two blocks more": ({"depth": 8}, r"its tensors have other names or shapes"),
    "an unknown argument": ({"callback": "os.system"}, r"doesn't hold the weights of"),
    "a checkpoint elsewhere": ({"checkpoint_path": "/etc/passwd"}, r"checkpoint_path is not an argument of a network"),
    "weights elsewhere": ({"pretrained_cfg": {"file": "/etc/passwd"}}, r"pretrained_cfg is not an argument"),
    "a path as an option": ({"act_layer": "../../private"}, r"act_layer = '\.\./\.\./private' is not an option"),
    "an option that isn't there": ({"norm_layer": "os.system"}, r"doesn't hold the weights of"),
    "no heads": ({"num_heads": 0}, r"doesn't hold the weights of"),
    "nested without end": ({"a": [[[[[[[[[1]]]]]]]]]}, r"nested too deep"),
    "a number that isn't finite": ({"mlp_ratio": float("inf")}, r"is no number of a network"),
}


PREPROCESSING: dict[str, Any] = {
    "crop_pct": [1e-7, -1.0, "os.system", {"a": 1}],
    "input_size": [[3, 30_000, 30_000], [3, 64], "abc", 7, [3, 0, 0], [3, "a", "a"]],
    "std": [[0, 0, 0], [[], [], []], "abc", [1], 7],
    "mean": [["a", "b", "c"], [1e9, 0, 0], {"a": 1}],
    "interpolation": ["__class__", 7],
    "crop_mode": ["border", 7],
}


@pytest.fixture(scope="module")
def valid_local(tmp_path_factory) -> Path:
    """A valid model of a small transformer from a folder, with a linear head."""
    import timm
    import torch

    place = tmp_path_factory.mktemp("local")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("test_vit", num_classes=3)
    timm.models.save_for_hf(network, place / "network", model_config={"num_classes": 3})
    backbone, registry = TimmBackbone(f"local-dir:{place / 'network'}"), load_registry(without=["engines.openvino"])
    head = registry.head("linear")
    recipe = Recipe(backbone.name, "fast_extraction", "linear", 1, {}, head.defaults())
    fitted = Fitted("last", head.build(head.defaults(), network.num_features, 2, 0))
    member = Member(recipe, fitted, backbone.digest, 2, trial=0)
    return ImageModel(("a", "b"), [member], {backbone.digest: backbone}, registry=registry).save(place / "model")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_hostile_configuration_of_a_network_is_refused(name: str, valid_local: Path, tmp_path: Path) -> None:
    arguments, message = NETWORKS[name]
    model = Path(shutil.copytree(valid_local, tmp_path / "model"))
    config = next(model.glob("backbones/*/config.json"))
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_args": arguments}))
    seal(model)
    pixels = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(AutotlError, match=message):
        load(model, registry=load_registry(without=["engines.openvino"])).predict_proba(pixels)


@pytest.mark.parametrize("key", PREPROCESSING)
def test_a_configuration_of_hostile_preprocessing_is_refused(key: str, valid_local: Path, tmp_path: Path) -> None:
    registry = load_registry(without=["engines.openvino"])
    for number, value in enumerate(PREPROCESSING[key]):
        model = Path(shutil.copytree(valid_local, tmp_path / str(number)))
        config = next(model.glob("backbones/*/config.json"))
        content = json.loads(config.read_text())
        content["pretrained_cfg"][key] = value
        config.write_text(json.dumps(content))
        seal(model)
        with pytest.raises(AutotlError, match=r"config\.json|doesn't describe a network"):
            load(model, registry=registry)


def test_a_network_from_a_folder_needs_the_folder_no_more(valid_local: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(valid_local, tmp_path / "model"))
    (valid_local.parent / "network").rename(tmp_path / "moved")
    try:
        loaded = load(model, registry=load_registry(without=["engines.openvino"]))
        assert loaded.predict_proba(np.zeros((64, 64, 3), np.uint8)).shape == (1, 2)
    finally:
        (tmp_path / "moved").rename(valid_local.parent / "network")
