"""An export answers as the model does, for every strategy and head, and is not kept where it doesn't."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import autotl
from autotl.errors import AutotlError, UnknownName
from autotl.exports.base import Exporter
from autotl.exports.onnx import OnnxExporter
from autotl.exports.openvino import OpenVinoExporter
from autotl.exports.timm import TimmExporter
from autotl.model.exporting import export_model

FROZEN = ("test_resnet", "fast_extraction", "logistic_regression", {"levels": "last"})
VIEWS = ("test_resnet", "extract_augment", "rbf_svm", {"policy": "flip", "views": 1, "tta": True})
TUNED = ("test_vit", "fine_tuning", "linear", {"unfrozen_blocks": 1, "epochs": 1})
BOOSTED = ("test_resnet", "fast_extraction", "hist_gradient_boosting", {"levels": "last"})
TREES = ("test_resnet", "fast_extraction", "random_forest", {"levels": "stages"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("exporter", "members"),
    [(OnnxExporter(), (BOOSTED,)), (OpenVinoExporter(), (FROZEN, VIEWS, TUNED, TREES))],
    ids=["onnx", "openvino"],
)
def test_an_export_answers_as_the_model_does(exporter, members, model_of, images, tmp_path):
    model = model_of(*members)
    exported = export_model(model, exporter, tmp_path / "out", images, "patches")
    assert exported.check.equal == exported.check.images == len(images)
    assert {"labels.txt", "example.py", "README.md"} < set(exported.files)
    run = exporter.load(exported.folder)
    exact = replace(model, in_fp32=True)
    for size in ((640, 480), (17, 300), (96, 96)):
        odd = np.array(Image.open(images[0]).resize(size))
        np.testing.assert_allclose(run(odd[None]), exact.predict_proba(odd), atol=1e-3)
    done = subprocess.run(
        [sys.executable, "-I", str(exported.folder / "example.py"), *map(str, images[:3])],
        capture_output=True,
        text=True,
        check=True,
    )
    expected = [f"{path} {label}" for path, label in zip(images[:3], exact.predict(images[:3]), strict=True)]
    assert [line.rpartition(" ")[0] for line in done.stdout.splitlines()] == expected


def test_timm_reads_a_fine_tuned_network_with_its_linear_head(model_of, images, tmp_path):
    model = model_of(TUNED)
    exported = export_model(model, TimmExporter(), tmp_path / "out", images, "patches")
    assert exported.check.largest <= TimmExporter.tolerance
    assert {"config.json", "model.safetensors"} < set(exported.files)


def test_other_heads_are_left_out_of_timms_folder(model_of, images, tmp_path):
    import timm

    exported = export_model(model_of(TREES), TimmExporter(), tmp_path / "out", images, "patches")
    assert exported.check is None
    assert exported.notes
    network = timm.create_model(f"local-dir:{exported.folder}", pretrained=True)
    assert network.num_classes == 0


class Broken(Exporter):
    """Answers at random."""

    name = "broken"

    def export(self, model, folder):
        (folder / "model.bin").write_bytes(b"")

    def load(self, folder):
        return lambda images: np.eye(3)[[1]]

    def example(self, model, folder):
        return ""


def test_an_export_that_disagrees_is_not_left(model_of, images, tmp_path):
    with pytest.raises(
        AutotlError, match=r"export to broken isn't kept: for .*\.png it answers 'chelsea' with 1\.0000"
    ):
        export_model(model_of(FROZEN), Broken(), tmp_path / "exports" / "broken", images, "patches")
    assert not list(tmp_path.rglob("*broken*"))


def test_random_views_are_exported_only_without_them(model_of, images, tmp_path):
    model = model_of(("test_resnet", "extract_augment", "linear", {"policy": "crop", "views": 1, "tta": True}))
    with pytest.raises(AutotlError, match=r"averages over 2 views .*--no-tta"):
        export_model(model, OpenVinoExporter(), tmp_path / "out", images, "patches")
    assert export_model(model, OpenVinoExporter(), tmp_path / "out", images, "patches", tta=False).check


def test_a_folder_that_is_no_export_is_not_replaced(model_of, images, tmp_path):
    (tmp_path / "photo.txt").write_text("mine")
    with pytest.raises(AutotlError, match="is not an export of autotl"):
        export_model(model_of(FROZEN), Broken(), tmp_path, images, "patches")


def test_a_model_without_its_study_asks_for_images(model_of, tmp_path):
    folder = model_of(FROZEN).save(tmp_path / "model")
    with pytest.raises(AutotlError, match="--check FOLDER"):
        autotl.export(folder, "torch")
    with pytest.raises(UnknownName, match=r"no exporter named 'onyx'\. Did you mean 'onnx'"):
        autotl.export(folder, "onyx")
