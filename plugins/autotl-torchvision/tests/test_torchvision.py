"""torchvision's networks keep the contract: weights, preprocessing, and blocks between which the graph can be cut."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import skimage.data
import torch
from autotl_torchvision import (
    CURATED,
    TorchvisionBackbone,
    autotl_find_backbone,
    autotl_list_backbones,
    autotl_register_backbones,
)
from autotl_torchvision.families import family_of
from PIL import Image
from safetensors.torch import save_file
from torchvision import models

from autotl.backbones.graph_split import FeatureLevels, GraphSplit
from autotl.backbones.timm import TimmBackbone
from autotl.backbones.weights import no_downloads
from autotl.data.decoding import to_rgb
from autotl.data.preprocessing import preprocess
from autotl.errors import AutotlError
from autotl.registry import load_registry
from autotl.testing import Check, backbone_checks, plugin_checks

pytestmark = pytest.mark.slow

Make = Callable[..., TorchvisionBackbone]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """`made("resnet18")`: the network with weights from a fixed seed, in a file without a classifier."""
    folder = tmp_path_factory.mktemp("weights")

    def make(model: str) -> TorchvisionBackbone:
        file = folder / f"{model}.safetensors"
        if not file.exists():
            torch.manual_seed(0)
            save_file(TorchvisionBackbone(f"torchvision:{model}").build(pretrained=False).state_dict(), file)
        return TorchvisionBackbone(f"torchvision:{model}@{file}")

    return make


@plugin_checks
def test_the_plugin_keeps_the_contract(check: Check) -> None:
    check("torchvision")


@backbone_checks
@pytest.mark.parametrize("model", ["vgg11", "resnet18", "shufflenet_v2_x0_5"])
def test_its_backbones_keep_the_contract(check: Check, model: str, made: Make) -> None:
    backbone = made(model).at_size(96)  # no layer needs 224 px, and a VGG takes five times as long there
    assert backbone is not None
    check(backbone)


def test_a_vision_transformer_takes_one_size() -> None:
    registry = load_registry()
    assert registry.backbone("torchvision:resnet34,size=288").preprocessing.size == 288
    with pytest.raises(AutotlError, match="takes images of one size only"):
        registry.backbone("torchvision:vit_b_16,size=288")


def test_vgg16_vgg19_and_resnet34_come_first() -> None:
    backbones: list[TorchvisionBackbone] = []
    autotl_register_backbones(register=backbones.append)
    assert [b.name for b in backbones][:3] == ["torchvision:vgg16", "torchvision:vgg19", "torchvision:resnet34"]


@pytest.mark.parametrize(
    ("model", "file", "num_params", "num_features", "megabytes", "size"), CURATED, ids=[c[0] for c in CURATED]
)
def test_the_curated_list_states_what_torchvision_has(
    model: str, file: str, num_params: int, num_features: int, megabytes: int, size: int
) -> None:
    """Compared with torchvision's own metadata, and with the network on the meta device."""
    member = models.get_model_weights(model)["IMAGENET1K_V1"]
    assert member.url == f"https://download.pytorch.org/models/{file}"
    assert round(member.meta["_file_size"]) == megabytes
    backbone = TorchvisionBackbone(f"torchvision:{model}")
    assert backbone.preprocessing.size == size
    module = backbone._network().eval().to("meta")
    with torch.device("meta"):
        features = module(torch.zeros(2, 3, backbone.preprocessing.size, backbone.preprocessing.size))
    assert features.shape == (2, num_features)
    assert sum(p.numel() for p in module.parameters()) == num_params
    graph_split = GraphSplit(module, backbone.blocks(module))
    assert backbone.num_blocks == len(graph_split.blocks) >= 5
    assert None not in [graph_split.cut(block) for block in range(1, len(graph_split.blocks))]


@pytest.mark.parametrize("model", ["mobilenet_v3_small", "efficientnet_b0", "maxvit_t", "swin_v2_t", "resnext50_32x4d"])
def test_other_networks_of_the_families_can_be_cut_at_every_block(model: str) -> None:
    backbone = autotl_find_backbone(f"torchvision:{model}")
    assert backbone is not None
    with torch.device("meta"):
        module = backbone._network().eval()  # type: ignore[attr-defined]
    graph_split = GraphSplit(module, backbone.blocks(module))
    assert None not in [graph_split.cut(block) for block in range(1, len(graph_split.blocks))]
    assert len(graph_split.stage_depths) >= 5


def test_vggs_blocks_lie_between_its_poolings_and_its_output_is_the_pooled_last_map(made: Make) -> None:
    backbone = made("vgg11")
    module = backbone.build()
    assert [block.name for block in backbone.blocks(module)] == [
        "features.0",
        "features.3",
        "features.6+features.8",
        "features.11+features.13",
        "features.16+features.18",
    ]
    images = torch.rand(2, 3, 96, 96)  # no later layer needs 224 px
    with torch.inference_mode():
        torch.testing.assert_close(module(images), module.features(images).mean((2, 3)))


def test_maps_of_swin_are_pooled_over_positions_not_channels() -> None:
    backbone = TorchvisionBackbone("torchvision:swin_t")
    module = backbone.build(pretrained=False)
    layout = FeatureLevels(GraphSplit(module, backbone.blocks(module))).layout(64)
    assert layout.means == 96 + 192 + 384 + 768  # channels of each stage, after patch merging


@pytest.mark.parametrize("model", ["vgg16", "convnext_tiny", "swin_t", "efficientnet_v2_s"])
def test_preprocessing_equals_that_of_the_weights(model: str) -> None:
    preprocessing = TorchvisionBackbone(f"torchvision:{model}").preprocessing
    photograph = Image.fromarray(skimage.data.chelsea())
    actual = torch.from_numpy(preprocess(to_rgb(photograph), preprocessing)).permute(2, 0, 1) / 255
    actual = (actual - torch.tensor(preprocessing.mean)[:, None, None]) / torch.tensor(preprocessing.std)[:, None, None]
    expected = models.get_model_weights(model)["IMAGENET1K_V1"].transforms()(photograph)
    assert actual.shape == expected.shape
    assert (actual - expected).abs().mean() < 0.02  # black to white is about 4


# weights


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache of torchvision's downloads, while downloads are forbidden."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with no_downloads():
        yield tmp_path / "hub" / "checkpoints"


def test_cached_weights_need_no_download(hub: Path) -> None:
    backbones: list[TorchvisionBackbone] = []
    autotl_register_backbones(register=backbones.append)
    backbone = next(b for b in backbones if b.name == "torchvision:resnet18")
    assert not backbone.is_cached
    assert backbone.download == "https://download.pytorch.org/models/resnet18-f37072fd.pth, about 45 MB"
    torch.manual_seed(1)
    whole = models.resnet18()
    hub.mkdir(parents=True)
    torch.save(whole.state_dict(), hub / "resnet18-f37072fd.pth")
    assert (backbone.is_cached, backbone.download) == (True, None)
    assert torch.equal(backbone.build().conv1.weight, whole.conv1.weight)


def test_nothing_is_downloaded_where_downloads_are_forbidden(hub: Path) -> None:
    with pytest.raises(AutotlError, match=r"resnet34-b627a593\.pth are not on this machine, and --offline"):
        TorchvisionBackbone("torchvision:resnet34").build()


def test_a_file_may_have_a_classifier_with_another_number_of_classes(tmp_path: Path) -> None:
    torch.manual_seed(2)
    whole = models.convnext_tiny(num_classes=7)  # its classifier includes a norm that is kept
    torch.save(whole.state_dict(), tmp_path / "seven.pth")
    module = TorchvisionBackbone(f"torchvision:convnext_tiny@{tmp_path / 'seven.pth'}").build()
    assert torch.equal(module.classifier[0].weight, whole.classifier[0].weight)
    assert module(torch.rand(1, 3, 64, 64)).shape == (1, 768)


def test_old_parameter_names_in_densenet_checkpoints_load(made: Make, tmp_path: Path) -> None:
    state = made("densenet121").build().state_dict()
    old = {n.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): tensor for n, tensor in state.items()}
    assert old.keys() != state.keys()
    save_file(old, tmp_path / "old.safetensors")
    again = TorchvisionBackbone(f"torchvision:densenet121@{tmp_path / 'old.safetensors'}").build().state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("damage", ["another network", "missing tensor"])
def test_a_file_that_does_not_fit_is_an_error_that_names_the_tensors(damage: str, made: Make, tmp_path: Path) -> None:
    state = dict(made("resnet34").build().state_dict())
    if damage == "missing tensor":
        del state["layer3.0.conv1.weight"]
    save_file(state, tmp_path / "odd.safetensors")
    model = "resnet34" if damage == "missing tensor" else "resnet50"
    with pytest.raises(AutotlError, match=rf"don't fit torchvision's {model}: .*layer"):
        TorchvisionBackbone(f"torchvision:{model}@{tmp_path / 'odd.safetensors'}").build()


def test_a_file_behind_a_path_with_spaces_is_found_built_and_digested(made: Make, tmp_path: Path) -> None:
    original = made("resnet34")
    assert original.file
    file = shutil.copy(original.file, tmp_path / "my own weights.safetensors")
    backbone = load_registry().backbone(f"torchvision:resnet34@{file}")
    assert backbone.is_cached
    assert torch.equal(backbone.build().conv1.weight, original.build().conv1.weight)
    assert backbone.digest == original.digest


@pytest.mark.parametrize("model", ["regnet_y_800mf", "resnet34"])
def test_parameters_of_unlisted_names_are_counted(model: str) -> None:
    stated = {name: num_params for name, _, num_params, *_ in CURATED}
    assert TorchvisionBackbone(f"torchvision:{model}").count_params() == stated[model]


# names


def test_other_names_are_not_found() -> None:
    assert autotl_find_backbone("resnet34") is None
    assert autotl_find_backbone("hf:org/name") is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:resnet43", "no network 'resnet43'. Did you mean 'resnet34'"),
        ("torchvision:alexnet", "no network 'alexnet'"),
        ("torchvision:fcn_resnet50", "no network 'fcn_resnet50'"),
        ("torchvision:resnet50.IMAGENET1K_V3", "no weights 'IMAGENET1K_V3'. Did you mean"),
        ("torchvision:vgg16@", "names no file"),
    ],
)
def test_the_error_about_an_unknown_name_lists_the_known_ones(name: str, message: str) -> None:
    with pytest.raises(AutotlError, match=message.replace(".", r"\.")):
        autotl_find_backbone(name)


def test_listed_names_are_found() -> None:
    listed = autotl_list_backbones()
    assert {"torchvision:vgg19", "torchvision:mobilenet_v3_small"} <= set(listed)
    assert not {name for name in listed if autotl_find_backbone(name) is None}


def test_a_name_with_the_plugins_prefix_is_torchvisions_with_and_without_a_file(made: Make) -> None:
    file = made("resnet34").file
    registry = load_registry()
    assert isinstance(registry.backbone(f"torchvision:resnet34@{file}"), TorchvisionBackbone)
    assert isinstance(registry.backbone("torchvision:resnet34"), TorchvisionBackbone)
    assert isinstance(registry.backbone("resnet34"), TimmBackbone)


def test_a_member_of_the_enum_has_its_own_weights_and_preprocessing() -> None:
    swag = autotl_find_backbone("torchvision:vit_b_16.IMAGENET1K_SWAG_E2E_V1")
    assert swag is not None
    assert (swag.preprocessing.size, swag.license) == (384, "CC-BY-NC-4.0")
    with torch.device("meta"):
        assert swag._network().image_size == 384  # type: ignore[attr-defined]
    assert autotl_find_backbone("torchvision:resnet50.IMAGENET1K_V2").preprocessing.crop == 224 / 232


def test_every_family_has_networks_in_torchvision() -> None:
    known = {family_of(name) for name in models.list_models(module=models)}
    assert len(known - {None}) == 11


def test_registering_and_looking_up_cached_weights_imports_no_torch() -> None:
    script = (
        "import sys, autotl_torchvision as plugin\n"
        "backbones = []; plugin.autotl_register_backbones(backbones.append)\n"
        "print({b.is_cached for b in backbones} <= {True, False}, {'torch', 'torchvision'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "set()"]
