"""`autotl predict` uses the user's own export of a model, and nothing else that lies beside it."""

import subprocess
import sys

import numpy as np
import pytest

import autotl
from autotl.backbones.weights import file_digest
from autotl.errors import AutotlError
from autotl.exports.base import Exporter
from autotl.model import exporting
from autotl.model.exported_classifier import find_export, remember_export
from autotl.model.exporting import _parts, write_quick_graph


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


@pytest.fixture
def quick(monkeypatch, tmp_path, torch_only, frozen):
    """A registry whose exporter of graphs costs nothing, and `differs`, which makes it wrong."""
    monkeypatch.setenv("AUTOTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(exporting, "GRAPH", "constant")
    monkeypatch.setattr(exporting, "find_spec", lambda name: True)
    answers = {}

    class Recalled(Constant):
        def load(self, folder):
            return lambda images: frozen.predict_proba(list(images)) + answers.get("error", 0.0)

    exporter = Recalled()
    monkeypatch.setitem(torch_only.exporters, "constant", exporter)
    return answers


def test_a_search_leaves_a_graph_in_the_cache_that_predict_finds(folder, frozen, quick, validation, torch_only):
    assert write_quick_graph(frozen, folder, validation[:3])
    found = find_export(folder, torch_only.exporters)
    ((_, row),) = found.stream(validation[:1], lambda path, reason: None)
    np.testing.assert_allclose(row, frozen.predict_proba(validation[:1])[0], atol=1e-3)


def test_a_graph_that_differs_is_not_left(folder, frozen, quick, validation, torch_only, tmp_path):
    quick["error"] = np.array([0.01, 0.0, 0.0])
    with pytest.raises(AutotlError, match="isn't kept"):
        write_quick_graph(frozen, folder, validation[:3])
    assert find_export(folder, torch_only.exporters) is None
    assert not list((tmp_path / "cache" / "graphs").iterdir())


def test_old_graphs_are_removed(folder, frozen, quick, validation, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "MAX_GRAPHS", 1)
    write_quick_graph(frozen, folder, validation[:1])
    frozen.about = {"study": "another"}
    other = frozen.save(tmp_path / "other")
    write_quick_graph(frozen, other, validation[:1])
    assert [path.name for path in (tmp_path / "cache" / "graphs").iterdir()] == [file_digest(other / "model.json")]


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
