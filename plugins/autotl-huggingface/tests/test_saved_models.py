"""A saved model on an image tower needs neither its folder nor the hub, and is built to the size of its file only."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from autotl.errors import AutotlError
from autotl.model.image_model import ImageModel, load
from autotl.model.manifest import write_manifest
from autotl.model.member import Member
from autotl.recipe import Recipe
from autotl.registry import load_registry
from autotl.strategies.base import Fitted

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
PIXELS = np.arange(40 * 40 * 3, dtype=np.uint32).reshape(40, 40, 3).astype(np.uint8)


@pytest.fixture(scope="module")
def registry() -> Any:
    return load_registry(without=["engines.openvino"])


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory, registry: Any) -> tuple[Path, np.ndarray]:
    """A model's folder, whose tower is gone, and its probabilities of PIXELS."""
    place = tmp_path_factory.mktemp("tower")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.ViTModel(transformers.ViTConfig(**TOWER), add_pooling_layer=False).save_pretrained(place / "vit")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(place / "vit")
    backbone, head = registry.backbone(f"hf:{place / 'vit'}"), registry.head("linear")
    recipe = Recipe(backbone.name, "fast_extraction", "linear", 1, {}, head.defaults())
    member = Member(recipe, Fitted("last", head.build(head.defaults(), 32, 2, 0)), backbone.digest, 2, trial=0)
    model = ImageModel(("a", "b"), [member], {backbone.digest: backbone}, registry=registry)
    folder = model.save(place / "model")
    probabilities = model.predict_proba(PIXELS)
    shutil.rmtree(place / "vit")
    return folder, probabilities


def test_a_model_needs_its_towers_folder_no_more(valid: tuple[Path, np.ndarray], registry: Any) -> None:
    folder, probabilities = valid
    np.testing.assert_allclose(load(folder, "cpu", registry).predict_proba(PIXELS), probabilities, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_hidden_layers": 10**9}, r"num_hidden_layers = 1000000000 is no number of a network"),
        ({"num_hidden_layers": 100_000}, r"larger than the file with its weights"),
        ({"num_hidden_layers": 3}, r"its tensors have other names or shapes"),
        ({"hidden_size": 999_936}, r"doesn't hold the weights"),
        ({"hidden_size": "wide"}, r"transformers can't read|doesn't hold the weights|doesn't describe a network"),
        ({"patch_size": 0}, r"doesn't hold the weights"),
        ({"model_type": "bert"}, r"is a 'bert', and autotl-huggingface supports"),
        ({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}, r"transformers can't read"),
    ],
)
def test_a_hostile_configuration_is_refused(
    values: dict[str, Any], message: str, valid: tuple[Path, np.ndarray], registry: Any, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(valid[0], tmp_path / "model"))
    config = next(folder.glob("backbones/*/config.json"))
    config.write_text(json.dumps(json.loads(config.read_text()) | values))
    page = json.loads((folder / "model.json").read_text())
    del page["digest"]
    page["files"][str(config.relative_to(folder))] = hashlib.sha256(config.read_bytes()).hexdigest()
    write_manifest(folder / "model.json", page)  # a stranger makes the digests fit
    with pytest.raises(AutotlError, match=message):
        load(folder, "cpu", registry).predict_proba(PIXELS)
