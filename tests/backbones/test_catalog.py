"""The curated list states what timm has."""

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg

from autotl.backbones.catalog import CURATED, CuratedBackbone, datasets_in_tag
from autotl.backbones.timm import TimmBackbone, autotl_find_backbone


@pytest.mark.parametrize("entry", CURATED, ids=lambda entry: entry.name)
def test_an_entry_states_what_timm_has(entry: CuratedBackbone) -> None:
    config = get_pretrained_cfg(entry.name)
    backbone = autotl_find_backbone(entry.name)
    assert backbone is not None
    with torch.device("meta"):
        module = timm.create_model(entry.name, num_classes=0)
    assert config.hf_hub_id == f"timm/{entry.name}"
    assert config.license == entry.license.lower()
    assert sum(p.numel() for p in module.parameters()) == entry.num_params
    assert f"about {entry.megabytes} MB" in TimmBackbone(entry.name)._describe_download()
    assert backbone.pretrained_on in (entry.pretrained_on, "unknown")
    assert backbone.preprocessing.size == entry.size


@pytest.mark.parametrize(
    ("tag", "datasets"),
    [
        ("augreg_in21k_ft_in1k", "ImageNet-21k, then ImageNet-1k"),
        ("lvd142m", "LVD-142M"),
        ("tv2", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_tag_names_the_pretraining_data_in_order(tag: str, datasets: str) -> None:
    assert datasets_in_tag(tag) == datasets
