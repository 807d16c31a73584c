"""The six plugins of this folder, installed together, take part in one search on real images."""

import csv
import os
from pathlib import Path

import pytest
import torch
from autotl_torchvision import TorchvisionBackbone
from safetensors.torch import save_file

import autotl
from autotl.registry import load_registry

ALL = {
    "autotl-efficientnet-lite",
    "autotl-elpv",
    "autotl-gbdt",
    "autotl-huggingface",
    "autotl-mlflow",
    "autotl-torchvision",
}
FEW_CELLS = '''
import autotl
from autotl_elpv import Elpv, four_classes

class FewCells(Elpv):
    """Of the cells that the experts were sure of, a few to train on and a few to test."""

    def images(self, location):
        left = {(label, part): n for label in ("functional", "defective") for part, n in (("train", 45), ("test", 15))}
        chosen = []
        for image in super().images(location):
            if left.get((image.label, image.subset), 0):
                left[image.label, image.subset] -= 1
                chosen.append(image)
        return chosen

@autotl.hookimpl
def autotl_register_datasets(register):
    register(FewCells("few_cells", four_classes))
'''


@pytest.fixture
def few_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A data set of a plugin on top of autotl-elpv, installed the way pip would: worker processes find it too."""
    site = tmp_path / "site"
    (site / "few_cells-1.0.dist-info").mkdir(parents=True)
    (site / "few_cells.py").write_text(FEW_CELLS)
    (site / "few_cells-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: few_cells\nVersion: 1.0\n")
    (site / "few_cells-1.0.dist-info" / "entry_points.txt").write_text("[autotl]\nfew_cells = few_cells\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    return "few_cells"


def test_a_search_uses_a_part_of_the_first_four(few_cells: str, tmp_path: Path) -> None:
    """Their data set, a backbone of each, their head. There is no hub here: torchvision's weights are from a seed."""
    torch.manual_seed(0)
    weights = tmp_path / "resnet18.safetensors"
    save_file(TorchvisionBackbone("torchvision:resnet18").build(pretrained=False).state_dict(), weights)
    backbones = ["efficientnet_lite0", f"torchvision:resnet18@{weights}"]
    found = autotl.search(
        few_cells,
        output=tmp_path / "studies",
        cache=tmp_path / "cache",
        backbones=backbones,
        heads=["xgboost"],
        strategies=["fast_extraction"],
        engine="torch",  # nothing to convert
        devices="cpu*1",
        trials=3,  # a first one, then one with each backbone
    )
    assert found.result["trials"] == {"complete": 3, "pruned": 0, "failed": 0}
    assert found.result["images"] == {"train": 72, "validation": 18, "test": 30, "skipped": 0}
    assert set(found.result["versions"]) >= ALL
    with (found.folder / "leaderboard.csv").open() as file:
        assert {row["backbone"] for row in csv.DictReader(file)} == set(backbones)
    assert found.result["test"]["accuracy"] >= 0.7  # the majority has 0.5
    kinds = {path.suffix for path in (found.folder / "model").rglob("*") if path.is_file()}
    assert kinds <= {".json", ".safetensors", ".skops"}
    cells = load_registry().datasets[few_cells].images(few_cells)
    assert set(autotl.load(found.folder / "model").predict([cell.path for cell in cells[:4]])) <= {
        "functional",
        "defective",
    }
