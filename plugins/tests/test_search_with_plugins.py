"""One search on real images with the six plugins of this folder installed together."""

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
    """A few cells with certain labels, to train and to test."""

    def images(self, location):
        counts = (("train", 45), ("test", 15))
        left = {(label, subset): n for label in ("functional", "defective") for subset, n in counts}
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
    """A data set of a plugin based on autotl-elpv, installed as by pip, so that worker processes find it too."""
    site = tmp_path / "site"
    (site / "few_cells-1.0.dist-info").mkdir(parents=True)
    (site / "few_cells.py").write_text(FEW_CELLS)
    (site / "few_cells-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: few_cells\nVersion: 1.0\n")
    (site / "few_cells-1.0.dist-info" / "entry_points.txt").write_text("[autotl]\nfew_cells = few_cells\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    return "few_cells"


@pytest.mark.slow
def test_a_search_uses_components_of_four_plugins(few_cells: str, tmp_path: Path) -> None:
    """Data set, two backbones and a head. Tests download nothing, so the torchvision weights are random."""
    torch.manual_seed(0)
    weights = tmp_path / "resnet18.safetensors"
    save_file(TorchvisionBackbone("torchvision:resnet18").build(pretrained=False).state_dict(), weights)
    backbones = ["efficientnet_lite0", f"torchvision:resnet18@{weights}"]
    result = autotl.search(
        few_cells,
        output=tmp_path / "studies",
        cache=tmp_path / "cache",
        backbones=backbones,
        heads=["xgboost"],
        strategies=["fast_extraction"],
        engine="torch",  # it converts nothing
        devices="cpu*1",
        joined=1,
        trials=2,  # one with each backbone
    )
    trials = result.result["trials"]
    assert (trials["failed"], sum(trials.values())) == (0, 2)
    assert result.result["images"] == {"train": 72, "validation": 18, "test": 30, "skipped": 0}
    assert set(result.result["versions"]) >= ALL
    with (result.folder / "leaderboard.csv").open() as file:
        assert {row["backbone"] for row in csv.DictReader(file)} == set(backbones)
    assert result.result["test"]["accuracy"] >= 0.7  # the majority has 0.5
    suffixes = {path.suffix for path in (result.folder / "model").rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".safetensors", ".skops", ".digests", ".md"}
    cells = load_registry().datasets[few_cells].images(few_cells)
    assert set(autotl.load(result.folder / "model").predict([cell.path for cell in cells[:4]])) <= {
        "functional",
        "defective",
    }
