"""The sentences, the verdict and the ranking, from cards whose numbers are known."""

from dataclasses import replace

import numpy as np
import pytest

from autotl.alignment.card import Alignment, Card, Invariance, LevelAccuracy, Seen
from autotl.alignment.norms import BlockDistance
from autotl.alignment.ranking import published_accuracy, ranked
from autotl.alignment.sample import stratified_order
from autotl.alignment.words import blocks_to_retrain, doubling_gain, sentences, symmetry_of, unfreeze_of, verdict_of

CARD = Card(
    backbone="first",
    pretrained_on="ImageNet-1k",
    num_images=256,
    num_blocks=9,
    levels=(LevelAccuracy(3, 0.6, 0.03), LevelAccuracy(7, 0.8, 0.03), LevelAccuracy(9, 0.9, 0.02)),
    gap=-0.1,
    gap_error=0.02,
    probe=0.9,
    probe_error=0.02,
    probe_half=0.8,
    recalls={"ants": 0.95, "bees": 0.85},
    counts={"ants": 128, "bees": 128},
    scores={"knn": 0.9, "leep": None},
    seen=(Seen("bees", "bee", 0.9, 0.5), Seen("ants", "ant", 0.4, 0.5)),
    norms=(BlockDistance("stem", 0.3, 0.1), BlockDistance("head", 0.3, 0.2)),
    seconds_per_image=0.01,
)
INNER = (LevelAccuracy(3, 0.6, 0.03), LevelAccuracy(7, 0.8, 0.03), LevelAccuracy(9, 0.7, 0.02))
FAR = replace(CARD, levels=INNER, gap=0.1, gap_error=0.02, norms=(BlockDistance("stem", 0.9, 0.1),))


class Known:
    def __init__(self, top1=None, params=3_000_000):
        self.top1, self.params = top1, params

    def count_params(self):
        return self.params


def test_near_images_need_no_retraining():
    assert CARD.norm_ratio == pytest.approx(2.0)
    assert verdict_of(CARD) == "near"
    assert blocks_to_retrain(CARD, 5000) == 0


def test_retraining_begins_after_the_best_level():
    assert verdict_of(FAR) == "far"
    assert FAR.peak == 7
    assert blocks_to_retrain(FAR, 5000) == 2


def test_without_statistics_the_gap_decides():
    assert verdict_of(replace(FAR, norms=None)) == "far"
    assert verdict_of(replace(CARD, norms=None, gap=0.01, gap_error=0.02)) == "near"


def test_far_statistics_alone_advise_one_block():
    assert blocks_to_retrain(replace(CARD, norms=FAR.norms), 5000) == 1


def test_few_images_are_better_left_to_frozen_features():
    assert blocks_to_retrain(FAR, 256) == 0
    assert "256 images are few" in sentences(FAR, [], 256)[3]
    assert "256" not in sentences(CARD, [], 256)[3]  # these are near whatever their number


def test_far_first_blocks_before_near_last_ones_are_retrained_instead():
    def card(*ratios):
        return replace(CARD, norms=tuple(BlockDistance(str(i), ratio, 1.0) for i, ratio in enumerate(ratios)))

    coloured = card(20.0, 4.0, 1.0)
    assert (verdict_of(coloured), unfreeze_of(coloured)) == ("far", "first")
    assert "Retrain the first block of 9: " in sentences(coloured, [], 5000)[3]
    assert unfreeze_of(card(20.0, 4.0, 3.0)) == "last"  # the last ones are strange, too
    assert unfreeze_of(card(5.0, 1.0, 1.0)) == "last"  # near as a whole
    assert unfreeze_of(replace(CARD, norms=None)) == "last"


@pytest.mark.parametrize(
    ("flipped", "turned", "symmetry"),
    [(0.90, 0.88, "turns"), (0.90, 0.70, "flips"), (0.70, 0.60, "none"), (0.70, 0.90, "none")],
)
def test_what_keeps_the_label_may_augment(flipped, turned, symmetry):
    tested = tuple(Invariance(name, 64, 0.9, s, 0.03) for name, s in (("flip", flipped), ("turn", turned)))
    card = replace(CARD, invariances=tested)
    assert symmetry_of(card) == symmetry
    assert f"90% right, {turned:.0%} after a turn" in sentences(card, [], 500)[3]
    assert symmetry_of(CARD) == ""


def test_errors_that_halved_are_expected_to_halve_again():
    assert doubling_gain(CARD) == pytest.approx(0.05)
    assert doubling_gain(replace(CARD, probe_half=0.95)) == 0.0


def test_there_are_at_most_six_sentences_and_each_has_a_number():
    for card in (CARD, FAR, replace(FAR, norms=None, seen=None), replace(CARD, probe_half=0.9)):
        text = sentences(card, [replace(CARD, backbone="second", predicted=-0.02)], 500)
        assert len(text) == 6
        assert all(any(character.isdigit() for character in sentence) for sentence in text)
        assert all(sentence.endswith(".") and not sentence[:-1].endswith(".") for sentence in text)
    assert "in bees it sees bee (90% of the images" in sentences(CARD, [], 500)[0]
    assert "peaks after block 7" in sentences(FAR, [], 5000)[3]
    assert "begin with bees, of which 85% are right" in sentences(CARD, [], 500)[4]


def test_the_json_has_what_the_cards_compute():
    alignment = Alignment("ants", 500, (CARD,), "near", 0, sentences(CARD, [], 500))
    card = alignment.to_dict()["cards"][0]
    assert (card["peak"], card["norm_ratio"]) == (9, pytest.approx(2.0))


def hits(share, n):
    return np.arange(n) % 100 < 100 * share


def test_few_images_leave_the_prior_in_charge_and_many_override_it():
    backbones = [Known(top1=80.0), Known(top1=70.0)]

    def first(n, better):
        shares = (0.80, 0.80 + better)
        cards = [
            replace(CARD, backbone=name, probe=share) for name, share in zip(("well", "less"), shares, strict=True)
        ]
        rng = np.random.default_rng(0)
        right = [hits(share, n)[rng.permutation(n)] for share in shares]
        return ranked(cards, right, backbones)[0].backbone

    assert first(100, 0.02) == "well"
    assert first(5000, 0.04) == "less"


def test_a_network_of_unknown_accuracy_is_believed_for_its_measurement():
    cards = [replace(CARD, backbone="published", probe=0.85), replace(CARD, backbone="random", probe=0.30)]
    order = ranked(cards, [hits(0.85, 300), hits(0.30, 300)], [Known(top1=75.0), Known(params=80_000_000)])
    assert [card.backbone for card in order] == ["published", "random"]
    assert order[1].predicted < 0.45
    assert published_accuracy(Known(params=30_000_000))[0] == pytest.approx(74.5 + 7.3)


def test_samples_are_nested_and_stratified():
    labels = np.repeat([0, 1, 2], [700, 290, 10])
    order = stratified_order(labels, seed=1)
    assert sorted(order) == list(range(1000))
    assert np.bincount(labels[order[:15]]).tolist() == [5, 5, 5]
    counts = np.bincount(labels[order[:500]])
    assert counts[2] >= 5
    assert abs(counts[0] / counts[1] - 700 / 290) < 0.1
