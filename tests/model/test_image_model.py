"""A model predicts what its trial predicted, for images of every form, from any folder."""

import io
import json
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autotl.backbones.timm import autotl_find_backbone
from autotl.data.decoding import UndecodableImage
from autotl.data.sandbox import SandboxedDecoder
from autotl.engines.openvino import OpenVinoEngine
from autotl.engines.torch import TorchEngine
from autotl.errors import AutotlError, InputError
from autotl.heads.inference import MISSING, probabilities
from autotl.model.image_model import load
from autotl.recipe import Recipe
from autotl.registry import Plugin, load_registry
from autotl.strategies.base import Fitted, Result
from autotl.trial.folds import calibrated

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no test folder
from forging import seal

TRIALS = [
    ("test_resnet", "fast_extraction", "linear", {"levels": "stages+max"}),
    ("test_vit", "fast_extraction", "logistic_regression", {"levels": "stages"}),
    ("test_resnet", "fast_extraction", "lda", {"levels": "last"}),
    ("test_resnet", "extract_augment", "rbf_svm", {}),
    ("test_resnet", "fine_tuning", "linear", {"lr": 1e-2, "freeze_bn": False, "epochs": 3}),
    ("test_vit", "fine_tuning", "mlp", {"unfrozen_blocks": 2, "epochs": 2}),
    ("test_convnext", "fine_tuning", "linear", {"unfrozen_blocks": 99, "epochs": 2}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "strategy", "head", "params"), TRIALS, ids=[f"{n} {s} {h}" for n, s, h, _ in TRIALS])
def test_a_saved_and_loaded_model_predicts_what_its_trial_predicted(
    name, strategy, head, params, tiny, fitted, make, validation, torch_only, tmp_path
):
    backbone = tiny(name)
    member, expected = fitted(backbone, strategy, head, **params)
    folder = make(backbone, member).save(tmp_path / "model")
    loaded = load(folder, registry=torch_only)
    np.testing.assert_allclose(loaded.predict_proba(validation), expected, atol=1e-3)
    assert {p.suffix for p in folder.rglob("*") if p.is_file()} <= {
        ".json",
        ".safetensors",
        ".skops",
        ".digests",
        ".md",
    }


@pytest.mark.parametrize("spread", [1, 30, 90])
def test_the_temperature_calibrates_the_logits_of_the_head(spread):
    """Also where all but one of its probabilities are almost zero."""
    rng = np.random.default_rng(0)
    logits, labels = spread * rng.standard_normal((40, 3)), rng.integers(3, size=40)
    result = Result(Recipe("a", "b", "c", 1), probabilities(logits, 1.0), Fitted("last", head=None))
    result.probabilities, result.fitted.temperature = calibrated(result.probabilities, labels)
    np.testing.assert_allclose(result.probabilities, probabilities(logits, result.fitted.temperature), atol=1e-9)


def test_a_class_without_training_images_has_probability_zero():
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((40, 3)), rng.integers(2, size=40)
    logits[:, 2] = MISSING
    result = Result(Recipe("a", "b", "c", 1), probabilities(logits, 1.0), Fitted("last", head=None))
    result.probabilities, result.fitted.temperature = calibrated(result.probabilities, labels)
    assert (result.probabilities[:, 2] == 0).all()


# forms of images


def test_paths_pil_images_and_arrays_give_the_same_probabilities(frozen, validation):
    pictures = [Image.open(path) for path in validation]
    arrays = [np.array(picture) for picture in pictures]
    expected = frozen.predict_proba(validation)
    stacked = np.stack(arrays)
    channels_first = torch.from_numpy(stacked).permute(0, 3, 1, 2)
    paths = np.array([str(path) for path in validation])
    forms = (paths.tolist(), paths, paths[:, None], iter(validation), np.array(validation, dtype=object))
    for images in (*forms, pictures, arrays, stacked, channels_first, list(channels_first)):
        assert np.array_equal(frozen.predict_proba(images), expected)


def test_a_stack_of_grey_images_has_a_prediction_for_each(frozen, validation):
    grey = np.stack([np.array(Image.open(path).convert("L")) for path in validation])
    assert np.array_equal(frozen.predict_proba(grey), frozen.predict_proba(list(grey)))


def test_an_array_that_is_not_an_image_is_an_error_with_its_position(frozen, validation):
    picture = np.array(Image.open(validation[0]))
    with pytest.raises(InputError, match=r"images\[1\]: .*from 0 to 1, not"):
        frozen.predict([picture, picture.astype(float)])
    with pytest.raises(InputError, match=r"images\[1\] is None"):
        frozen.predict([picture, None])


def test_a_single_path_is_no_stream(frozen, validation):
    with pytest.raises(InputError, match=r"paths is a single path"):
        next(frozen.stream(str(validation[0])))
    ((path, _),) = frozen.stream([str(validation[0])])
    assert path == validation[0]


def test_a_single_image_is_a_batch_of_one(frozen, validation):
    expected = frozen.predict_proba(validation[:1])
    content = validation[0].read_bytes()
    forms = (str(validation[0]), Image.open(validation[0]), np.array(Image.open(validation[0])), content)
    for image in (validation[0], *forms, bytearray(content), io.BytesIO(content), [validation[0].open("rb")]):
        assert np.array_equal(frozen.predict_proba(image), expected)


def test_no_images_give_an_empty_array(frozen):
    assert frozen.predict_proba([]).shape == (0, 3)
    assert frozen.predict([]).shape == (0,)


def test_predict_returns_the_most_probable_class(frozen, validation):
    rows = frozen.predict_proba(validation)
    assert frozen.predict(validation).tolist() == [frozen.classes[i] for i in rows.argmax(1)]


def test_a_broken_image_is_an_error_that_names_it(frozen, validation, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(UndecodableImage, match=r"broken\.png"):
        frozen.predict_proba([*validation, broken])
    with pytest.raises(UndecodableImage, match=r"images\[1\]: it isn't an image"):
        frozen.predict_proba([validation[0], b"no image"])


# streams


def test_a_stream_yields_the_paths_in_order_with_their_probabilities(frozen, validation):
    rows = dict(frozen.stream(iter(validation)))
    assert list(rows) == validation
    assert np.array_equal(np.stack(list(rows.values())), frozen.predict_proba(validation))


@pytest.mark.parametrize("times", [1, 2])
def test_a_stream_skips_a_broken_file_each_time(times, frozen, validation, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    skipped = []
    paths = [validation[0], *[broken] * times, validation[1]]
    streamed = list(frozen.stream(paths, lambda path, reason: skipped.append((path, reason))))
    assert [path for path, _ in streamed] == validation[:2]
    assert np.array_equal(np.stack([row for _, row in streamed]), frozen.predict_proba(validation[:2]))
    assert skipped == [(broken, skipped[0][1])] * times
    assert "isn't an image" in skipped[0][1]


def test_a_stream_without_on_skip_raises_for_a_broken_file(frozen, tmp_path):
    with pytest.raises(UndecodableImage):
        list(frozen.stream([tmp_path / "gone.png"]))


def test_a_stream_reads_few_paths_ahead(frozen, validation):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield validation[0]

    stream = frozen.stream(endless())
    next(stream)
    assert len(taken) <= 4 * 32
    stream.close()


# several members


@pytest.mark.slow
def test_members_are_averaged_by_weight(tiny, fitted, make, validation, tmp_path, torch_only):
    backbone = tiny("test_resnet")
    members = [
        fitted(backbone, "fast_extraction", "linear")[0],
        fitted(backbone, "fast_extraction", "logistic_regression", levels="stages")[0],
        fitted(backbone, "fine_tuning", "linear", epochs=1)[0],
    ]
    alone = [make(backbone, member).predict_proba(validation) for member in members]
    together = make(backbone, *(replace(m, weight=w) for m, w in zip(members, (0.5, 0.3, 0.2), strict=True)))
    expected = 0.5 * alone[0] + 0.3 * alone[1] + 0.2 * alone[2]
    np.testing.assert_allclose(together.predict_proba(validation), expected, atol=1e-6)
    loaded = load(together.save(tmp_path / "model"), registry=torch_only)
    np.testing.assert_allclose(loaded.predict_proba(validation), expected, atol=1e-6)


def test_members_of_one_frozen_backbone_share_a_network(tiny, fitted):
    backbone = tiny("test_resnet")
    one, two = (fitted(backbone, "fast_extraction", head)[0] for head in ("linear", "knn"))
    tuned = fitted(backbone, "fine_tuning", "linear", epochs=1)[0]
    assert one.network_keys == two.network_keys != tuned.network_keys


# the folder


def test_a_loaded_model_reads_no_weights_outside_of_its_folder(fitted, make, validation, tiny, tmp_path, torch_only):
    """Not even the file that its backbone came from."""
    weights = shutil.copy(tiny("test_resnet").file, tmp_path / "weights.safetensors")
    backbone = autotl_find_backbone(f"test_resnet@{weights}")
    member, expected = fitted(backbone, "fast_extraction", "linear")
    folder = make(backbone, member).save(tmp_path / "model")
    weights.unlink()
    loaded = load(folder, registry=torch_only)
    np.testing.assert_allclose(loaded.predict_proba(validation), expected, atol=1e-3)


def test_a_loaded_model_can_be_saved_to_another_folder(folder, validation, tmp_path, torch_only, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    first = load(folder, registry=torch_only)
    copy = first.save("~/copies/model")
    assert copy == tmp_path / "copies" / "model"
    expected = first.predict_proba(validation)
    shutil.rmtree(folder)
    assert np.array_equal(load("~/copies/model", registry=torch_only).predict_proba(validation), expected)


def test_saving_replaces_the_folder(frozen, folder, tmp_path):
    (folder / "stale.json").write_text("{}")
    frozen.save(folder)
    assert not (folder / "stale.json").exists()
    assert [p.name for p in tmp_path.iterdir() if "model" in p.name] == ["model"]


def test_the_folder_of_a_study_is_accepted(folder, torch_only):
    assert load(folder.parent, registry=torch_only).classes == ("astronaut", "chelsea", "coffee")


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    seal(file.parent if file.name == "model.json" else file.parents[2])


def test_another_format_is_an_error_that_names_the_version_that_wrote_it(folder, torch_only):
    edit(folder / "model.json", format=9, versions={"autotl": "9.1"})
    with pytest.raises(
        AutotlError, match=r"format 9, and this autotl reads format 4\. Use the autotl that wrote it: autotl 9\.1"
    ):
        load(folder, registry=torch_only)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 3}'])
def test_a_damaged_manifest_is_an_error(text, folder, torch_only):
    (folder / "model.json").write_text(text)
    with pytest.raises(AutotlError, match="model"):
        load(folder, registry=torch_only)


def test_a_folder_without_a_model_is_an_error(tmp_path, torch_only):
    with pytest.raises(AutotlError, match=r"not a model folder: it has no model\.json"):
        load(tmp_path, registry=torch_only)


MARTIAN = {"plugin": "mars", "distribution": "mars-parts", "version": "1.2"}


def test_an_unknown_backbone_is_an_error_that_names_its_plugin(folder, torch_only):
    manifest = folder / "model.json"
    used = json.loads(manifest.read_text())["backbones"][0] | {"name": "martian_net"}
    edit(manifest, backbones=[used], plugins=[MARTIAN | {"component": "backbone", "name": "martian_net"}])
    with pytest.raises(
        AutotlError, match=r"the backbone 'martian_net' of plugin 'mars' \(mars-parts 1\.2\), which isn't"
    ):
        load(folder, registry=torch_only)


@pytest.mark.parametrize(
    ("here", "why"),
    [
        (None, "which isn't installed, or is left out. Type: pip install mars-parts==1.2"),
        (Plugin("mars", "mars-parts", "1.2", broken="OSError: no air"), "which is disabled: OSError: no air"),
        (Plugin("mars", "mars-parts", "2.0"), "and the installed version 2.0 doesn't have it."),
    ],
)
def test_a_missing_head_of_a_plugin_is_an_error_that_says_what_is_installed(here, why, folder, torch_only, monkeypatch):
    edit(folder / "model.json", plugins=[MARTIAN | {"component": "head", "name": "martian"}])
    monkeypatch.setattr(torch_only, "plugins", [*torch_only.plugins, *([here] if here else [])])
    with pytest.raises(AutotlError, match=r"needs the head 'martian' of plugin 'mars' \(mars-parts 1\.2\)") as refused:
        load(folder, registry=torch_only)
    assert why in str(refused.value)


def test_an_unknown_head_is_an_error_that_names_it(folder, torch_only):
    manifest = folder / "members" / "0" / "member.json"
    edit(manifest, recipe=json.loads(manifest.read_text())["recipe"] | {"head": "martian"})
    with pytest.raises(AutotlError, match="no head named 'martian'"):
        load(folder, registry=torch_only)


@pytest.mark.parametrize(
    "lost", ["members/0/member.json", "members/0/head.safetensors", "members/0/backbone_state.safetensors"]
)
@pytest.mark.parametrize("damage", ["gone", "torn"])
def test_a_missing_or_damaged_file_of_a_member_is_an_error_that_names_it(
    lost, damage, tiny, fitted, make, tmp_path, torch_only
):
    backbone = tiny("test_resnet")
    folder = make(backbone, fitted(backbone, "fine_tuning", "linear", epochs=1)[0]).save(tmp_path / "model")
    part = folder / lost
    if damage == "gone":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[:20])
    with pytest.raises(AutotlError, match=r"members/0"):
        load(folder, registry=torch_only)


@pytest.mark.parametrize("damage", ["gone", "torn"])
def test_missing_or_damaged_weights_are_an_error_that_names_the_file(damage, folder, validation, torch_only):
    (weights,) = (folder / "backbones").iterdir()
    if damage == "gone":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(AutotlError, match=weights.name):
        load(folder, registry=torch_only).predict_proba(validation)


def test_fine_tuned_weights_of_another_network_are_an_error(tiny, fitted, make, validation, tmp_path, torch_only):
    resnet, vit = tiny("test_resnet"), tiny("test_vit")
    member = fitted(resnet, "fine_tuning", "linear", epochs=1)[0]
    with pytest.raises(AutotlError, match="fine-tuned weights belong to another backbone"):
        make(vit, replace(member, backbone_digest=vit.digest)).predict_proba(validation)


def test_a_model_of_a_local_dir_backbone_does_not_read_that_folder(
    tiny, fitted, make, validation, tmp_path, torch_only
):
    from timm.models._hub import save_for_hf

    save_for_hf(tiny("test_efficientnet")._build_whole(), tmp_path / "net", model_config={"num_classes": 1000})
    backbone = autotl_find_backbone(f"local-dir:{tmp_path / 'net'}")
    member, expected = fitted(backbone, "fast_extraction", "linear")
    folder = make(backbone, member).save(tmp_path / "model")
    shutil.rmtree(tmp_path / "net")
    loaded = load(folder, registry=torch_only)
    np.testing.assert_allclose(loaded.predict_proba(validation), expected, atol=1e-3)
    again = load(loaded.save(tmp_path / "again"), registry=torch_only)
    np.testing.assert_allclose(again.predict_proba(validation), expected, atol=1e-3)


def test_a_file_of_an_untrusted_format_is_first_decoded_in_a_child_process(frozen, validation, tmp_path, monkeypatch):
    """A file that crashes its decoder then crashes the child process alone."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nkill -SEGV $$\n")
    program.chmod(0o755)
    with Image.open(validation[0]) as image:
        image.save(tmp_path / "a.tif")
    assert frozen.predict([tmp_path / "a.tif"])[0] == frozen.predict([validation[0]])[0]
    monkeypatch.setattr("sys.executable", str(program))
    monkeypatch.setattr(frozen, "_decoder", SandboxedDecoder())
    skipped = []
    rows = list(frozen.stream([tmp_path / "a.tif", validation[0]], lambda *args: skipped.append(args)))
    assert [path for path, _ in rows] == [validation[0]]
    assert skipped == [(tmp_path / "a.tif", "it crashes its decoder (SIGSEGV)")]
    assert len(list(frozen.stream([tmp_path / "a.tif"], checked=True))) == 1


# engines


class Wrong(TorchEngine):
    """Reverses the features."""

    name = "wrong"

    def compile(self, *args, **kwargs):
        run = super().compile(*args, **kwargs)
        return lambda images: run(images)[:, ::-1].copy()


def test_an_engine_with_wrong_features_is_not_used(frozen, validation):
    registry = load_registry()
    registry.engines["wrong"] = Wrong(bf16=False)
    checked = replace(frozen, registry=registry)
    with pytest.warns(UserWarning, match="differ from PyTorch's"):
        rows = dict(checked.stream(validation))
    assert np.array_equal(np.stack(list(rows.values())), frozen.predict_proba(validation))


def test_a_fast_engine_predicts_the_same_for_many_images(frozen, validation, tmp_path):
    fast = replace(frozen, registry=load_registry(), conversions=tmp_path / "engines")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        rows = dict(fast.stream(validation))
    np.testing.assert_allclose(np.stack(list(rows.values())), frozen.predict_proba(validation), atol=0.05)


def test_few_images_are_predicted_with_a_fast_engine_only_where_it_has_converted_this_network(
    frozen, validation, tmp_path, monkeypatch
):
    compiled = []
    compile_network = OpenVinoEngine.compile

    def recorded(self, *args, **kwargs):
        compiled.append(kwargs["key"])
        return compile_network(self, *args, **kwargs)

    monkeypatch.setattr(OpenVinoEngine, "compile", recorded)
    fast = replace(frozen, registry=load_registry(), conversions=tmp_path / "engines")
    (fast.conversions / "openvino-of-another-network").mkdir(parents=True)
    fast.predict(validation[:2])
    assert compiled == []
    dict(fast.stream(validation, many=True))
    assert len(compiled) == 1
    replace(fast).predict(validation[:2])
    assert compiled == compiled[:1] * 2
