"""timm backbones: weights strictly from a file, a folder or the hub's cache; timm's own preprocessing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import get_pretrained_cfg

from autotl.backbones.base import Backbone, Preprocessing
from autotl.backbones.timm import CURATED, TimmBackbone, autotl_find_backbone
from autotl.backbones.weights import allow_downloads, cached_backbones, downloads_allowed
from autotl.errors import AutotlError

TINY = ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"]


def network(name: str, num_classes: int | None = None) -> torch.nn.Module:
    """With random weights that the seed fixes, norms' statistics included."""
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
    """An empty cache of the hub's, and no network behind it."""

    def no_network(*_: object, **__: object) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_network)
    monkeypatch.setenv("AUTOTL_OFFLINE", "0")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return tmp_path


def put_into_cache(hub: Path, repository: str, file: Path) -> None:
    place = hub / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("c0ffee")
    (place / "snapshots" / "c0ffee").mkdir(parents=True)
    shutil.copy(file, place / "snapshots" / "c0ffee" / "model.safetensors")


# weights from a file


@pytest.mark.parametrize("name", TINY)
def test_features_are_those_of_the_network_that_the_file_was_saved_from(
    name: str, folder: Path, images: torch.Tensor
) -> None:
    saved = network(name)
    built = find(f"{name}@{folder}/{name}.safetensors").build()
    assert not built.training
    with torch.inference_mode():
        expected = saved.forward_head(saved.forward_features(images), pre_logits=True)
        torch.testing.assert_close(built(images), expected)


@pytest.mark.parametrize("num_classes", [0, 7])
def test_a_file_with_other_classes_or_none_loads_too(num_classes: int, tmp_path: Path) -> None:
    saved = network("test_convnext", num_classes)
    save_file(saved.state_dict(), tmp_path / "own.safetensors")
    built = find(f"test_convnext@{tmp_path}/own.safetensors").build()
    assert all(torch.equal(tensor, saved.state_dict()[name]) for name, tensor in built.state_dict().items())


def test_a_training_checkpoint_of_torch_loads(tmp_path: Path) -> None:
    saved = network("test_resnet")
    torch.save({"epoch": 3, "state_dict": saved.state_dict()}, tmp_path / "last.pth")
    built = find(f"test_resnet@{tmp_path}/last.pth").build()
    assert torch.equal(built.conv1[0].weight, saved.conv1[0].weight)


def test_a_built_network_carries_no_second_copy_of_its_weights(resnet: str) -> None:
    assert "state_dict" not in find(resnet).build().pretrained_cfg


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path: Path) -> None:
    torch.save({"model": network("test_resnet").state_dict(), "hook": subprocess.Popen}, tmp_path / "evil.pth")
    with pytest.raises(AutotlError, match=r"evil\.pth.*weights_only"):
        find(f"test_resnet@{tmp_path}/evil.pth").build()


def test_a_lacking_tensor_is_an_error_that_names_it(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "test_resnet.safetensors")
    del tensors["layer2.0.bn1.running_mean"]
    save_file(tensors, tmp_path / "torn.safetensors")
    with pytest.raises(AutotlError, match=r"torn\.safetensors.*layer2\.0\.bn1\.running_mean"):
        find(f"test_resnet@{tmp_path}/torn.safetensors").build()


def test_weights_of_another_architecture_are_refused(folder: Path) -> None:
    with pytest.raises(AutotlError, match="don't fit timm's test_vit"):
        find(f"test_vit@{folder}/test_resnet.safetensors").build()


@pytest.mark.parametrize("content", [b"", b"not weights at all"])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_damaged_file_is_refused(content: bytes, suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"damaged.{suffix}").write_bytes(content)
    with pytest.raises(AutotlError, match="can't be read as weights"):
        find(f"test_resnet@{tmp_path}/damaged.{suffix}").build()


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(AutotlError, match="holds no tensors"):
        find(f"test_resnet@{tmp_path}/empty.safetensors").build()


def test_without_its_file_only_pretrained_weights_are_out_of_reach(tmp_path: Path) -> None:
    backbone = find(f"test_resnet@{tmp_path}/gone.safetensors")
    assert not backbone.is_cached
    assert backbone.download is None
    assert len(backbone.blocks(backbone.build(pretrained=False))) == 5  # a saved model brings its own weights
    with pytest.raises(AutotlError, match=r"gone\.safetensors"):
        backbone.build()
    with pytest.raises(AutotlError, match=r"gone\.safetensors"):
        _ = backbone.digest


def test_building_leaves_the_callers_random_numbers_alone(resnet: str) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    find(resnet).build()
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("name", TINY)
def test_the_number_of_blocks_is_that_of_the_built_network(name: str) -> None:
    backbone = find(name)
    assert backbone.num_blocks == len(backbone.blocks(backbone.build(pretrained=False)))


# digest


def test_the_digest_is_of_architecture_and_bytes_not_of_names(resnet: str, folder: Path, tmp_path: Path) -> None:
    copy = shutil.copy(folder / "test_resnet.safetensors", tmp_path / "renamed.safetensors")
    assert find(f"test_resnet.r160_in1k@{copy}").digest == find(resnet).digest
    assert find(f"test_vit@{copy}").digest != find(resnet).digest


def test_the_digest_changes_with_one_value_in_the_same_place(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    tensors = network("test_resnet").state_dict()
    save_file(tensors, file)
    before = find(f"test_resnet@{file}").digest
    tensors["layer1.0.bn1.bias"][0] += 1e-3
    save_file(tensors, file)
    assert find(f"test_resnet@{file}").digest != before


# preprocessing


def test_preprocessing_is_timms_and_not_its_larger_test_size() -> None:
    assert get_pretrained_cfg("resnet18.a1_in1k").test_input_size == (3, 288, 288)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert find("resnet18").preprocessing == Preprocessing(224, 0.95, "bicubic", mean, std)
    assert find("test_resnet").preprocessing == Preprocessing(160, 0.95, "bilinear", (0.5,) * 3, (0.5,) * 3)


def test_a_backbone_for_images_that_are_not_square_is_refused() -> None:
    with pytest.raises(AutotlError, match="square"):
        _ = find("vit_5b_patch16_sapiens2.fb").preprocessing


# a folder


def test_a_local_folder_is_read_as_timm_writes_it(tmp_path: Path, images: torch.Tensor) -> None:
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


def test_a_folder_without_a_config_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(AutotlError, match=r"config\.json"):
        autotl_find_backbone(f"local-dir:{tmp_path}")


def test_a_folder_without_weights_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet", "num_classes": 0}))
    backbone = find(f"local-dir:{tmp_path}")
    assert not backbone.is_cached
    with pytest.raises(AutotlError, match=r"model\.safetensors"):
        backbone.build()


# names


@pytest.mark.parametrize("name", ["resnet", "resnet18x", "photos/ants", "resnet18x@w.safetensors", ""])
def test_a_name_that_timm_does_not_have_is_left_to_others(name: str) -> None:
    assert autotl_find_backbone(name) is None


def test_a_wrong_tag_is_answered_with_the_right_ones() -> None:
    with pytest.raises(AutotlError, match="a1_in1k"):
        autotl_find_backbone("resnet18.a9_in1k")


def test_an_at_sign_without_a_file_is_refused() -> None:
    with pytest.raises(AutotlError, match="names no file"):
        autotl_find_backbone("resnet18@")


def test_the_tag_says_what_the_weights_were_trained_on() -> None:
    assert find("vit_tiny_patch16_224").pretrained_on == "ImageNet-21k, then ImageNet-1k"
    assert find("resnet34").pretrained_on == "ImageNet-1k"
    assert find("convnextv2_nano").license == "cc-by-nc-4.0"


# the hub


def test_weights_in_the_hubs_cache_are_used_without_the_network(
    hub: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_into_cache(hub, "timm/test_resnet.r160_in1k", folder / "test_resnet.safetensors")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    backbone = find("test_resnet")
    assert backbone.is_cached
    assert backbone.download is None
    expected = network("test_resnet").layer4[0].conv1.weight
    assert torch.equal(backbone.build().layer4[0].conv1.weight, expected)


def test_weights_that_timm_has_at_a_url_are_looked_up_in_torchs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    backbone = find("legacy_seresnet18.in1k")
    before = backbone.is_cached
    file = tmp_path / "hub" / "checkpoints" / get_pretrained_cfg("legacy_seresnet18").url.rsplit("/", 1)[1]
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    assert (before, backbone.is_cached) == (False, True)


@pytest.mark.parametrize("variables", [{}, {"TORCH_HOME": "torch-home"}, {"XDG_CACHE_HOME": "caches"}], ids=str)
def test_looking_into_torchs_cache_imports_no_torch(variables: dict[str, str], tmp_path: Path) -> None:
    """And it is the folder that torch says it is."""
    script = (
        "import sys\nfrom autotl.backbones import weights\n"
        "ours = weights._torch_hub(); weights.cached('https://host/weights.pth'); light = 'torch' not in sys.modules\n"
        "import torch\nprint(light, str(ours) == torch.hub.get_dir())"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("TORCH_HOME", "XDG_CACHE_HOME")}
    environment |= {name: str(tmp_path / folder) for name, folder in variables.items()}
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert answer.stdout.split() == ["True", "True"]


def test_a_download_is_announced_with_its_place_and_size(hub: Path) -> None:
    assert find("resnet18").download == "timm/resnet18.a1_in1k on the Hugging Face hub, about 47 MB"


@pytest.mark.parametrize("variable", ["AUTOTL_OFFLINE", "HF_HUB_OFFLINE"])
def test_a_forbidden_download_names_the_variable_that_forbids_it(
    variable: str, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    backbone = find("test_resnet")
    assert not backbone.is_cached
    with pytest.raises(AutotlError, match=rf"timm/test_resnet\.r160_in1k.*Unset {variable}"):
        backbone.build()


def test_a_failed_download_gives_the_cause_and_no_random_weights(hub: Path) -> None:
    with pytest.raises(AutotlError, match="download failed: ConnectionError: no route to host"):
        find("test_resnet").build()


def test_a_model_that_timm_has_no_weights_for_asks_for_a_file(hub: Path) -> None:
    backbone = find("vit_base_r26_s32_224")
    assert not backbone.is_cached
    with pytest.raises(AutotlError, match="vit_base_r26_s32_224@path"):
        backbone.build()


def test_the_switch_holds_for_child_processes(hub: Path) -> None:
    question = "from autotl.backbones.weights import downloads_allowed; print(downloads_allowed())"
    assert downloads_allowed()
    allow_downloads(False)
    assert not downloads_allowed()
    answer = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_offline_backbones_are_those_with_weights_on_this_machine(hub: Path, resnet: str) -> None:
    assert cached_backbones({name: find(name) for name in ("resnet18", resnet)}) == [resnet]


# what is registered


def test_registering_and_asking_what_is_offline_imports_no_torch() -> None:
    script = (
        "import sys; from autotl.backbones.timm import *; from autotl.backbones import timm as module\n"
        "found = []; module.autotl_register_backbones(found.append)\n"
        "print(len(found), [(b.name, b.is_cached, b.download) for b in found] and 'torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == [str(len(CURATED)), "False"]


@pytest.mark.parametrize(("name", "data", "license", "parameters", "megabytes"), CURATED, ids=lambda row: str(row)[:30])
def test_what_the_table_states_is_what_timm_has(
    name: str, data: str, license: str, num_params: int, megabytes: int
) -> None:
    config = get_pretrained_cfg(name)
    found = find(name)
    with torch.device("meta"):
        module = timm.create_model(name, num_classes=0)
    assert config.hf_hub_id == f"timm/{name}"
    assert config.license == license.lower()
    assert sum(p.numel() for p in module.parameters()) == parameters
    assert f"about {megabytes} MB" in TimmBackbone(name)._place_and_size()
    assert found.pretrained_on in (data, "unknown")
    assert found.preprocessing.size == 224
