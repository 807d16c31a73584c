"""What plugins/README.md shows is complete: its plugins register and work, its table has every hook."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from autotl import hookspecs
from autotl.registry import Registry

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def code(language: str, holding: str) -> str:
    found = [block for block in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if holding in block]
    assert len(found) == 1
    return found[0]


def plugin(folder: Path, holding: str) -> ModuleType:
    """The module that the README shows, in a file of its own, as an installed one would be."""
    file = folder / "shown_plugin.py"
    file.write_text(code("python", holding))
    spec = importlib.util.spec_from_file_location("shown_plugin", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def registry_with(module: ModuleType) -> Registry:
    registry = Registry()
    registry.add("shown", module, "shown-plugin", "0.1.0")
    return registry


def test_the_backbone_with_weights_of_its_own_builds(tmp_path: Path) -> None:
    backbone = registry_with(plugin(tmp_path, "TimmBackbone(")).backbones["our_cells"]
    weights = timm.create_model("test_resnet", num_classes=4).state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    assert torch.equal(backbone.build().conv1[0].weight, weights["conv1.0.weight"])


def test_the_backbone_from_scratch_does_all_that_the_contract_asks(tmp_path: Path) -> None:
    backbone = registry_with(plugin(tmp_path, "class OurNetwork")).backbones["our_network"]
    before = backbone.offline
    save_file(backbone.build(pretrained=False).state_dict(), tmp_path / "weights.safetensors")
    module = backbone.build()
    assert (before, backbone.offline) == (False, True)
    assert [block.name for block in backbone.blocks(module)] == ["0", "1"]
    assert module(torch.rand(2, 3, backbone.preprocessing.size, backbone.preprocessing.size)).shape == (2, 32)
    assert len(backbone.digest) == 64


def test_the_head_classifies(tmp_path: Path) -> None:
    head = registry_with(plugin(tmp_path, "class NaiveBayes")).heads["naive_bayes"]
    rows = np.random.default_rng(0).normal(size=(40, 5)) + np.repeat([[0.0], [9.0]], 20, axis=0)
    labels = np.repeat([0, 1], 20)
    fitted = head.build(head.defaults(), n_features=5, n_classes=2, seed=0).fit(rows, labels)
    assert (fitted.predict(rows) == labels).all()


@pytest.mark.parametrize("holding", ["autotl_our_cells", "autotl_naive_bayes"])
def test_a_shown_project_file_names_its_entry_point(holding: str) -> None:
    project = tomllib.loads(code("toml", holding))["project"]
    assert list(project["entry-points"]["autotl"].values()) == [holding]


def test_the_table_has_every_hook_and_its_arguments() -> None:
    specs = {name: spec for name, spec in vars(hookspecs).items() if name.startswith("autotl_")}
    signatures = {f"{n}({', '.join(s.__code__.co_varnames[: s.__code__.co_argcount])})" for n, s in specs.items()}
    assert set(re.findall(r"^\| `(autotl_\w+\(.*?\))`", README, re.MULTILINE)) == signatures
