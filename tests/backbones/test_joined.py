"""Several backbones under one name, and one backbone on images of another size."""

from dataclasses import replace

import pytest

from autotl.backbones.base import Backbone
from autotl.backbones.joined import JoinedBackbone, larger_size, with_size
from autotl.backbones.timm import TimmBackbone
from autotl.errors import AutotlError, UnknownName
from autotl.recipe import JOIN


@pytest.fixture
def pair(tiny):
    return tiny("test_resnet"), tiny("test_convnext")


def test_a_joined_name_leads_to_its_parts(registry, pair):
    found = registry.backbone(JOIN.join(backbone.name for backbone in pair))
    assert [part.name for part in found.parts] == [backbone.name for backbone in pair]
    assert registry.backbone(found.name) is found
    assert found.digest == "+".join(backbone.digest for backbone in pair)
    assert found.count_params() == sum(backbone.count_params() for backbone in pair)
    assert found.is_cached


def test_a_name_that_is_unknown_or_there_twice_is_refused(registry, pair):
    name = pair[0].name
    with pytest.raises(UnknownName, match="nothing_like_it"):
        registry.backbone(f"{name} + nothing_like_it")
    with pytest.raises(AutotlError, match="joins a backbone with itself"):
        registry.backbone(f"{name} + {name}")


def test_joined_backbones_have_no_network_of_their_own(pair):
    with pytest.raises(AutotlError, match="is 2 backbones, which can't be built or trained as one"):
        JoinedBackbone(pair).build()


def test_another_size_keeps_the_weights_and_changes_what_is_recorded(tiny):
    backbone = tiny("test_resnet")
    backbone.gmacs, backbone.size = 0.1, 160
    larger = backbone.at_size(224)
    assert (larger.name, larger.size, larger.gmacs) == (f"{backbone.name},size=224", 224, pytest.approx(0.196))
    assert larger.preprocessing == replace(backbone.preprocessing, size=224)
    assert larger.digest != backbone.digest
    assert backbone.preprocessing.size == 160
    assert larger.weights_file() == backbone.weights_file()


def test_a_registered_backbone_is_found_at_another_size(registry, tiny):
    backbone = tiny("test_resnet")
    registry.backbones["sized"] = TimmBackbone("sized", "test_resnet", backbone.file)
    registry.owners["backbone"]["sized"] = registry.plugins[0]
    try:
        found = registry.backbone("sized,size=192")
        assert (found.name, found.preprocessing.size) == ("sized,size=192", 192)
        assert registry.owner("backbone", found.name) is registry.plugins[0]
    finally:
        del registry.backbones["sized"], registry.owners["backbone"]["sized"]


def test_a_backbone_of_one_size_says_so(registry, monkeypatch, tiny):
    backbone = tiny("test_resnet")
    monkeypatch.setattr(TimmBackbone, "at_size", Backbone.at_size)
    monkeypatch.setitem(registry.backbones, "fixed", backbone)
    with pytest.raises(AutotlError, match="takes images of one size only"):
        registry.backbone("fixed,size=64")


@pytest.mark.parametrize(("size", "larger"), [(224, 288), (240, 320), (None, None)])
def test_the_larger_size_is_about_1_3_times_the_size(size, larger):
    backbone = TimmBackbone("resnet18", size=size)
    assert larger_size(backbone) == larger


def test_only_a_size_alone_is_an_option_of_any_backbone():
    assert with_size("a,size=288") == ("a", 288)
    assert with_size("a,mean=0.5,size=288") is with_size("a,size=288@file") is with_size("a") is None
