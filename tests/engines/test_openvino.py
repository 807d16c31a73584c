"""The OpenVINO engine computes what PyTorch computes, for batches of any length, and caches converted networks."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from autotl.backbones.graph_split import FeatureLevels, GraphSplit, Normalize
from autotl.engines import openvino as engine_module
from autotl.engines.openvino import OpenVinoEngine
from autotl.engines.parity import engine_cosine, mean_cosine

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
data = pytest.importorskip("skimage.data")

ENGINE = OpenVinoEngine()
SIZE = 96

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not ENGINE.usable("cpu"), reason="openvino has no wheel here")]
needs_bf16 = pytest.mark.skipif(
    ENGINE.usable("cpu") and ENGINE.precision("cpu") != "bf16", reason="this chip has no bf16"
)


class Backbone(torch.nn.Module):
    """A frozen network that takes uint8 images."""

    def __init__(self, name: str, seed: int = 0, **options):
        super().__init__()
        torch.manual_seed(seed)
        self.network = timm.create_model(name, pretrained=False, num_classes=0, **options)
        self.eval()

    def forward(self, images):
        return self.network(images.permute(0, 3, 1, 2).float() / 127.5 - 1)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Nine crops of real photographs, uint8 [9, SIZE, SIZE, 3]."""
    photographs = [Image.fromarray(picture()) for picture in (data.chelsea, data.coffee, data.astronaut)]
    crops = [p.resize((300, 300)).crop((x, x, x + SIZE, x + SIZE)) for p in photographs for x in (0, 100, 200)]
    return np.stack([np.asarray(crop) for crop in crops])


def by_torch(module, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return module(torch.from_numpy(images)).numpy()


@pytest.fixture(scope="module")
def resnet():
    module = Backbone("test_resnet")
    return module, ENGINE.compile(module, SIZE, "cpu", 1, "fp32")


def test_features_of_a_convnet_match_pytorch(resnet, images):
    module, run = resnet
    expected = by_torch(module, images)
    np.testing.assert_allclose(run(images), expected, atol=1e-4 * np.abs(expected).max())


def test_features_of_a_transformer_match_pytorch(images):
    module = Backbone("test_vit", img_size=SIZE)
    expected = by_torch(module, images)
    rows = ENGINE.compile(module, SIZE, "cpu", 1, "fp32")(images)
    np.testing.assert_allclose(rows, expected, atol=1e-3 * np.abs(expected).max())


def test_batches_may_have_any_length(resnet, images):
    _, run = resnet
    whole = run(images)
    for batch in (1, 4, 9, 2):
        parts = [run(images[i : i + batch]) for i in range(0, len(images), batch)]
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5 * np.abs(whole).max())


def test_features_are_not_changed_by_the_next_batch(resnet, images):
    _, run = resnet
    rows = run(images[:3])
    kept = rows.copy()
    run(images[3:6])
    np.testing.assert_array_equal(rows, kept)


def test_features_may_have_any_shape(images):
    module = Backbone("test_resnet", global_pool="")
    expected = by_torch(module, images[:2])
    assert expected.ndim == 4
    rows = ENGINE.compile(module, SIZE, "cpu", 1, "fp32")(images[:2])
    np.testing.assert_allclose(rows, expected, atol=1e-4 * np.abs(expected).max())


@needs_bf16
def test_bf16_features_are_close_to_fp32(resnet, images):
    module, _ = resnet
    assert engine_cosine(ENGINE.compile(module, SIZE, "cpu", 1, "bf16"), module, images) > 0.99


@needs_bf16
def test_maps_are_pooled_in_bf16(tiny, monkeypatch):
    compiled = []

    class Core(engine_module.load_openvino().Core):
        def compile_model(self, *args):
            compiled.append(super().compile_model(*args))
            return compiled[-1]

    monkeypatch.setattr(engine_module.load_openvino(), "Core", Core)
    backbone = tiny("test_efficientnet")
    module = backbone.build()
    levels = Normalize(FeatureLevels(GraphSplit(module, backbone.blocks(module))), backbone.preprocessing)
    ENGINE.compile(levels, backbone.preprocessing.size, "cpu", 1, "bf16")
    facts = [node.get_rt_info() for node in compiled[0].get_runtime_model().get_ops()]
    pools = [f["runtimePrecision"].astype(str) for f in facts if f["layerType"].astype(str).startswith("Reduce")]
    assert len(pools) > 4
    assert set(pools) == {"bf16"}


@pytest.mark.parametrize("pooled", [True, False])
def test_the_identity_convolution_changes_no_feature(images, pooled):
    module = Backbone("test_resnet", **({} if pooled else {"global_pool": ""}))
    model = engine_module._convert(module, SIZE)
    appended = engine_module._append_identity_convolution(model)
    assert (appended is not model) == pooled  # maps already end in a convolution
    assert appended.output(0).get_partial_shape() == model.output(0).get_partial_shape()
    core, exact = engine_module.load_openvino().Core(), {"INFERENCE_PRECISION_HINT": "f32"}
    assert np.array_equal(*(core.compile_model(m, "CPU", exact)(images)[0] for m in (model, appended)))


def test_a_cached_conversion_is_read(tmp_path, images, monkeypatch):
    module = Backbone("test_resnet")
    first = ENGINE.compile(module, SIZE, "cpu", 1, "fp32", tmp_path, "digest")(images)
    monkeypatch.setattr(engine_module, "_convert", None)
    again = ENGINE.compile(module, SIZE, "cpu", 1, "fp32", tmp_path, "digest")(images)
    np.testing.assert_allclose(again, first, atol=1e-5 * np.abs(first).max())


def test_a_conversion_is_cached_by_its_key(tmp_path, images):
    one, other = Backbone("test_resnet", seed=0), Backbone("test_resnet", seed=1)
    ENGINE.compile(one, SIZE, "cpu", 1, "fp32", tmp_path, "one")
    rows = ENGINE.compile(other, SIZE, "cpu", 1, "fp32", tmp_path, "other")(images)
    assert mean_cosine(rows, by_torch(other, images)) > 0.999 > mean_cosine(rows, by_torch(one, images))


def test_a_damaged_conversion_is_replaced(tmp_path, resnet, images):
    module, run = resnet
    ENGINE.compile(module, SIZE, "cpu", 1, "fp32", tmp_path, "digest")
    next(tmp_path.glob("*/model.xml")).write_text("<net")
    rows = ENGINE.compile(module, SIZE, "cpu", 1, "fp32", tmp_path, "digest")(images)
    np.testing.assert_allclose(rows, run(images), atol=1e-5)


def test_a_conversion_with_flipped_bits_is_replaced(tmp_path, resnet, images):
    module, run = resnet
    ENGINE.compile(module, SIZE, "cpu", 1, "fp32", tmp_path, "digest")
    weights = next(tmp_path.glob("*/model.bin"))
    sound = weights.read_bytes()
    weights.write_bytes(bytes(byte ^ 0x40 if i % 97 == 0 else byte for i, byte in enumerate(sound)))
    rows = ENGINE.compile(module, SIZE, "cpu", 1, "fp32", tmp_path, "digest")(images)
    np.testing.assert_allclose(rows, run(images), atol=1e-5)
    assert next(tmp_path.glob("*/model.bin")).read_bytes() == sound


@pytest.mark.parametrize("name", ["model.bin", "model.xml", "checksums.json"])
def test_a_conversion_without_one_of_its_files_is_replaced(name, tmp_path, resnet, images):
    module, run = resnet
    ENGINE.compile(module, SIZE, "cpu", 1, "fp32", tmp_path, "digest")
    next(tmp_path.glob(f"*/{name}")).unlink()
    rows = ENGINE.compile(module, SIZE, "cpu", 1, "fp32", tmp_path, "digest")(images)
    np.testing.assert_allclose(rows, run(images), atol=1e-5)


def test_it_is_usable_on_cpus_where_openvino_is_installed(monkeypatch):
    assert ENGINE.usable("cpu")
    assert not ENGINE.usable("cuda:0")
    monkeypatch.setattr(engine_module, "find_spec", lambda name: None)
    assert not ENGINE.usable("cpu")


def test_openvino_is_used_without_its_telemetry():
    code = (
        "import sys; from autotl.engines.openvino import OpenVinoEngine; OpenVinoEngine().precision('cpu')\n"
        "from openvino.tools.ovc import telemetry_utils\n"
        "assert telemetry_utils.tm.__name__ == 'openvino.tools.ovc.telemetry_stub', telemetry_utils.tm"
    )
    silent = os.environ | {"CI": "true"}  # openvino sends nothing in CI, even if this test fails
    subprocess.run([sys.executable, "-c", code], check=True, env=silent)
