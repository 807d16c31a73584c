"""torchvision's networks keep the contract: their weights, their preprocessing, and blocks that can be cut apart."""

import subprocess
import sys
from collections.abc import Callable
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
from autotl.backbones.weights import allow_downloads
from autotl.data.decoding import to_rgb
from autotl.data.preprocessing import preprocess
from autotl.errors import AutotlError
from autotl.registry import load_registry
from autotl.testing import Check, backbone_checks, plugin_checks

Make = Callable[..., TorchvisionBackbone]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """`made("resnet18")`: the network with weights from a seed, in a file without a classifier."""
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
@pytest.mark.parametrize("model", ["vgg11", "resnet34", "shufflenet_v2_x0_5"])
def test_its_backbones_keep_the_contract(check: Check, model: str, made: Make) -> None:
    check(made(model))


def test_vgg16_vgg19_and_resnet34_come_first() -> None:
    found: list[TorchvisionBackbone] = []
    autotl_register_backbones(register=found.append)
    assert [b.name for b in found][:3] == ["torchvision:vgg16", "torchvision:vgg19", "torchvision:resnet34"]


@pytest.mark.parametrize(
    ("model", "file", "num_params", "num_features", "megabytes"), CURATED, ids=[c[0] for c in CURATED]
)
def test_what_is_listed_is_true(model: str, file: str, num_params: int, num_features: int, megabytes: int) -> None:
    """Asked of torchvision, and of the network without values: an image passes through its shapes."""
    member = models.get_model_weights(model)["IMAGENET1K_V1"]
    assert member.url == f"https://download.pytorch.org/models/{file}"
    assert round(member.meta["_file_size"]) == megabytes
    backbone = TorchvisionBackbone(f"torchvision:{model}")
    module = backbone._network().eval().to("meta")
    with torch.device("meta"):
        features = module(torch.zeros(2, 3, backbone.preprocessing.size, backbone.preprocessing.size))
    assert features.shape == (2, num_features)
    assert sum(p.numel() for p in module.parameters()) == num_params
    graph_split = GraphSplit(module, backbone.blocks(module))
    assert backbone.num_blocks == len(graph_split.blocks) >= 5
    assert None not in [graph_split.cut(block) for block in range(1, len(graph_split.blocks))]


@pytest.mark.parametrize("model", ["mobilenet_v3_small", "efficientnet_b0", "maxvit_t", "swin_v2_t", "resnext50_32x4d"])
def test_other_networks_of_the_families_can_be_cut_and_tapped(model: str) -> None:
    backbone = autotl_find_backbone(f"torchvision:{model}")
    assert backbone is not None
    with torch.device("meta"):
        module = backbone._network().eval()  # type: ignore[attr-defined]
    graph_split = GraphSplit(module, backbone.blocks(module))
    assert None not in [graph_split.cut(block) for block in range(1, len(graph_split.blocks))]
    assert len(graph_split.stage_outputs) >= 5


def test_vggs_blocks_lie_between_its_poolings_and_it_ends_in_the_pooled_last_map(made: Make) -> None:
    backbone = made("vgg11")
    module = backbone.build()
    assert [block.name for block in backbone.blocks(module)] == [
        "features.0",
        "features.3",
        "features.6+features.8",
        "features.11+features.13",
        "features.16+features.18",
    ]
    images = torch.rand(2, 3, 96, 96)  # no layer behind it asks for 224 px
    with torch.inference_mode():
        torch.testing.assert_close(module(images), module.features(images).mean((2, 3)))


def test_maps_of_swin_are_pooled_over_places_not_channels() -> None:
    backbone = TorchvisionBackbone("torchvision:swin_t")
    module = backbone.build(pretrained=False)
    layout = FeatureLevels(GraphSplit(module, backbone.blocks(module))).layout(64)
    assert layout.means == 96 + 192 + 384 + 768  # each stage's channels, after the merging that follows it


@pytest.mark.parametrize("model", ["vgg16", "convnext_tiny", "swin_t", "efficientnet_v2_s"])
def test_preprocessing_is_that_of_the_weights(model: str) -> None:
    seen = TorchvisionBackbone(f"torchvision:{model}").preprocessing
    photograph = Image.fromarray(skimage.data.chelsea())
    ours = torch.from_numpy(preprocess(to_rgb(photograph), seen)).permute(2, 0, 1) / 255
    ours = (ours - torch.tensor(seen.mean)[:, None, None]) / torch.tensor(seen.std)[:, None, None]
    theirs = models.get_model_weights(model)["IMAGENET1K_V1"].transforms()(photograph)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().mean() < 0.02  # of about 4 from black to white


# weights


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torchvision's hub, which nothing may be fetched into."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("AUTOTL_OFFLINE", "0")  # put back after the test
    allow_downloads(False)
    return tmp_path / "hub" / "checkpoints"


def test_what_the_hub_left_here_needs_no_download(hub: Path) -> None:
    listed: list[TorchvisionBackbone] = []
    autotl_register_backbones(register=listed.append)
    backbone = next(b for b in listed if b.name == "torchvision:resnet18")
    assert not backbone.is_cached
    assert backbone.download == "https://download.pytorch.org/models/resnet18-f37072fd.pth, about 45 MB"
    torch.manual_seed(1)
    whole = models.resnet18()
    hub.mkdir(parents=True)
    torch.save(whole.state_dict(), hub / "resnet18-f37072fd.pth")
    assert (backbone.is_cached, backbone.download) == (True, None)
    assert torch.equal(backbone.build().conv1.weight, whole.conv1.weight)


def test_nothing_is_fetched_where_downloads_are_switched_off(hub: Path) -> None:
    with pytest.raises(AutotlError, match=r"resnet34-b627a593\.pth are not on this machine, and AUTOTL_OFFLINE=1"):
        TorchvisionBackbone("torchvision:resnet34").build()


def test_a_file_may_have_a_classifier_of_other_classes(tmp_path: Path) -> None:
    torch.manual_seed(2)
    whole = models.convnext_tiny(num_classes=7)  # its classifier holds a norm that is not left out
    torch.save(whole.state_dict(), tmp_path / "seven.pth")
    module = TorchvisionBackbone(f"torchvision:convnext_tiny@{tmp_path / 'seven.pth'}").build()
    assert torch.equal(module.classifier[0].weight, whole.classifier[0].weight)
    assert module(torch.rand(1, 3, 64, 64)).shape == (1, 768)


def test_old_names_in_the_checkpoints_of_densenets_are_understood(made: Make, tmp_path: Path) -> None:
    state = made("densenet121").build().state_dict()
    old = {n.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): tensor for n, tensor in state.items()}
    assert old.keys() != state.keys()
    save_file(old, tmp_path / "old.safetensors")
    again = TorchvisionBackbone(f"torchvision:densenet121@{tmp_path / 'old.safetensors'}").build().state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("damage", ["another network", "a tensor less"])
def test_a_file_that_does_not_fit_is_refused_with_what_differs(damage: str, made: Make, tmp_path: Path) -> None:
    state = dict(made("resnet34").build().state_dict())
    if damage == "a tensor less":
        del state["layer3.0.conv1.weight"]
    save_file(state, tmp_path / "odd.safetensors")
    model = "resnet34" if damage == "a tensor less" else "resnet50"
    with pytest.raises(AutotlError, match=rf"don't fit torchvision's {model}: .*layer"):
        TorchvisionBackbone(f"torchvision:{model}@{tmp_path / 'odd.safetensors'}").build()


# names


def test_names_of_others_are_left_to_others() -> None:
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
def test_a_wrong_name_says_what_there_is(name: str, message: str) -> None:
    with pytest.raises(AutotlError, match=message.replace(".", r"\.")):
        autotl_find_backbone(name)


def test_listed_names_are_found_again() -> None:
    listed = autotl_list_backbones()
    assert {"torchvision:vgg19", "torchvision:mobilenet_v3_small"} <= set(listed)
    assert not {name for name in listed if autotl_find_backbone(name) is None}


def test_a_file_behind_the_plugins_own_name_is_torchvisions(made: Make) -> None:
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


def test_registering_and_looking_for_weights_imports_no_torch() -> None:
    script = (
        "import sys, autotl_torchvision as plugin\n"
        "found = []; plugin.autotl_register_backbones(found.append)\n"
        "print({b.is_cached for b in found} <= {True, False}, {'torch', 'torchvision'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["True", "set()"]
