"""What is tried next: known-good recipes, shares of time, and backbones only where there is time for them."""

import pytest

from autotl.registry import load_registry
from autotl.search.schedule import Schedule
from autotl.search.space import Choices, known_good


@pytest.fixture(scope="module")
def registry():
    return load_registry()


@pytest.fixture
def schedule(registry):
    return lambda tried=(): Schedule(_choices(registry), registry, tried, n_images=2000, cores=2)


def _choices(registry):
    backbones = ("efficientnet_lite0", "efficientnet_lite2")
    return Choices(backbones, tuple(registry.strategies), ("logistic_regression", "linear"), 1600, 2)


def test_the_first_trial_is_the_cheapest_strategy_on_the_smallest_backbone(schedule):
    first = schedule().next(300, {})
    assert (first["strategy"], first["backbone"]) == ("fast_extraction", "efficientnet_lite0")


def test_known_good_recipes_cover_every_strategy(schedule, registry):
    plan = schedule().plan
    assert {p["strategy"] for p in plan} == set(registry.strategies)


def test_what_a_resumed_study_has_tried_is_not_tried_again(schedule, registry):
    tried = known_good(_choices(registry), registry)[:2]
    assert schedule(tried).next(300, {}) not in tried


def test_time_is_shared_out_between_strategies(schedule, registry):
    mine = schedule(known_good(_choices(registry), registry))
    seconds = dict.fromkeys(registry.strategies, 0.0)
    cost = {"fast_extraction": 1.0, "extract_augment": 10.0, "fine_tuning": 30.0}
    for _ in range(300):
        strategy = mine.next(float("inf"), {})["strategy"]
        seconds[strategy] += cost[strategy]
        mine.finished(strategy, cost[strategy], complete=True)
    assert max(seconds.values()) - min(seconds.values()) <= 30.0


def test_running_trials_count_towards_their_strategys_share(schedule, registry):
    mine = schedule(known_good(_choices(registry), registry))
    running = {"fast_extraction": 5.0, "extract_augment": 5.0}
    assert mine.next(float("inf"), running)["strategy"] == "fine_tuning"


def test_a_strategy_whose_trials_no_longer_fit_is_left_out(schedule, registry):
    mine = schedule(known_good(_choices(registry), registry))
    mine.finished("fine_tuning", 60.0, complete=True)
    mine.finished("extract_augment", 60.0, complete=True)
    assert {mine.next(20.0, {})["strategy"] for _ in range(5)} == {"fast_extraction"}


def test_a_backbone_that_would_take_most_of_the_time_left_stays_closed(schedule):
    mine = schedule()
    mine.next(300, {})
    mine.rates["efficientnet_lite0"] = 20.0  # 2,000 images take 50 s, and larger backbones longer
    while mine.plan:
        assert mine.next(100, {})["backbone"] == "efficientnet_lite0"
    assert mine.next(100, {})["backbone"] == "efficientnet_lite0"


def test_with_time_enough_every_backbone_is_the_samplers_choice(schedule):
    mine = schedule()
    mine.rates["efficientnet_lite0"] = 20.0
    while mine.plan:
        mine.next(10_000, {})
    assert "backbone" not in mine.next(10_000, {})
