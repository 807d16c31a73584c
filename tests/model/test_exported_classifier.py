"""`autotl predict` uses the user's own export of a model, and nothing else that lies beside it."""

import subprocess
import sys

import numpy as np
import pytest

import autotl
from autotl.exports.base import Exporter
from autotl.model.exported_classifier import find_export, remember_export
from autotl.model.exporting import _parts


class Constant(Exporter):
    """Answers the same for every image."""

    name = "constant"

    def export(self, model, folder):
        (folder / "model.bin").write_bytes(b"answers")

    def load(self, folder):
        return lambda images: np.array([[0.1, 0.7, 0.2]])

    def example(self, model, folder):
        return ""


@pytest.fixture
def remembered(folder, frozen, torch_only, tmp_path, monkeypatch):
    """The folder of an export of the model in `folder`."""
    monkeypatch.setenv("AUTOTL_CACHE", str(tmp_path / "cache"))
    export = tmp_path / "export"
    export.mkdir()
    exported = _parts(frozen, torch_only, "patches")
    Constant().export(exported, export)
    remember_export(folder, export, ["model.bin"], Constant(), exported)
    return export


def test_a_remembered_export_predicts(folder, remembered, validation, tmp_path):
    found = find_export(folder, {"constant": Constant()})
    assert found.classes == ("astronaut", "chelsea", "coffee")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    skipped = []
    rows = list(found.stream([validation[0], broken], lambda path, reason: skipped.append(path)))
    assert [(path, row.tolist()) for path, row in rows] == [(validation[0], [0.1, 0.7, 0.2])]
    assert skipped == [broken]


def test_a_changed_export_is_not_used(folder, remembered):
    (remembered / "model.bin").write_bytes(b"other answers")
    assert find_export(folder, {"constant": Constant()}) is None


def test_the_export_of_another_model_is_not_used(folder, remembered, frozen, tmp_path):
    frozen.about = {"study": "another"}
    assert find_export(frozen.save(tmp_path / "other"), {"constant": Constant()}) is None


@pytest.mark.slow
def test_predict_with_an_export_imports_no_torch(folder, validation, tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTL_CACHE", str(tmp_path / "cache"))
    autotl.export(folder, "openvino", check=validation)
    code = (
        "import sys\nfrom autotl.cli import app\n"
        f"app(['predict', {str(folder)!r}, {str(validation[0])!r}, '--device', 'cpu'], standalone_mode=False)\n"
        "print(*[name for name in ('torch', 'timm', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    line, imported = done.stdout.split("\n")[:2]
    assert line.startswith(f"{validation[0]}  ")
    assert imported == ""
