"""The curated list states what timm has."""

import pytest
import torch
from timm.models import get_pretrained_cfg
from torch.utils.flop_counter import FlopCounterMode

from autotl.backbones.catalog import CURATED, CuratedBackbone, datasets_in_tag
from autotl.backbones.timm import TimmBackbone, autotl_find_backbone, autotl_register_backbones

NON_COMMERCIAL = ("nc", "noncommercial", "non-commercial", "research")


@pytest.mark.parametrize("entry", CURATED, ids=lambda entry: entry.name)
def test_an_entry_states_what_timm_has(entry: CuratedBackbone) -> None:
    model = entry.name.partition(",")[0]
    config = get_pretrained_cfg(model)
    backbone = autotl_find_backbone(entry.name)
    assert backbone is not None
    assert config.tag == model.partition(".")[2]
    assert config.hf_hub_id == entry.hub
    assert config.license == entry.license.lower()
    assert not set(config.license.split("-")) & set(NON_COMMERCIAL)
    assert entry.pretrained_on.startswith(backbone.pretrained_on)
    assert (backbone.preprocessing.size, backbone.preprocessing.squash) == (entry.size, False)
    assert (backbone.preprocessing.mean, backbone.preprocessing.std) == (config.mean, config.std)
    assert entry.size == config.input_size[1] or ",size=" in entry.name
    assert f"about {entry.megabytes} MB" in TimmBackbone(model)._describe_download()


@pytest.mark.slow
@pytest.mark.parametrize("entry", CURATED, ids=lambda entry: entry.name)
def test_an_entry_states_the_size_of_its_network_and_the_cost_of_an_image(entry: CuratedBackbone) -> None:
    backbone = TimmBackbone(entry.name)
    with torch.device("meta"):
        network = backbone.build(pretrained=False)
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, entry.size, entry.size))
    assert sum(p.numel() for p in network.parameters()) == entry.num_params
    assert counter.get_total_flops() / 2e9 == pytest.approx(entry.gmacs, rel=1e-2)


def test_the_list_begins_with_the_smallest_and_goes_from_3_to_300_million_parameters() -> None:
    sizes = [entry.num_params for entry in CURATED]
    assert sizes == sorted(sizes)
    assert sizes[0] < 3e6 < 300e6 < sizes[-1]


def test_the_registered_backbones_state_the_facts_of_the_list() -> None:
    registered: list[TimmBackbone] = []
    autotl_register_backbones(registered.append)  # type: ignore[arg-type]
    for backbone, entry in zip(registered, CURATED, strict=True):
        for fact in ("name", "pretrained_on", "license", "num_params", "megabytes", "gmacs", "top1", "size"):
            assert getattr(backbone, fact) == getattr(entry, fact)


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
