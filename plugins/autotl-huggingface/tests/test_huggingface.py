"""Tiny image towers of transformers: features, preprocessing, and blocks between which the graph can be cut."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import skimage.data
import torch
import transformers
from autotl_huggingface import CURATED, HuggingFaceBackbone, autotl_find_backbone
from autotl_huggingface.processor import preprocessing_of
from autotl_huggingface.source import Source
from autotl_huggingface.tower import tower_of
from PIL import Image
from safetensors.torch import load_file, save_file

from autotl.backbones.base import Backbone
from autotl.backbones.graph_split import FeatureLevels, GraphSplit
from autotl.backbones.weights import no_downloads
from autotl.data.decoding import to_rgb
from autotl.data.preprocessing import preprocess
from autotl.errors import AutotlError
from autotl.registry import load_registry
from autotl.testing import Check, backbone_checks, plugin_checks

Saved = Callable[..., Path]

TINY: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
TOWER: dict[str, Any] = {**TINY, "intermediate_size": 64, "image_size": 64, "patch_size": 16}
TEXT: dict[str, Any] = {**TOWER, "vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2}
SQUARE = {"height": 64, "width": 64}


def dinov2() -> tuple[Any, Any]:
    """For another image size than in training, as with the published models."""
    config = transformers.Dinov2Config(**TINY, mlp_ratio=2, image_size=70, patch_size=14)
    processor = transformers.BitImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56})
    return transformers.Dinov2Model(config), processor


def dinov2_with_registers() -> tuple[Any, Any]:
    config = transformers.Dinov2WithRegistersConfig(**TINY, mlp_ratio=2, image_size=70, patch_size=14)
    return transformers.Dinov2WithRegistersModel(config), dinov2()[1]


def vit() -> tuple[Any, Any]:
    return transformers.ViTModel(transformers.ViTConfig(**TOWER)), transformers.ViTImageProcessor(size=SQUARE)


def clip() -> tuple[Any, Any]:
    """Image and text tower, as published."""
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=TOWER, projection_dim=16)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=SQUARE)
    return transformers.CLIPModel(config), processor


def siglip() -> tuple[Any, Any]:
    config = transformers.SiglipConfig(text_config=TEXT, vision_config=TOWER)
    return transformers.SiglipModel(config), transformers.SiglipImageProcessor(size=SQUARE)


MAKE = {make.__name__: make for make in (dinov2, dinov2_with_registers, vit, clip, siglip)}
every_family = pytest.mark.parametrize("family", MAKE)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """`saved("vit")`: a folder with a tiny model, its weights from a fixed seed, and its processor."""
    root = tmp_path_factory.mktemp("models")

    def save(family: str, seed: int = 0) -> Path:
        folder = root / f"{family}-{seed}"
        if not folder.exists():
            torch.manual_seed(seed)
            model, processor = MAKE[family]()
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def copied(saved: Saved, tmp_path: Path) -> Saved:
    """`copied("vit")`: a copy of that folder, which a test may change."""

    def copy(family: str) -> Path:
        return Path(shutil.copytree(saved(family), tmp_path / family))

    return copy


def find(location: Any) -> Backbone:
    backbone = autotl_find_backbone(f"hf:{location}")
    assert backbone is not None
    return backbone


@plugin_checks
def test_the_plugin_keeps_the_contract(check: Check) -> None:
    check("huggingface")


@backbone_checks
@every_family
def test_its_backbones_keep_the_contract(check: Check, family: str, saved: Saved) -> None:
    check(find(saved(family)), other=find(saved(family, seed=1)))


@every_family
def test_features_equal_those_of_transformers(family: str, saved: Saved) -> None:
    backbone = find(saved(family))
    images = torch.rand(3, 3, backbone.preprocessing.size, backbone.preprocessing.size)
    whole = transformers.AutoModel.from_pretrained(saved(family)).eval()
    tower = getattr(whole, "vision_model", whole)
    with torch.inference_mode():
        output = tower(images)
        # ViT's pooler_output is after tanh
        expected = output.last_hidden_state[:, 0] if family == "vit" else output.pooler_output
        torch.testing.assert_close(backbone.build()(images), expected)


@every_family
def test_preprocessing_equals_that_of_the_processor(family: str, saved: Saved) -> None:
    preprocessing = find(saved(family)).preprocessing
    photograph = Image.fromarray(skimage.data.chelsea())
    processor = transformers.AutoImageProcessor.from_pretrained(saved(family))
    expected = processor(images=photograph, return_tensors="pt")["pixel_values"][0]
    actual = torch.from_numpy(preprocess(to_rgb(photograph), preprocessing)).permute(2, 0, 1) / 255
    actual = (actual - torch.tensor(preprocessing.mean)[:, None, None]) / torch.tensor(preprocessing.std)[:, None, None]
    assert actual.shape == expected.shape
    assert (actual - expected).abs().mean() < 0.02  # black to white is about 4


@every_family
def test_blocks_are_patches_and_layers_and_each_can_be_the_freeze_boundary(family: str, saved: Saved) -> None:
    backbone = find(saved(family))
    module = backbone.build()
    graph_split = GraphSplit(module, backbone.blocks(module))
    last = "layers.2+norm+head" if family == "siglip" else "layers.2+norm"
    assert [block.name for block in graph_split.blocks] == ["patches", "layers.0", "layers.1", last]
    assert None not in [graph_split.cut(block) for block in range(4)]
    layout = FeatureLevels(graph_split).layout(backbone.preprocessing.size)
    assert layout.means == 3 * 32  # each block but the last


@pytest.mark.parametrize(
    ("config", "index"),
    [
        (transformers.Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14), 0),
        (transformers.ViTConfig(), 2),
        (transformers.SiglipVisionConfig(), 3),
    ],
    ids=["dinov2-small", "vit-base", "siglip-base"],
)
def test_the_curated_list_states_the_size_of_the_networks(config: Any, index: int) -> None:
    """Counted on networks of the published sizes with arbitrary weights."""
    _, _, _, num_params, num_features, _ = CURATED[index]
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)
    model.to_empty(device="cpu")
    for buffer in model.buffers():
        buffer.zero_()
    tower = tower_of(model, 224)
    assert sum(p.numel() for p in tower.parameters()) == num_params
    assert tower.norm.normalized_shape == (num_features,)


# processors


def processor(**changes: Any) -> Any:
    return transformers.BitImageProcessor(
        **{"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, **changes}
    )


def test_the_resized_edge_is_exact_in_spite_of_rounding_errors() -> None:
    preprocessing = preprocessing_of(processor(size={"shortest_edge": 375}), "hf:x")
    assert int(preprocessing.size / preprocessing.crop) == 375  # 224 / (224 / 375) is a little less than 375


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"crop_size": {"height": 320, "width": 320}}, "crops 320 px from 256 px"),
        ({"crop_size": {"height": 224, "width": 320}}, "320×224 px"),
        ({"do_resize": False}, "images of any size"),
        ({"do_rescale": False}, "0 … 1"),
        ({"rescale_factor": 1 / 127.5}, "0 … 1"),
        ({"resample": 4}, "resizes by method"),
    ],
    ids=str,
)
def test_steps_that_autotl_does_not_support_are_an_error(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(AutotlError, match=f"hf:x: its image processor .*{complaint}"):
        preprocessing_of(processor(**changes), "hf:x")


def test_a_processor_without_normalisation_gives_mean_0_and_std_1() -> None:
    preprocessing = preprocessing_of(processor(do_normalize=False), "hf:x")
    assert (preprocessing.mean, preprocessing.std) == ((0.0,) * 3, (1.0,) * 3)


# weights


def test_a_missing_tensor_is_an_error_that_names_it(copied: Saved) -> None:
    folder = copied("clip")
    tensors = load_file(folder / "model.safetensors")
    del tensors["vision_model.encoder.layers.1.mlp.fc1.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AutotlError, match=r"lack 1 tensors .*encoder\.layers\.1\.mlp\.fc1\.weight"):
        find(folder).build()


def test_a_pickle_is_not_read(copied: Saved) -> None:
    folder = copied("vit")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert not find(folder).is_cached
    with pytest.raises(AutotlError, match=r"has no model.safetensors. Weights are read from safetensors only"):
        find(folder).build()


def test_a_damaged_file_is_an_error_that_names_it(copied: Saved) -> None:
    folder = copied("vit")
    (folder / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(AutotlError, match=rf"The weights in '{folder}' can't be loaded"):
        find(folder).build()


def test_weights_in_several_files_load(saved: Saved, copied: Saved) -> None:
    folder = copied("vit")
    (folder / "model.safetensors").unlink()
    transformers.ViTModel.from_pretrained(saved("vit")).save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    parts, whole = find(folder).build().state_dict(), find(saved("vit")).build().state_dict()
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())
    next(folder.glob("model-*.safetensors")).unlink()
    assert not find(folder).is_cached


def test_a_folder_without_its_processor_is_an_error(copied: Saved) -> None:
    folder = copied("vit")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(AutotlError, match=r"has no preprocessor_config.json. Save the model's image processor"):
        _ = find(folder).preprocessing


def test_the_error_about_another_model_type_lists_the_supported_ones(copied: Saved) -> None:
    folder = copied("vit")
    transformers.ResNetConfig().save_pretrained(folder)
    with pytest.raises(AutotlError, match=r"is a 'resnet', and autotl-huggingface supports dinov2, .*siglip"):
        _ = find(folder).num_blocks


def test_code_in_the_models_folder_is_not_executed(copied: Saved) -> None:
    folder = copied("vit")
    config = json.loads((folder / "config.json").read_text())
    trace = folder / "executed"
    (folder / "custom.py").write_text(f"open({str(trace)!r}, 'w')\nclass Config: pass\n")
    config |= {"model_type": "custom", "auto_map": {"AutoConfig": "custom.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(AutotlError, match="transformers can't read"):
        find(folder).build()
    assert not trace.exists()


def test_a_folder_behind_a_path_with_spaces_is_found_built_and_digested(saved: Saved, tmp_path: Path) -> None:
    folder = shutil.copytree(saved("vit"), tmp_path / "my own model")
    backbone = load_registry().backbone(f"hf:{folder}")
    assert backbone.is_cached
    assert backbone.digest == find(saved("vit")).digest
    assert backbone.count_params() == sum(p.numel() for p in backbone.build().parameters())


# the hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for variable in ("AUTOTL_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


@pytest.fixture
def offline_hub(hub: Path) -> Iterator[Path]:
    """An empty hub cache, while downloads are forbidden."""
    with no_downloads():
        yield hub


def put_into_cache(hub: Path, repository: str, folder: Path, revision: str = "main") -> None:
    cache = hub / f"models--{repository.replace('/', '--')}"
    shutil.copytree(folder, cache / "snapshots" / ("0" * 40), dirs_exist_ok=True)
    (cache / "refs").mkdir(exist_ok=True)
    (cache / "refs" / revision).write_text("0" * 40)


@pytest.mark.parametrize("revision", ["main", "v2"])
def test_a_model_in_the_hub_cache_needs_no_network(revision: str, offline_hub: Path, saved: Saved) -> None:
    put_into_cache(offline_hub, "someone/tiny-vit", saved("vit"), revision)
    backbone = find("someone/tiny-vit" + ("" if revision == "main" else f"@{revision}"))
    assert (backbone.is_cached, backbone.download) == (True, None)
    expected = find(saved("vit")).build().state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in backbone.build().state_dict().items())
    assert backbone.digest == find(saved("vit")).digest


def test_a_missing_model_is_described_and_not_downloaded_where_downloads_are_forbidden(offline_hub: Path) -> None:
    backbones: list[HuggingFaceBackbone] = []
    sys.modules["autotl_huggingface"].autotl_register_backbones(register=backbones.append)
    assert backbones[0].download == "facebook/dinov2-small on the Hugging Face hub, about 88 MB"
    assert not backbones[0].is_cached
    with pytest.raises(AutotlError, match="--offline forbids the download"):
        backbones[0].build()


def test_a_failed_download_is_an_error_with_its_cause(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_network)
    with pytest.raises(AutotlError, match="the download failed: ConnectionError: no route to the hub"):
        find("someone/tiny-vit").build()


# names


def test_other_names_are_not_found() -> None:
    assert autotl_find_backbone("vit_tiny_patch16_224") is None
    assert autotl_find_backbone("local-dir:folder") is None


@pytest.mark.parametrize("name", ["hf:", "hf:dinov2", "hf:a/b/c", "hf:some name/x"])
def test_the_error_about_a_name_that_is_neither_folder_nor_id_suggests_both(name: str) -> None:
    with pytest.raises(AutotlError, match=r"is neither a folder nor an id on the Hugging Face hub. Type hf:org/name"):
        autotl_find_backbone(name)


def test_a_folder_without_a_model_is_an_error_when_it_is_found(tmp_path: Path) -> None:
    with pytest.raises(AutotlError, match=r"is not a transformers model folder: it has no config.json"):
        autotl_find_backbone(f"hf:{tmp_path}")


def test_registering_and_looking_up_cached_weights_imports_neither_torch_nor_transformers() -> None:
    script = (
        "import sys, autotl_huggingface as plugin\n"
        "backbones = []; plugin.autotl_register_backbones(backbones.append)\n"
        "print({b.is_cached for b in backbones} <= {True, False}, {'torch', 'transformers'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "set()"]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"weight_map": {"a": 5}}', '{"weight_map": {"a": "../b.safetensors"}}']
)
def test_an_index_of_no_weights_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "b.safetensors").write_bytes(b"")
    (tmp_path / "folder" / "model.safetensors.index.json").write_text(content)
    source = Source(str(tmp_path / "folder"))
    assert not source.is_cached
    with pytest.raises(AutotlError, match=r"index\.json' doesn't list the files .* download it again"):
        source.weights()
