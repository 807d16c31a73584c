"""Backbones are measured on real patches of photographs: the cards, what is extracted, and what isn't."""

import json

import numpy as np
import pytest

from autotl.alignment.align import align_backbones
from autotl.alignment.card import Alignment
from autotl.alignment.measure import _gap
from autotl.alignment.norms import norm_distances, ordinary_photographs
from autotl.alignment.scores import BUILT_IN
from autotl.backbones.base import Block
from autotl.errors import AutotlError


@pytest.fixture
def align(extractor, tiny):
    dataset = extractor.dataset
    pool, units = extractor.split.train, np.arange(len(dataset))

    def run(names, broken=(), **more):
        backbones = [*broken, *(tiny(name) for name in names)]
        scores = {name: BUILT_IN[name] for name in ("knn", "nce", "leep")}
        return align_backbones(extractor, backbones, pool, units, scores=scores, **{"with_invariances": False, **more})

    return run


@pytest.mark.slow
def test_a_card_has_every_depth_and_what_the_own_head_answers(align):
    alignment = align(["test_resnet"], with_invariances=True)
    card = alignment.cards[0]
    assert card.num_images == alignment.num_images == 36
    assert [level.depth for level in card.levels] == sorted({level.depth for level in card.levels})
    assert card.levels[-1].depth == card.num_blocks
    assert card.probe > 0.8  # three photographs are easily told apart
    assert [seen.label for seen in card.seen] == ["astronaut", "chelsea", "coffee"]
    assert all(0 < seen.share <= 1 and 0 < seen.confidence <= 1 for seen in card.seen)
    assert card.scores["leep"] is not None
    assert card.norm_ratio > 0
    kept = json.loads(json.dumps(alignment.to_dict()))
    assert kept["cards"][0]["peak"] == card.peak
    assert Alignment.from_dict(kept) == alignment
    # 36 images: 4 of 7 symmetries of the square are quarter turns
    assert [invariance.name for invariance in card.invariances] == ["flip", "turn"]
    assert card.invariances[0].num_images == 36
    assert all(0 < invariance.error < 0.5 for invariance in card.invariances)


@pytest.mark.slow
def test_nothing_is_extracted_twice(align, extractor):
    first = align(["test_resnet"], limit=20, with_norms=False)
    assert first.share_of_pass == pytest.approx(20 / 36)
    assert first.share_of_others == 0.0
    more = align(["test_resnet"], with_norms=False)
    assert more.share_of_pass == pytest.approx(16 / 36)
    assert align(["test_resnet"], with_norms=False).share_of_pass == 0.0


def test_a_backbone_that_fails_costs_a_warning_and_the_others_are_measured(align, tiny, monkeypatch):
    broken = tiny("test_efficientnet")

    def build(**arguments):
        raise AutotlError("no such weights")

    monkeypatch.setattr(broken, "build", build)
    alignment = align(["test_resnet"], broken=[broken], with_norms=False)
    assert len(alignment.cards) == 1
    assert alignment.warnings == (f"{broken.name}: no such weights",)


def test_without_any_backbone_the_error_says_what_to_type(align):
    with pytest.raises(AutotlError, match="autotl backbones"):
        align([])


def test_statistics_of_the_own_images_have_no_distance():
    import torch
    from torch import nn

    norm = nn.BatchNorm2d(3, momentum=None, eps=1e-9)
    images = np.random.default_rng(0).integers(0, 255, (16, 8, 8, 3), dtype=np.uint8)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = norm

        def forward(self, x):
            return self.norm(x.permute(0, 3, 1, 2).float())

    network = Network()
    blocks = [Block("norm", ("norm",))]
    assert norm_distances(network.eval(), network, blocks, images) is None  # never trained
    with torch.no_grad():
        network.train()(torch.from_numpy(images))
    network.eval()
    # a shift by one deviation in every channel: KL = 1/2
    shift = images + np.sqrt(norm.running_var.numpy())
    assert norm_distances(network, network, blocks, images) == pytest.approx({"norm": 0.0}, abs=1e-4)
    assert norm_distances(network, network, blocks, shift) == pytest.approx({"norm": 0.5}, abs=0.01)


def test_the_anchor_is_crops_of_two_photographs():
    crops = ordinary_photographs(64)
    assert crops.shape == (32, 64, 64, 3)
    assert crops.dtype == np.uint8
    assert np.array_equal(crops, ordinary_photographs(64))
    assert len(np.unique(crops.reshape(32, -1), axis=0)) == 32


def test_the_level_that_beats_the_output_is_chosen_on_other_images():
    last = np.zeros(100, bool)
    even = np.arange(100) % 2 == 0
    # each level is right where the other is wrong: whichever one half chooses fails on the other half
    assert _gap([even, ~even], last)[0] == 0.0
    assert _gap([~last, even], last)[0] == 1.0
    assert _gap([], last) == (0.0, 0.0)
