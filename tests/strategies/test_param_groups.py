"""Which parameters weight decay applies to: timm's rule, with the learning rates of the blocks."""

import pytest
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from autotl.recipe import Recipe
from autotl.strategies.fine_tuning import FineTuning, add_head
from autotl.strategies.param_groups import no_weight_decay, parameter_groups


def groups_of(backbone, task, **params):
    """A net with every block unfrozen, and its optimizer's groups."""
    params = {**FineTuning().defaults(None), **params}
    recipe = Recipe(backbone.name, "fine_tuning", "linear", 0, params, {"dropout": 0.2})
    net = add_head(task(backbone, "linear"), recipe, "cpu")
    net.freeze_base()
    net.unfreeze(99)
    return net, net._groups()


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_norms_biases_and_position_embeddings_of_the_base_have_no_weight_decay(name, tiny, task):
    net, groups = groups_of(tiny(name), task, weight_decay=0.3)
    decay_of = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert set(decay_of.values()) == {0.0, 0.3}
    timm_groups = param_groups_layer_decay(net.base, 0.3, no_weight_decay(net.base))
    expected = {id(p): group["weight_decay"] for group in timm_groups for p in group["params"]}
    names = {id(p): parameter for parameter, p in net.base.named_parameters()}
    assert {names[i]: decay_of[i] for i in names} == {names[i]: expected[i] for i in names}


def test_class_token_and_position_embeddings_have_no_weight_decay(tiny, task):
    net, groups = groups_of(tiny("test_vit"), task)
    exempt = {id(p) for group in groups if not group["weight_decay"] for p in group["params"]}
    assert {id(net.base.pos_embed), id(net.base.cls_token)} <= exempt
    assert min(net.base.pos_embed.ndim, net.base.cls_token.ndim) > 1  # exempt by their names alone


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_each_block_keeps_its_learning_rate_with_and_without_weight_decay(name, tiny, task):
    net, groups = groups_of(tiny(name), task, lr=1e-3, lr_decay=0.5)
    lr_of = {id(p): group["lr"] for group in groups for p in group["params"]}
    for depth, block in enumerate(reversed(net.blocks)):
        assert {lr_of[id(p)] for _, p in net._named_parameters(block)} == {1e-3 * 0.5**depth}
    assert {lr_of[id(p)] for p in net.head.parameters()} == {5e-3}


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_the_groups_hold_every_unfrozen_parameter_once(name, tiny, task):
    net, groups = groups_of(tiny(name), task)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in [*net.base.parameters(), *net.head.parameters()])


def test_exempt_names_may_be_patterns():
    module = nn.ModuleDict({"attention": nn.Linear(2, 2), "table": nn.Linear(2, 2)})
    decayed, exempt = parameter_groups(module.named_parameters(), 0.1, 0.2, {"*table*"})
    assert [p is module["attention"].weight for p in decayed["params"]] == [True]
    assert len(exempt["params"]) == 3


@pytest.mark.parametrize(
    "name",
    ["pos_embed", "encoder.pos_embedding", "embeddings.position_embeddings", "embeddings.cls_token", "class_token"],
)
def test_embeddings_of_networks_that_do_not_list_them_have_no_weight_decay(name):
    (group,) = parameter_groups([(name, nn.Parameter(torch.zeros(1, 5, 3)))], 0.1, 0.2)
    assert group["weight_decay"] == 0.0


def test_an_empty_group_is_left_out():
    groups = parameter_groups([("bias", nn.Parameter(torch.zeros(3)))], 0.1, 0.2)
    assert [group["weight_decay"] for group in groups] == [0.0]
