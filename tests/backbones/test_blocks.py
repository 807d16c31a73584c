"""Blocks hold every parameter once, in the largest modules that lie in one group, from input to output."""

import pytest
import timm
import torch
from torch import nn

from autotl.backbones.base import Block
from autotl.backbones.blocks import blocks_from_groups, groups_by_position
from autotl.backbones.timm import TimmBackbone


def parameters_of(block: Block, module: nn.Module) -> list[str]:
    inside = [f"{m}.{name}" for m in block.modules for name, _ in module.get_submodule(m).named_parameters()]
    return inside + list(block.parameters)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(3))
        self.stem = nn.Linear(3, 3)
        self.act = nn.ReLU()
        self.stages = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))


GROUPS = {"token": 0, "stem": 0, "stages.0": 1, "stages.2.0": 2, "stages.2.1": 2}


def group_of(parameter: str) -> int:
    return next(number for part, number in GROUPS.items() if parameter.startswith(part))


def test_a_block_is_the_largest_modules_of_its_group_and_its_other_parameters() -> None:
    assert blocks_from_groups(Small(), group_of) == [
        Block("token+stem", ("stem",), ("token",)),
        Block("stages.0", ("stages.0",)),
        Block("stages.2", ("stages.2",)),
    ]


def test_a_mapping_gives_the_same_blocks_as_a_function() -> None:
    module = Small()
    mapping = {name: group_of(name) for name, _ in module.named_parameters()}
    assert blocks_from_groups(module, mapping) == blocks_from_groups(module, group_of)


def test_blocks_are_in_the_order_of_their_group_numbers() -> None:
    backwards = blocks_from_groups(Small(), lambda name: -group_of(name))
    assert [block.name for block in backwards] == ["stages.2", "stages.0", "token+stem"]


def test_a_module_in_two_groups_is_divided() -> None:
    divided = blocks_from_groups(Small(), lambda name: int(name == "stages.2.0.bias"))
    assert divided[1] == Block("stages.2.0.bias", (), ("stages.2.0.bias",))
    assert divided[0].modules == ("stem", "stages.0", "stages.2.1")
    assert divided[0].parameters == ("token", "stages.2.0.weight")


def test_a_single_group_lists_the_children_not_the_root() -> None:
    assert blocks_from_groups(Small(), lambda name: 0) == [Block("token+stem+stages", ("stem", "stages"), ("token",))]


def test_a_block_of_many_parts_is_named_by_the_first_and_the_last() -> None:
    module = nn.Sequential(*[nn.Linear(1, 1) for _ in range(5)])
    assert [block.name for block in blocks_from_groups(module, lambda name: 0)] == ["0+…+4"]


def test_a_shared_parameter_is_in_one_block() -> None:
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    assert blocks_from_groups(module, lambda name: int(name[0])) == [Block("0", ("0",)), Block("1", ("1",))]


def test_a_mapping_without_a_parameter_is_an_error() -> None:
    with pytest.raises(KeyError, match="stages"):
        blocks_from_groups(Small(), {"token": 0, "stem.weight": 0, "stem.bias": 0})


def test_groups_by_position_are_children_and_members_of_containers() -> None:
    module = Small()
    names = [block.name for block in blocks_from_groups(module, groups_by_position(module))]
    assert names == ["token", "stem", "stages.0", "stages.2"]


FIRST_AND_LAST = {
    "test_resnet": (5, "conv1+bn1", "layer4"),
    "test_vit": (7, "cls_token+pos_embed+patch_embed", "blocks.5+norm"),
    "test_convnext": (6, "stem", "head"),
    "test_efficientnet": (6, "conv_stem+bn1", "blocks.4+conv_head+bn2"),
    "tf_efficientnet_lite0": (8, "conv_stem+bn1", "blocks.6+conv_head+bn2"),
    "resnet18": (5, "conv1+bn1", "layer4"),
    "vit_tiny_patch16_224": (13, "cls_token+pos_embed+patch_embed", "blocks.11+norm"),
    "mobilenetv3_small_100": (8, "conv_stem+bn1", "conv_head"),
    "convnext_atto": (6, "stem", "head"),
    "swin_tiny_patch4_window7_224": (6, "patch_embed", "norm"),
    "rdnet_tiny": (9, "stem", "head"),  # supports fine groups only
    "caformer_s18": (6, "stem", "head"),  # supports no groups
}


@pytest.mark.parametrize("name", FIRST_AND_LAST)
def test_the_blocks_of_a_timm_model_hold_every_parameter_once_in_order(name: str) -> None:
    with torch.device("meta"):
        module = timm.create_model(name, num_classes=0)
    blocks = TimmBackbone(name).blocks(module)
    held = [parameter for block in blocks for parameter in parameters_of(block, module)]
    assert sorted(held) == sorted(parameter for parameter, _ in module.named_parameters())
    assert (len(blocks), blocks[0].name, blocks[-1].name) == FIRST_AND_LAST[name]
