"""Who takes part in which round, what that costs, and who wins, with networks whose accuracy is known."""

from dataclasses import replace

import numpy as np
import pytest

from autotl.alignment.card import Card, LevelAccuracy
from autotl.alignment.measure import Measurement
from autotl.alignment.race import race

CARD = Card("", "", 0, 1, (LevelAccuracy(1, 0.9, 0.1),), 0.0, 0.0, 0.9, 0.1, 0.9, {}, {}, {}, None, None, None)


class Known:
    top1 = 75.0


class Unknown:
    """Perhaps of random weights."""

    top1 = None

    @staticmethod
    def count_params():
        return 5_000_000


class Course:
    """Networks that have each image right with a probability, and a note of what ran."""

    def __init__(self, accuracies, broken=()):
        self.accuracies, self.broken = accuracies, broken
        self.seen = dict.fromkeys(accuracies, 0)
        self.hits = np.random.default_rng(0).random(4096)

    def run(self, name, size):
        if name in self.broken:
            return None
        assert size > self.seen[name]
        self.seen[name] = size
        hits = self.hits[:size] < self.accuracies[name]
        return Measurement(replace(CARD, backbone=name, num_images=size, probe=float(hits.mean())), hits, size)

    def race(self, num_images, most=2048):
        backbones = {name: Unknown if name.startswith("trap") else Known for name in self.accuracies}
        return race(backbones, self.run, num_images, min(most, num_images))


@pytest.mark.parametrize("num_images", [245, 600, 1000, 3000, 50_000])
@pytest.mark.parametrize("num_backbones", [2, 3, 9])
def test_other_backbones_run_a_tenth_of_a_full_pass_at_most(num_images, num_backbones):
    course = Course({f"network{i}": 0.9 - 0.001 * i for i in range(num_backbones)})
    cards = course.race(num_images)
    assert len(cards) == num_backbones
    assert course.seen[cards[0].backbone] == min(num_images, 2048)
    assert sum(course.seen[card.backbone] for card in cards[1:]) <= 0.1 * num_images * num_backbones


def test_who_cannot_win_leaves_early_and_the_others_see_more():
    accuracies = {"best": 0.9, "good": 0.89, **{f"trap{i}": 0.3 for i in range(6)}}
    course = Course(accuracies)
    cards = course.race(2000)
    assert [card.backbone for card in cards[:2]] == ["best", "good"]
    assert all(card.num_images == 24 for card in cards[2:])
    assert course.seen["good"] > 500


def test_what_is_expected_of_those_that_left_follows_the_others():
    course = Course({"best": 0.9, "trap": 0.3})
    course.hits[:24] = np.linspace(0.2, 1.0, 24)  # the first images are harder than the others
    best, trap = course.race(3000)
    assert trap.num_images == 24
    before = trap.probe
    assert before < trap.predicted < best.predicted - 0.4
    assert best.predicted == best.probe


def test_a_backbone_that_fails_is_left_out_and_none_makes_no_race():
    assert [card.backbone for card in Course({"a": 0.9, "b": 0.8}, broken=["b"]).race(500)] == ["a"]
    assert Course({"a": 0.9}, broken=["a"]).race(500) == []
    assert Course({}).race(500) == []


def test_an_earlier_measurement_stands_where_time_ran_out():
    course = Course({"a": 0.9, "b": 0.89})
    run = course.run
    course.run = lambda name, size: run(name, size) if size <= 48 else None
    assert {card.num_images for card in course.race(1000)} == {48}
