"""timm backbones: weights loaded strictly from a file, a folder or the hub's cache; timm's own preprocessing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import get_pretrained_cfg

from autotl.backbones import weights
from autotl.backbones.base import Backbone, Preprocessing
from autotl.backbones.catalog import CURATED
from autotl.backbones.timm import autotl_find_backbone
from autotl.errors import AutotlError
from autotl.registry import load_registry

TINY = ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"]


def network(name: str, num_classes: int | None = None) -> torch.nn.Module:
    """A network with random weights from a fixed seed, running statistics included."""
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=num_classes).eval()
    for key, tensor in module.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            tensor.uniform_(0.5, 1.5)
    return module


def find(name: str) -> Backbone:
    backbone = autotl_find_backbone(name)
    assert backbone is not None
    return backbone


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for name in TINY:
        save_file(network(name).state_dict(), folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def resnet(folder: Path) -> str:
    return f"test_resnet@{folder}/test_resnet.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no network connection."""

    def no_network(*_: object, **__: object) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(weights, "download", no_network)
    monkeypatch.setenv("AUTOTL_OFFLINE", "0")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return tmp_path


def put_into_cache(hub: Path, repository: str, file: Path) -> None:
    folder = hub / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("c0ffee")
    (folder / "snapshots" / "c0ffee").mkdir(parents=True)
    shutil.copy(file, folder / "snapshots" / "c0ffee" / "model.safetensors")


# weights from a file


@pytest.mark.parametrize("name", TINY)
def test_features_equal_those_of_the_network_that_was_saved(name: str, folder: Path, images: torch.Tensor) -> None:
    saved = network(name)
    built = find(f"{name}@{folder}/{name}.safetensors").build()
    assert not built.training
    with torch.inference_mode():
        expected = saved.forward_head(saved.forward_features(images), pre_logits=True)
        torch.testing.assert_close(built(images), expected)


@pytest.mark.parametrize("num_classes", [0, 7])
def test_a_file_with_another_number_of_classes_or_none_loads(num_classes: int, tmp_path: Path) -> None:
    saved = network("test_convnext", num_classes)
    save_file(saved.state_dict(), tmp_path / "own.safetensors")
    built = find(f"test_convnext@{tmp_path}/own.safetensors").build()
    assert all(torch.equal(tensor, saved.state_dict()[name]) for name, tensor in built.state_dict().items())


def test_a_torch_training_checkpoint_loads(tmp_path: Path) -> None:
    saved = network("test_resnet")
    torch.save({"epoch": 3, "state_dict": saved.state_dict()}, tmp_path / "last.pth")
    built = find(f"test_resnet@{tmp_path}/last.pth").build()
    assert torch.equal(built.conv1[0].weight, saved.conv1[0].weight)


def test_a_built_network_holds_no_second_copy_of_its_weights(resnet: str) -> None:
    assert "state_dict" not in find(resnet).build().pretrained_cfg


def test_a_checkpoint_that_contains_code_is_an_error(tmp_path: Path) -> None:
    torch.save({"model": network("test_resnet").state_dict(), "hook": subprocess.Popen}, tmp_path / "evil.pth")
    with pytest.raises(AutotlError, match=r"evil\.pth.*weights_only"):
        find(f"test_resnet@{tmp_path}/evil.pth").build()


def test_a_missing_tensor_is_an_error_that_names_it(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "test_resnet.safetensors")
    del tensors["layer2.0.bn1.running_mean"]
    save_file(tensors, tmp_path / "torn.safetensors")
    with pytest.raises(AutotlError, match=r"torn\.safetensors.*layer2\.0\.bn1\.running_mean"):
        find(f"test_resnet@{tmp_path}/torn.safetensors").build()


def test_weights_of_another_architecture_are_an_error(folder: Path) -> None:
    with pytest.raises(AutotlError, match="don't fit timm's test_vit"):
        find(f"test_vit@{folder}/test_resnet.safetensors").build()


@pytest.mark.parametrize("content", [b"", b"not weights at all"])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_damaged_file_is_an_error(content: bytes, suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"damaged.{suffix}").write_bytes(content)
    with pytest.raises(AutotlError, match="can't be read as weights"):
        find(f"test_resnet@{tmp_path}/damaged.{suffix}").build()


def test_a_file_without_tensors_is_an_error(tmp_path: Path) -> None:
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(AutotlError, match="holds no tensors"):
        find(f"test_resnet@{tmp_path}/empty.safetensors").build()


def test_a_missing_file_prevents_only_pretrained_weights(tmp_path: Path) -> None:
    backbone = find(f"test_resnet@{tmp_path}/gone.safetensors")
    assert not backbone.is_cached
    assert backbone.download is None
    assert len(backbone.blocks(backbone.build(pretrained=False))) == 5  # a saved model has its own weights
    with pytest.raises(AutotlError, match=r"gone\.safetensors"):
        backbone.build()
    with pytest.raises(AutotlError, match=r"gone\.safetensors"):
        _ = backbone.digest


def test_building_does_not_advance_the_callers_random_generator(resnet: str) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    find(resnet).build()
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("name", TINY)
def test_num_blocks_equals_the_blocks_of_the_built_network(name: str) -> None:
    backbone = find(name)
    assert backbone.num_blocks == len(backbone.blocks(backbone.build(pretrained=False)))


# digest


def test_the_digest_depends_on_architecture_and_bytes_not_on_file_names(
    resnet: str, folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copy(folder / "test_resnet.safetensors", tmp_path / "renamed.safetensors")
    assert find(f"test_resnet.r160_in1k@{copy}").digest == find(resnet).digest
    assert find(f"test_vit@{copy}").digest != find(resnet).digest


def test_the_digest_changes_when_one_value_of_the_same_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    tensors = network("test_resnet").state_dict()
    save_file(tensors, file)
    before = find(f"test_resnet@{file}").digest
    tensors["layer1.0.bn1.bias"][0] += 1e-3
    save_file(tensors, file)
    assert find(f"test_resnet@{file}").digest != before


# preprocessing


def test_preprocessing_uses_timms_training_size_not_its_larger_test_size() -> None:
    assert get_pretrained_cfg("resnet18.a1_in1k").test_input_size == (3, 288, 288)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert find("resnet18").preprocessing == Preprocessing(224, 0.95, "bicubic", mean, std)
    assert find("test_resnet").preprocessing == Preprocessing(160, 0.95, "bilinear", (0.5,) * 3, (0.5,) * 3)


def test_a_backbone_for_images_that_are_not_square_is_an_error() -> None:
    with pytest.raises(AutotlError, match="square"):
        _ = find("vit_5b_patch16_sapiens2.fb").preprocessing


# a folder


def test_a_folder_written_by_timm_is_read(tmp_path: Path, images: torch.Tensor) -> None:
    saved = network("test_efficientnet", 4)
    timm.models._hub.save_for_hf(saved, tmp_path, model_config={"num_classes": 4})
    config = json.loads((tmp_path / "config.json").read_text())
    config["pretrained_cfg"]["crop_pct"] = 0.75
    (tmp_path / "config.json").write_text(json.dumps(config))
    backbone = find(f"local-dir:{tmp_path}")
    assert backbone.is_cached
    assert backbone.preprocessing.crop == 0.75
    assert len(backbone.digest) == 32
    with torch.inference_mode():
        expected = saved.forward_head(saved.forward_features(images), pre_logits=True)
        torch.testing.assert_close(backbone.build()(images), expected)


def test_a_folder_without_a_config_is_an_error_when_it_is_found(tmp_path: Path) -> None:
    with pytest.raises(AutotlError, match=r"config\.json"):
        autotl_find_backbone(f"local-dir:{tmp_path}")


def test_building_from_a_folder_without_weights_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet", "num_classes": 0}))
    backbone = find(f"local-dir:{tmp_path}")
    assert not backbone.is_cached
    with pytest.raises(AutotlError, match="There are no weights in"):
        backbone.build()


# paths with spaces


@pytest.fixture
def spaced(tmp_path: Path) -> Path:
    folder = tmp_path / "my models · 2 of 3"
    folder.mkdir()
    return folder


def test_a_file_behind_a_path_with_spaces_is_found_built_and_digested(spaced: Path, folder: Path, resnet: str) -> None:
    file = shutil.copy(folder / "test_resnet.safetensors", spaced / "own weights.safetensors")
    backbone = load_registry().backbone(f"test_resnet@{file}")
    assert (backbone.name, backbone.is_cached, backbone.weights_file()) == (f"test_resnet@{file}", True, Path(file))
    assert torch.equal(backbone.build().conv1[0].weight, find(resnet).build().conv1[0].weight)
    assert backbone.digest == find(resnet).digest
    assert backbone.count_params() == 372_688


def test_a_folder_behind_a_path_with_spaces_is_found_built_and_digested(spaced: Path) -> None:
    saved = network("test_resnet")
    timm.models._hub.save_for_hf(saved, spaced, model_config={"num_classes": 1000})
    backbone = load_registry().backbone(f"local-dir:{spaced}")
    assert (backbone.folder, backbone.is_cached, backbone.num_blocks) == (spaced, True, 5)
    assert torch.equal(backbone.build().conv1[0].weight, saved.conv1[0].weight)
    assert len(backbone.digest) == 32
    assert backbone.count_params() == 372_688


# names


@pytest.mark.parametrize("name", ["resnet", "resnet18x", "photos/ants", "resnet18x@w.safetensors", ""])
def test_a_name_that_timm_does_not_have_is_not_found(name: str) -> None:
    assert autotl_find_backbone(name) is None


def test_the_error_about_an_unknown_tag_lists_the_known_tags() -> None:
    with pytest.raises(AutotlError, match="a1_in1k"):
        autotl_find_backbone("resnet18.a9_in1k")


def test_an_at_sign_without_a_file_is_an_error() -> None:
    with pytest.raises(AutotlError, match="names no file"):
        autotl_find_backbone("resnet18@")


def test_the_pretraining_data_is_derived_from_the_tag() -> None:
    assert find("vit_tiny_patch16_224").pretrained_on == "ImageNet-21k, then ImageNet-1k"
    assert find("resnet34").pretrained_on == "ImageNet-1k"
    assert find("convnextv2_nano").license == "cc-by-nc-4.0"


# the hub


def test_weights_in_the_hub_cache_need_no_network(hub: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_into_cache(hub, "timm/test_resnet.r160_in1k", folder / "test_resnet.safetensors")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    backbone = find("test_resnet")
    assert backbone.is_cached
    assert backbone.download is None
    expected = network("test_resnet").layer4[0].conv1.weight
    assert torch.equal(backbone.build().layer4[0].conv1.weight, expected)


def test_weights_that_timm_has_at_a_url_are_found_in_torchs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    backbone = find("legacy_seresnet18.in1k")
    before = backbone.is_cached
    file = tmp_path / "hub" / "checkpoints" / get_pretrained_cfg("legacy_seresnet18").url.rsplit("/", 1)[1]
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    assert (before, backbone.is_cached) == (False, True)


def test_a_download_is_described_with_its_source_and_size(hub: Path) -> None:
    assert find("resnet18").download == "timm/resnet18.a1_in1k on the Hugging Face hub, about 47 MB"


@pytest.mark.parametrize("variable", ["AUTOTL_OFFLINE", "HF_HUB_OFFLINE"])
def test_the_error_about_a_forbidden_download_names_the_variable(
    variable: str, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    backbone = find("test_resnet")
    assert not backbone.is_cached
    with pytest.raises(AutotlError, match=rf"timm/test_resnet\.r160_in1k.*Unset {variable}"):
        backbone.build()


def test_a_failed_download_is_an_error_with_its_cause(hub: Path) -> None:
    with pytest.raises(AutotlError, match=r"can't be reached \(ConnectionError: no route to host\)"):
        find("test_resnet").build()


def test_the_error_about_a_model_without_weights_suggests_a_file(hub: Path) -> None:
    backbone = find("vit_base_r26_s32_224")
    assert not backbone.is_cached
    with pytest.raises(AutotlError, match="vit_base_r26_s32_224@path"):
        backbone.build()


# what is registered


def test_registering_and_listing_cached_backbones_imports_no_torch() -> None:
    script = (
        "import sys; from autotl.backbones.timm import *; from autotl.backbones import timm as module\n"
        "backbones = []; module.autotl_register_backbones(backbones.append)\n"
        "print(len(backbones), [(b.name, b.is_cached, b.download) for b in backbones] and 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [str(len(CURATED)), "False"]
