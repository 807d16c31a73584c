"""An export answers as the model does, for every strategy and head, and is not kept where it doesn't."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import autotl
from autotl.data.augmentation import ORIGINAL
from autotl.errors import AutotlError, UnknownName
from autotl.exports import timm as timm_format
from autotl.exports.base import Exporter
from autotl.exports.graph import model_graph
from autotl.exports.loss import answers, folder_size
from autotl.exports.onnx import OnnxExporter
from autotl.exports.openvino import OpenVinoExporter
from autotl.exports.timm import TimmExporter
from autotl.heads.modules import head_module
from autotl.model.doubt import Doubt, fit_familiar
from autotl.model.export_loss import choose_images
from autotl.model.exporting import export_model
from autotl.testing.problem import separable_problem, trained

FROZEN = ("test_resnet", "fast_extraction", "logistic_regression", {"levels": "last"})
VIEWS = ("test_resnet", "extract_augment", "rbf_svm", {"policy": "flip", "views": 1, "tta": True})
TUNED = ("test_vit", "fine_tuning", "linear", {"unfrozen_blocks": 1, "epochs": 1})
BOOSTED = ("test_resnet", "fast_extraction", "hist_gradient_boosting", {"levels": "last"})
TREES = ("test_resnet", "fast_extraction", "random_forest", {"levels": "stages"})


def doubting(model, images):
    """The model with held-out answers, and the features of some of the images to tell unknown ones by."""
    rows = []

    def record(network, features):
        if network.frozen_digest:
            rows.append(features[ORIGINAL][:, : network.layout.output])
            digests.append(network.frozen_digest)
        return []

    digests = []
    held_out = np.stack([row for _, row in replace(model).stream(images, many=False, measure=record)])
    familiar = fit_familiar(np.concatenate(rows)[::2], np.arange((len(images) + 1) // 2))
    return replace(model, doubt=Doubt.of(held_out, held_out.argmax(1), familiar, digests[0]))


def labelled(images):
    return [(path, path.stem.partition("-")[0]) for path in images]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("exporter", "members"),
    [(OnnxExporter(), (FROZEN, BOOSTED)), (OpenVinoExporter(), (FROZEN, VIEWS, TUNED, TREES))],
    ids=["onnx", "openvino"],
)
def test_an_export_answers_as_the_model_does(exporter, members, model_of, images, tmp_path):
    model = doubting(model_of(*members), images)
    exported = export_model(model, exporter, tmp_path / "out", labelled(images), "patches")
    assert exported.check.equal == exported.check.images == len(images)
    assert {"labels.txt", "example.py", "README.md", "doubt.json"} < set(exported.files)
    run = exporter.load(exported.folder)
    likeness = exporter.load_likeness(exported.folder)
    pixels = [np.array(Image.open(path).convert("RGB"))[None] for path in images[:8]]
    usual = [decision.likeness for decision in replace(model, in_fp32=True).decide([p[0] for p in pixels])]
    np.testing.assert_allclose([likeness(p)[0] for p in pixels], usual, atol=0.03)
    assert len(set(usual)) > 1
    thresholds = json.loads((exported.folder / "doubt.json").read_text())
    assert thresholds == json.loads(json.dumps(model.doubt.thresholds()))
    assert "unknown_at" in (exported.folder / "README.md").read_text()
    exact = replace(model, in_fp32=True)
    for size in ((640, 480), (17, 300), (96, 96)):
        odd = np.array(Image.open(images[0]).resize(size))
        np.testing.assert_allclose(run(odd[None]), exact.predict_proba(odd), atol=1e-3)
    deep = tmp_path / "deep.png"  # which Pillow alone would turn white
    Image.fromarray(100 + 9 * np.array(Image.open(images[0]).convert("L")).astype(np.uint16)).save(deep)
    given = [*images[:3], deep]
    done = subprocess.run(
        [sys.executable, "-I", str(exported.folder / "example.py"), *map(str, given)],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.rsplit(" ", 2) for line in done.stdout.splitlines()]
    assert [(path, label) for path, label, _ in lines] == list(zip(map(str, given), exact.predict(given), strict=True))
    assert [float(p) for *_, p in lines] == pytest.approx(exact.predict_proba(given).max(1), abs=2e-3)

    if isinstance(exporter, OnnxExporter):
        pixels = [np.array(Image.open(path).convert("RGB")) for path in images]
        for precision in ("fp16", "int8"):
            fewer = tmp_path / precision
            fewer.mkdir()
            exporter.compress(exported.folder, fewer, precision, pixels)
            assert folder_size(fewer) < folder_size(exported.folder)
            seen = answers((run, exporter.load(fewer)), pixels).probabilities
            np.testing.assert_allclose(*seen, atol=0.01 if precision == "fp16" else 0.2)
            assert (seen[0] != seen[1]).any()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_loss_of_fewer_bits_is_measured_and_in_the_card(precision, model_of, images, tmp_path):
    model = model_of(FROZEN)
    exported = export_model(
        model, OpenVinoExporter(), tmp_path / "out", labelled(images), "patches", precision=precision, max_changed=0.5
    )
    loss = exported.loss
    assert loss.size[1] < 0.8 * loss.size[0]
    assert loss.largest > 0
    assert loss.labelled == loss.images == (len(images) + 1) // 2
    assert f"| | fp32 | {precision} |" in (exported.folder / "README.md").read_text()
    assert "| accuracy | " in (exported.folder / "README.md").read_text()


class Coarse(Exporter):
    """Answers well in fp32, and always the first class in int8."""

    name = "coarse"
    precisions = ("fp32", "int8")

    def export(self, model, folder):
        self.graph = model_graph(model)

    def compress(self, exact, folder, precision, images):
        (folder / "model.bin").write_bytes(b"")

    def load(self, folder):
        if any(folder.iterdir()):
            return lambda images: np.eye(3)[[0]]
        return lambda images: self.graph(torch.from_numpy(images)).detach().numpy()

    def example(self, model, folder):
        return ""


class Stepping(Coarse):
    """Answers otherwise for some pictures, and for nothing else."""

    def __init__(self, pictures):
        self.pictures = {picture.tobytes() for picture in pictures}

    def load(self, folder):
        run = super().load(folder)
        return lambda images: run(images) + (np.array([[0.01, -0.01, 0]]) if images.tobytes() in self.pictures else 0)


def test_images_where_rounding_decides_are_told_and_many_are_refused(model_of, images, tmp_path):
    model, target, images = model_of(FROZEN), tmp_path / "stepping", images[:5]
    pictures = [np.array(Image.open(path).convert("RGB")) for path in images]
    kept = export_model(model, Stepping(pictures[:2]), target, labelled(images), "patches")
    assert (kept.check.at_steps, kept.check.images) == (2, len(images))
    assert "Left out of that are 2 images where rounding decides" in (target / "README.md").read_text()
    with pytest.raises(AutotlError, match="coarse isn't kept"):
        export_model(model, Stepping(pictures[:3]), target, labelled(images), "patches")


@pytest.mark.slow
def test_fewer_bits_that_change_too_many_answers_are_refused_unless_asked_for(model_of, images, tmp_path):
    model, target = model_of(FROZEN), tmp_path / "exports" / "coarse"
    with pytest.raises(AutotlError, match=r"coarse in int8 isn't kept: of \d+ images .* --max-changed \d+%"):
        export_model(model, Coarse(), target, labelled(images), "patches", precision="int8")
    assert not list(tmp_path.rglob("*coarse*"))
    kept = export_model(model, Coarse(), target, labelled(images), "patches", precision="int8", max_changed=0.99)
    assert kept.loss.changed > 0
    with pytest.raises(AutotlError, match=r"timm is written in fp32, not in 'int8'\. Type --to onnx"):
        export_model(model, TimmExporter(), target, labelled(images), "patches", precision="int8")


def test_images_that_trained_the_model_calibrate_and_others_measure(model_of, images):
    from autotl.data.digests import digest_file

    trained = images[::2]
    model = replace(model_of(FROZEN), trained_on=frozenset(map(digest_file, trained)))
    seen = choose_images(model, labelled(images), ())
    assert (len(seen.calibration), len(seen.measured)) == (len(trained), len(images) - len(trained))
    assert seen.held_out
    assert seen.labels == [model.classes.index(name) for _, name in labelled(images)[1::2]]
    alone = choose_images(model, labelled(trained), ())
    assert not alone.held_out
    assert len(alone.calibration) + len(alone.measured) == len(trained)


@pytest.mark.slow
def test_timm_reads_a_fine_tuned_network_with_its_linear_head(model_of, images, tmp_path):
    model = model_of(TUNED)
    exported = export_model(model, TimmExporter(), tmp_path / "out", labelled(images), "patches")
    assert exported.check.largest <= TimmExporter.tolerance
    assert {"config.json", "model.safetensors"} < set(exported.files)


def test_other_heads_are_left_out_of_timms_folder(model_of, images, tmp_path):
    import timm

    exported = export_model(model_of(TREES), TimmExporter(), tmp_path / "out", labelled(images), "patches")
    assert exported.check is None
    assert exported.notes
    network = timm.create_model(f"local-dir:{exported.folder}", pretrained=True)
    assert network.num_classes == 0


def test_a_head_beside_a_class_without_images_is_not_taken_for_a_linear_one(registry):
    features, labels = separable_problem(2, 40)
    for name, is_linear in (("logistic_regression", True), ("rbf_svm", False)):
        head = registry.heads[name]
        fitted = trained(head, head.defaults(), features, labels, 3)
        assert (timm_format._as_linear(head_module(fitted, 3), 48, 1.0) is not None) == is_linear


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
        export_model(model_of(FROZEN), Broken(), tmp_path / "exports" / "broken", labelled(images), "patches")
    assert not list(tmp_path.rglob("*broken*"))


@pytest.mark.slow
def test_random_views_are_exported_only_without_them(model_of, images, tmp_path):
    model = model_of(("test_resnet", "extract_augment", "linear", {"policy": "crop", "views": 1, "tta": True}))
    with pytest.raises(AutotlError, match=r"averages over 2 views .*--no-tta"):
        export_model(model, OpenVinoExporter(), tmp_path / "out", labelled(images), "patches")
    assert export_model(model, OpenVinoExporter(), tmp_path / "out", labelled(images), "patches", tta=False).check


def test_a_folder_that_is_no_export_is_not_replaced(model_of, images, tmp_path):
    (tmp_path / "photo.txt").write_text("mine")
    with pytest.raises(AutotlError, match="is not an export of autotl"):
        export_model(model_of(FROZEN), Broken(), tmp_path, labelled(images), "patches")


@pytest.mark.slow
def test_a_model_without_its_study_asks_for_images(model_of, tmp_path):
    folder = model_of(FROZEN).save(tmp_path / "model")
    with pytest.raises(AutotlError, match="--check FOLDER"):
        autotl.export(folder, "torch")
    with pytest.raises(UnknownName, match=r"no exporter named 'onyx'\. Did you mean 'onnx'"):
        autotl.export(folder, "onyx")
