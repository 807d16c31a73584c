"""Each check of a backbone finds its violation."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from autotl.backbones.base import Block, Preprocessing
from autotl.backbones.weights import read_tensors
from autotl.testing import CHECKS, ContractViolation

# a worker process must be able to import the module, which pytest's importlib mode doesn't allow for
sys.path.insert(0, str(Path(__file__).parent))
import valid_backbone
from valid_backbone import ValidBackbone


class Unnamed(ValidBackbone):
    license = ""


class Incomplete(ValidBackbone):
    preprocessing = Preprocessing(32, 0.9, "bicubic", (124.0, 116.0, 104.0), (58.0, 57.0, 57.0))


class Different(ValidBackbone):
    def build(self, *, pretrained=True):
        network = super().build(pretrained=pretrained)
        if pretrained:
            nn.init.normal_(network[1][0].bias)
        return network


class Training(ValidBackbone):
    def build(self, *, pretrained=True):
        return super().build(pretrained=pretrained).train()


class Remembering(ValidBackbone):
    made = None

    def build(self, *, pretrained=True):
        self.made = self.made or super().build(pretrained=pretrained)
        return self.made


class Wider(ValidBackbone):
    def build(self, *, pretrained=True):
        network = super().build(pretrained=pretrained)
        if not pretrained:
            network[1][0] = nn.Conv2d(8, 16, 3, stride=2)
        return network


class Constant(ValidBackbone):
    digest = "0123456789abcdef"


class ReadsAnother(ValidBackbone):
    def weights_file(self):
        return self.file

    def build(self, *, pretrained=True):
        network = valid_backbone.network()
        if pretrained:
            network.load_state_dict(read_tensors(self.file))
        return network.eval()


class Maps(ValidBackbone):
    def build(self, *, pretrained=True):
        return super().build(pretrained=pretrained)[:2].eval()


class Unfinished(ValidBackbone):
    def build(self, *, pretrained=True):
        network = super().build(pretrained=pretrained)
        with torch.no_grad():
            network[1][0].bias[0] = float("nan")
        return network


class Misstated(ValidBackbone):
    num_features = 1280


class ByTheBatch(ValidBackbone):
    def build(self, *, pretrained=True):
        network = super().build(pretrained=pretrained)
        network[0][1] = nn.BatchNorm2d(8, track_running_stats=False)
        return network.eval()


class Random(ValidBackbone):
    def build(self, *, pretrained=True):
        network = super().build(pretrained=pretrained)
        network[2].append(Noise())
        return network.eval()


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


class Gap(ValidBackbone):
    def blocks(self, module):
        return [Block("first", ("0.0",)), Block("second", ("1",))]


class Twice(ValidBackbone):
    def blocks(self, module):
        return [Block("first", ("0",)), Block("second", ("0.1", "1"))]


class Backwards(ValidBackbone):
    def blocks(self, module):
        return super().blocks(module)[::-1]


class Miscounted(ValidBackbone):
    num_blocks = 5


class Asleep(ValidBackbone):
    """A block that nothing passes through never learns."""

    def build(self, *, pretrained=True):
        network = super().build(pretrained=pretrained)
        network[1][0].forward = Frozen(network[1][0])
        return network


class Frozen:
    def __init__(self, conv):
        self.conv = conv

    def __call__(self, x):
        with torch.no_grad():
            return nn.functional.conv2d(x, self.conv.weight, self.conv.bias, 2)


class Raising(ValidBackbone):
    def blocks(self, module):
        raise KeyError("layer9")


@pytest.mark.parametrize(
    ("backbone", "check", "got"),
    [
        (Unnamed, "is_described", "license is ''"),
        (
            Incomplete,
            "preprocessing_is_complete",
            "mean is (124.0, 116.0, 104.0): outside of the range of x/255, 0 to 1",
        ),
        (Different, "builds_twice_alike", "in the second network 1 of 9 tensors differ, '1.0.bias' first"),
        (Training, "builds_twice_alike", "a network in training mode"),
        (Remembering, "builds_twice_alike", "tensors differ"),
        (
            Wider,
            "builds_the_same_network_without_weights",
            "'1.0.weight' has shape (12, 8, 3, 3) with weights and (16, 8, 3, 3)",
        ),
        (Constant, "digest_follows_the_weights", "were changed and the digest is still 0123456789abcdef"),
        (Maps, "features_are_sound", "features of 4 images are [4, 12, 7, 7]: pool the feature maps"),
        (Unfinished, "features_are_sound", "4 of 4 images have NaN or infinite features"),
        (Misstated, "features_are_sound", "12 features, and num_features is 1280"),
        (ByTheBatch, "features_are_deterministic", "one by one they differ by up to"),
        (Random, "features_are_deterministic", "in a second run they differ by up to"),
        (Gap, "blocks_cover_every_parameter_once", "in no block: 0.1.weight, 0.1.bias"),
        (Twice, "blocks_cover_every_parameter_once", "'0.1.weight' is in block 'first' and in block 'second'"),
        (Miscounted, "blocks_cover_every_parameter_once", "num_blocks is 5, and there are 2"),
        (Backwards, "blocks_are_in_forward_order", "they begin in the order 0, 1"),
        (Asleep, "freezing_keeps_exactly_the_frozen_blocks", "no tensor of block"),
        (Raising, "blocks_are_in_forward_order", "KeyError: 'layer9'"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_backbone_that_violates_its_contract(backbone, check, got, weights, violation):
    assert got in violation("backbone", check, backbone(weights))


def test_a_valid_backbone_has_no_violations(weights, violations):
    assert violations("backbone", ValidBackbone(weights)) == {}


def test_a_backbone_that_cannot_be_pickled(weights, violation):
    class Local(ValidBackbone):
        pass

    assert "can't be pickled" in violation("backbone", "pickles_to_a_worker_lightly", Local(weights))


def test_without_a_weights_file_the_digest_is_compared_to_another_backbones(weights, tmp_path):
    from safetensors.torch import save_file

    class Folder(ValidBackbone):
        def weights_file(self):
            return None

        @property
        def digest(self):
            return "a" * 32

        def build(self, *, pretrained=True):
            return valid_backbone.network().eval()

    save_file(valid_backbone.network().state_dict(), tmp_path / "other.safetensors")
    check = next(check for check in CHECKS["backbone"] if check.name == "digest_follows_the_weights")
    with pytest.raises(pytest.skip.Exception, match="weights_file"):
        check(Folder(weights))
    with pytest.raises(ContractViolation, match="has the same digest"):
        check(Folder(weights), other=Folder(tmp_path / "other.safetensors"))


def test_checks_do_not_load_weights_that_are_not_on_this_machine(tmp_path, violations):
    class Absent(ValidBackbone):
        is_cached = False

        def build(self, *, pretrained=True):
            assert not pretrained
            return super().build(pretrained=False)

    assert set(violations("backbone", Absent(tmp_path / "nowhere.safetensors"))) == {
        "pickles_to_a_worker_lightly"
    }  # a local class
