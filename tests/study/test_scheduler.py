"""What is tried next: known-good recipes, shares of time, and backbones only where there is time for them."""

import pytest

from autotl.registry import load_registry
from autotl.study.portfolio import cheap_portfolio, expensive_heads, expensive_portfolio
from autotl.study.scheduler import Schedule
from autotl.study.space import Choices


@pytest.fixture(scope="module")
def registry():
    return load_registry()


@pytest.fixture
def schedule(registry):
    return lambda tried=(): Schedule(_choices(registry), registry, tried, n_images=2000, cores=2)


def _choices(registry):
    backbones = ("efficientnet_lite0", "efficientnet_lite2")
    return Choices(backbones, tuple(registry.strategies), ("logistic_regression", "linear"), 1600, 2)


def _everything_known(registry):
    choices = _choices(registry)
    deeper = [
        recipe
        for backbone in choices.backbones
        for strategy in choices.strategies
        for head in expensive_heads(choices, registry, strategy)
        for recipe in expensive_portfolio(registry, backbone, strategy, head, 8)
    ]
    return [*cheap_portfolio(choices, registry), *deeper]


def test_the_first_trial_is_the_cheapest_strategy_on_the_smallest_backbone(schedule):
    first = schedule().next(300, {})
    assert (first["strategy"], first["backbone"]) == ("fast_extraction", "efficientnet_lite0")


def test_known_good_recipes_cover_every_strategy(schedule, registry):
    plan = schedule().plan
    assert {p["strategy"] for p in plan} == set(registry.strategies)


def test_what_a_resumed_study_has_tried_is_not_tried_again(schedule, registry):
    tried = cheap_portfolio(_choices(registry), registry)[:2]
    assert schedule(tried).next(300, {}) not in tried


def test_time_is_shared_out_between_strategies(schedule, registry):
    mine = schedule(_everything_known(registry))
    seconds = dict.fromkeys(registry.strategies, 0.0)
    cost = {"fast_extraction": 1.0, "extract_augment": 10.0, "fine_tuning": 30.0}
    for _ in range(300):
        strategy = mine.next(float("inf"), {})["strategy"]
        seconds[strategy] += cost[strategy]
        mine.finished({"strategy": strategy}, cost[strategy], value=0.5)
    assert max(seconds.values()) - min(seconds.values()) <= 30.0


def test_running_trials_count_towards_their_strategys_share(schedule, registry):
    mine = schedule(_everything_known(registry))
    running = {"fast_extraction": 5.0, "extract_augment": 5.0}
    assert mine.next(float("inf"), running)["strategy"] == "fine_tuning"


def test_a_strategy_whose_trials_no_longer_fit_is_left_out(schedule, registry):
    mine = schedule(_everything_known(registry))
    mine.finished({"strategy": "fine_tuning"}, 60.0, value=0.5)
    mine.finished({"strategy": "extract_augment"}, 60.0, value=0.5)
    assert {mine.next(20.0, {})["strategy"] for _ in range(5)} == {"fast_extraction"}


def test_a_strategy_is_not_begun_where_its_first_pass_would_take_most_of_the_time_left(schedule):
    mine = schedule()
    mine.rates["efficientnet_lite0"] = 50.0  # 2,000 images take 20 s
    assert {mine.next(40.0, {})["strategy"] for _ in range(30)} == {"fast_extraction"}
    mine = schedule()
    mine.rates["efficientnet_lite0"] = 50.0
    assert {mine.next(90.0, {})["strategy"] for _ in range(30)} == set(mine.choices.strategies)


def test_the_only_strategy_is_tried_whatever_it_takes(registry):
    choices = Choices(("efficientnet_lite0",), ("fine_tuning",), ("linear",), 1600, 2)
    mine = Schedule(choices, registry, (), n_images=2000, cores=2)
    mine.rates["efficientnet_lite0"] = 50.0
    assert mine.next(40.0, {})["strategy"] == "fine_tuning"


def test_a_backbone_that_would_take_most_of_the_time_left_stays_closed(schedule):
    mine = schedule()
    mine.next(300, {})
    mine.rates["efficientnet_lite0"] = 20.0  # 2,000 images take 50 s, and larger backbones longer
    while mine.plan:
        assert mine.next(100, {})["backbone"] == "efficientnet_lite0"
    assert mine.next(100, {})["backbone"] == "efficientnet_lite0"


def test_with_time_enough_any_backbone_may_be_tried(schedule):
    mine = schedule()
    mine.rates["efficientnet_lite0"] = 20.0
    while mine.plan or mine.deeper or mine.at_hand:
        mine.next(10_000, {})
    tried = {mine.next(10_000, {}).get("backbone", "the sampler's") for _ in range(100)}
    assert tried == {"efficientnet_lite0", "efficientnet_lite2", "the sampler's"}


def test_most_trials_are_of_a_kind_that_the_model_is_made_of(schedule, registry):
    mine = schedule(_everything_known(registry))
    mine.next(10_000, {})
    tried = [mine.next(10_000, {}) for _ in range(100)]
    chosen = [p for p in tried if f"{p['strategy']}.head" in p and "backbone" in p]
    assert 60 < len(chosen) < 95


def test_recording_features_is_not_put_down_to_a_kind(schedule, registry):
    mine = schedule(_everything_known(registry))
    kind = ("efficientnet_lite0", "linear")
    params = {"strategy": "fast_extraction", "backbone": kind[0], "fast_extraction.head": kind[1]}
    mine.finished(params, 30.0, value=0.9, recording=29.0)
    other = {**params, "backbone": "efficientnet_lite2"}
    mine.finished(other, 1.0, value=0.9)
    chosen = [mine.kinds.choose("fast_extraction", [kind, ("efficientnet_lite2", "linear")]) for _ in range(300)]
    assert 100 < chosen.count(kind) < 200


def test_a_thorough_recipe_is_as_thorough_as_the_time_allows(schedule):
    views = {}
    for seconds in (200, 10_000):
        mine = schedule()
        mine.rates["efficientnet_lite0"] = 100.0  # 2,000 images take 10 s: two passes are 10 % of 200 s
        tried = [mine.next(seconds, {}) for _ in range(20)]
        views[seconds] = [p["extract_augment.views"] for p in tried if p.get("extract_augment.policy") == "dihedral"]
    assert views[200][:1] == [1]
    assert views[10_000][:1] == [7]


def test_a_thorough_recipe_may_plan_for_more_time(schedule):
    mine = schedule()
    shares = {mine.next(10_000, {}).get("extract_augment.policy"): mine.share for _ in range(20)}
    assert shares["dihedral"] > shares["flip"]


def test_most_trials_look_at_what_an_earlier_one_has_recorded(schedule, registry):
    mine = schedule(_everything_known(registry))
    mine.next(10_000, {})
    running = {"fast_extraction": 1e6, "fine_tuning": 1e6}
    tried = [mine.next(10_000, running) for _ in range(50)]
    again = [p for p in tried if "extract_augment.policy" in p]
    assert 25 < len(again) < 50
    assert {(p["extract_augment.policy"], p["extract_augment.views"]) for p in again} == {("flip", 1), ("dihedral", 7)}


def test_where_a_pass_is_dear_every_trial_looks_at_what_is_recorded(schedule, registry):
    mine = schedule(_everything_known(registry))
    mine.next(10_000, {})
    mine.rates = {"efficientnet_lite0": 20.0, "efficientnet_lite2": 10.0}  # a pass takes 50 s and 100 s
    running = {"fast_extraction": 1e6, "fine_tuning": 1e6}
    assert all("extract_augment.policy" in mine.next(1000, running) for _ in range(30))
    assert any("extract_augment.policy" not in mine.next(10_000, running) for _ in range(30))
