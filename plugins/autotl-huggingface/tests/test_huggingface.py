"""Image towers of transformers: their own features and preprocessing, in blocks that can be cut apart. Tiny models."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import skimage.data
import torch
import transformers
from autotl_huggingface import CURATED, HuggingFaceBackbone, autotl_find_backbone
from autotl_huggingface.processor import preprocessing_of
from autotl_huggingface.tower import tower_of
from PIL import Image
from safetensors.torch import load_file, save_file

from autotl.backbones.base import Backbone
from autotl.backbones.graph_split import FeatureLevels, GraphSplit
from autotl.backbones.weights import allow_downloads
from autotl.data.decoding import to_rgb
from autotl.data.preprocessing import preprocess
from autotl.errors import AutotlError
from autotl.testing import Check, backbone_checks, plugin_checks

Saved = Callable[..., Path]

TINY: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
TOWER: dict[str, Any] = {**TINY, "intermediate_size": 64, "image_size": 64, "patch_size": 16}
TEXT: dict[str, Any] = {**TOWER, "vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2}
SQUARE = {"height": 64, "width": 64}


def dinov2() -> tuple[Any, Any]:
    """At another size than it was trained at, as the published ones are used."""
    config = transformers.Dinov2Config(**TINY, mlp_ratio=2, image_size=70, patch_size=14)
    processor = transformers.BitImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56})
    return transformers.Dinov2Model(config), processor


def dinov2_with_registers() -> tuple[Any, Any]:
    config = transformers.Dinov2WithRegistersConfig(**TINY, mlp_ratio=2, image_size=70, patch_size=14)
    return transformers.Dinov2WithRegistersModel(config), dinov2()[1]


def vit() -> tuple[Any, Any]:
    return transformers.ViTModel(transformers.ViTConfig(**TOWER)), transformers.ViTImageProcessor(size=SQUARE)


def clip() -> tuple[Any, Any]:
    """Both towers, as they are published."""
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=TOWER, projection_dim=16)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=SQUARE)
    return transformers.CLIPModel(config), processor


def siglip() -> tuple[Any, Any]:
    config = transformers.SiglipConfig(text_config=TEXT, vision_config=TOWER)
    return transformers.SiglipModel(config), transformers.SiglipImageProcessor(size=SQUARE)


MAKE = {make.__name__: make for make in (dinov2, dinov2_with_registers, vit, clip, siglip)}
every_kind = pytest.mark.parametrize("kind", MAKE)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """`saved("vit")`: the folder of a tiny model with weights from a seed, and of its processor."""
    root = tmp_path_factory.mktemp("models")

    def save(kind: str, seed: int = 0) -> Path:
        folder = root / f"{kind}-{seed}"
        if not folder.exists():
            torch.manual_seed(seed)
            model, processor = MAKE[kind]()
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def copied(saved: Saved, tmp_path: Path) -> Saved:
    """`copied("vit")`: the same, to be damaged."""

    def copy(kind: str) -> Path:
        return Path(shutil.copytree(saved(kind), tmp_path / kind))

    return copy


def found(place: Any) -> Backbone:
    backbone = autotl_find_backbone(f"hf:{place}")
    assert backbone is not None
    return backbone


@plugin_checks
def test_the_plugin_keeps_the_contract(check: Check) -> None:
    check("huggingface")


@backbone_checks
@every_kind
def test_its_backbones_keep_the_contract(check: Check, kind: str, saved: Saved) -> None:
    check(found(saved(kind)), other=found(saved(kind, seed=1)))


@every_kind
def test_features_are_those_of_transformers(kind: str, saved: Saved) -> None:
    backbone = found(saved(kind))
    images = torch.rand(3, 3, backbone.preprocessing.size, backbone.preprocessing.size)
    whole = transformers.AutoModel.from_pretrained(saved(kind)).eval()
    tower = getattr(whole, "vision_model", whole)
    with torch.inference_mode():
        answer = tower(images)
        expected = answer.last_hidden_state[:, 0] if kind == "vit" else answer.pooler_output  # ViT's: before tanh
        torch.testing.assert_close(backbone.build()(images), expected)


@every_kind
def test_preprocessing_is_that_of_the_processor(kind: str, saved: Saved) -> None:
    seen = found(saved(kind)).preprocessing
    photograph = Image.fromarray(skimage.data.chelsea())
    processor = transformers.AutoImageProcessor.from_pretrained(saved(kind))
    theirs = processor(images=photograph, return_tensors="pt")["pixel_values"][0]
    ours = torch.from_numpy(preprocess(to_rgb(photograph), seen)).permute(2, 0, 1) / 255
    ours = (ours - torch.tensor(seen.mean)[:, None, None]) / torch.tensor(seen.std)[:, None, None]
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().mean() < 0.02  # of about 4 from black to white


@every_kind
def test_blocks_are_patches_and_layers_and_each_can_be_the_freeze_boundary(kind: str, saved: Saved) -> None:
    backbone = found(saved(kind))
    module = backbone.build()
    graph_split = GraphSplit(module, backbone.blocks(module))
    last = "layers.2+norm+head" if kind == "siglip" else "layers.2+norm"
    assert [block.name for block in graph_split.blocks] == ["patches", "layers.0", "layers.1", last]
    assert None not in [graph_split.cut(block) for block in range(4)]
    assert (
        FeatureLevels(graph_split).layout(backbone.preprocessing.size).means == 3 * 32
    )  # of what leaves each but the last


@pytest.mark.parametrize(
    ("config", "place"),
    [
        (transformers.Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14), 0),
        (transformers.ViTConfig(), 2),
        (transformers.SiglipVisionConfig(), 3),
    ],
    ids=["dinov2-small", "vit-base", "siglip-base"],
)
def test_what_is_listed_is_true(config: Any, place: int) -> None:
    """Counted on networks of the published sizes, without values."""
    _, _, _, parameters, num_features, _ = CURATED[place]
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)
    model.to_empty(device="cpu")
    for numbers in model.buffers():
        numbers.zero_()
    tower = tower_of(model, 224)
    assert sum(p.numel() for p in tower.parameters()) == parameters
    assert tower.norm.normalized_shape == (num_features,)


# processors


def processor(**changes: Any) -> Any:
    return transformers.BitImageProcessor(
        **{"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, **changes}
    )


def test_a_resized_edge_is_the_same_again_whatever_binary_fractions_do() -> None:
    size = preprocessing_of(processor(size={"shortest_edge": 375}), "hf:x")
    assert int(size.size / size.crop) == 375  # 224 / (224 / 375) is a little less than 375


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"crop_size": {"height": 320, "width": 320}}, "cuts 320 px out of 256 px"),
        ({"crop_size": {"height": 224, "width": 320}}, "320×224 px"),
        ({"do_resize": False}, "images of any size"),
        ({"do_rescale": False}, "0 … 1"),
        ({"rescale_factor": 1 / 127.5}, "0 … 1"),
        ({"resample": 4}, "resizes by method"),
    ],
    ids=str,
)
def test_steps_that_autotl_does_not_take_are_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(AutotlError, match=f"hf:x: its image processor .*{complaint}"):
        preprocessing_of(processor(**changes), "hf:x")


def test_without_normalising_images_stay_as_they_are() -> None:
    seen = preprocessing_of(processor(do_normalize=False), "hf:x")
    assert (seen.mean, seen.std) == ((0.0,) * 3, (1.0,) * 3)


# weights


def test_a_tensor_that_is_missing_is_named_and_never_random(copied: Saved) -> None:
    folder = copied("clip")
    tensors = load_file(folder / "model.safetensors")
    del tensors["vision_model.encoder.layers.1.mlp.fc1.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AutotlError, match=r"lack 1 tensors .*encoder\.layers\.1\.mlp\.fc1\.weight"):
        found(folder).build()


def test_a_pickle_is_not_read(copied: Saved) -> None:
    folder = copied("vit")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert not found(folder).is_cached
    with pytest.raises(AutotlError, match=r"has no model.safetensors. Weights are read from safetensors only"):
        found(folder).build()


def test_a_damaged_file_is_an_error_that_names_it(copied: Saved) -> None:
    folder = copied("vit")
    (folder / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(AutotlError, match=rf"The weights in '{folder}' can't be loaded"):
        found(folder).build()


def test_weights_in_parts_are_put_together(saved: Saved, copied: Saved) -> None:
    folder = copied("vit")
    (folder / "model.safetensors").unlink()
    transformers.ViTModel.from_pretrained(saved("vit")).save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    parts, whole = found(folder).build().state_dict(), found(saved("vit")).build().state_dict()
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())
    next(folder.glob("model-*.safetensors")).unlink()
    assert not found(folder).is_cached


def test_a_folder_without_its_processor_is_not_guessed_at(copied: Saved) -> None:
    folder = copied("vit")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(AutotlError, match=r"has no preprocessor_config.json. Save the model's image processor"):
        _ = found(folder).preprocessing


def test_a_model_of_another_type_says_which_there_are(copied: Saved) -> None:
    folder = copied("vit")
    transformers.ResNetConfig().save_pretrained(folder)
    with pytest.raises(AutotlError, match=r"is a 'resnet', and autotl-huggingface takes dinov2, .*siglip"):
        _ = found(folder).num_blocks


def test_code_of_the_models_author_is_not_run(copied: Saved) -> None:
    folder = copied("vit")
    config = json.loads((folder / "config.json").read_text())
    ran = folder / "ran"
    (folder / "theirs.py").write_text(f"open({str(ran)!r}, 'w')\nclass Config: pass\n")
    config |= {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(AutotlError, match="transformers can't read"):
        found(folder).build()
    assert not ran.exists()


# the hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's, which nothing may be fetched into."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("AUTOTL_OFFLINE", "0")  # put back after the test
    allow_downloads(False)
    return tmp_path


def put_into_cache(hub: Path, repository: str, folder: Path, revision: str = "main") -> None:
    place = hub / f"models--{repository.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / ("0" * 40), dirs_exist_ok=True)
    (place / "refs").mkdir(exist_ok=True)
    (place / "refs" / revision).write_text("0" * 40)


@pytest.mark.parametrize("revision", ["main", "v2"])
def test_what_is_in_the_hubs_cache_needs_no_network(revision: str, hub: Path, saved: Saved) -> None:
    put_into_cache(hub, "someone/tiny-vit", saved("vit"), revision)
    backbone = found("someone/tiny-vit" + ("" if revision == "main" else f"@{revision}"))
    assert (backbone.is_cached, backbone.download) == (True, None)
    expected = found(saved("vit")).build().state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in backbone.build().state_dict().items())
    assert backbone.digest == found(saved("vit")).digest


def test_what_is_not_here_is_announced_and_not_fetched_where_downloads_are_switched_off(hub: Path) -> None:
    listed: list[HuggingFaceBackbone] = []
    sys.modules["autotl_huggingface"].autotl_register_backbones(register=listed.append)
    assert listed[0].download == "facebook/dinov2-small on the Hugging Face hub, about 88 MB"
    assert not listed[0].is_cached
    with pytest.raises(AutotlError, match="AUTOTL_OFFLINE=1 forbids to download it"):
        listed[0].build()


def test_a_failed_download_gives_the_cause(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to the hub")

    allow_downloads(True)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_network)
    with pytest.raises(AutotlError, match="the download failed: ConnectionError: no route to the hub"):
        found("someone/tiny-vit").build()


# names


def test_names_of_others_are_left_to_others() -> None:
    assert autotl_find_backbone("vit_tiny_patch16_224") is None
    assert autotl_find_backbone("local-dir:folder") is None


@pytest.mark.parametrize("name", ["hf:", "hf:dinov2", "hf:a/b/c", "hf:some name/x"])
def test_a_name_that_is_neither_folder_nor_id_says_what_to_type(name: str) -> None:
    with pytest.raises(AutotlError, match=r"no folder here and no id on the Hugging Face hub. Type hf:org/name"):
        autotl_find_backbone(name)


def test_a_folder_without_a_model_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(AutotlError, match=r"is not a transformers model folder: it has no config.json"):
        autotl_find_backbone(f"hf:{tmp_path}")


def test_registering_and_looking_for_weights_imports_neither_torch_nor_transformers() -> None:
    script = (
        "import sys, autotl_huggingface as plugin\n"
        "found = []; plugin.autotl_register_backbones(found.append)\n"
        "print({b.is_cached for b in found} <= {True, False}, {'torch', 'transformers'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["True", "set()"]
