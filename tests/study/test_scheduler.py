"""What the scheduler fixes: the warm-start portfolio, equal time for strategies and pairs, backbones that fit in."""

import random
from collections import Counter

import numpy as np
import optuna
import pytest

from autotl.recipe import JOIN
from autotl.registry import load_registry
from autotl.study.needs import Recording, Work
from autotl.study.pairs import NUM_TUNED_PAIRS, PairStatistics
from autotl.study.portfolio import cheap_portfolio, expensive_heads, expensive_portfolio
from autotl.study.sampler import ConditionalTPESampler
from autotl.study.scheduler import Scheduler
from autotl.study.space import Choices, suggest
from autotl.study.speed_estimates import assumed_pass_seconds, multiply_adds

BACKBONES = ("efficientnet_lite0", "efficientnet_lite2")
LITE0, LITE2 = BACKBONES
PAIRS = [("backbone", f"head {i}") for i in range(NUM_TUNED_PAIRS + 5)]


@pytest.fixture(scope="module")
def registry():
    return load_registry()


@pytest.fixture(scope="module")
def choices(registry):
    return Choices(BACKBONES, tuple(registry.strategies), ("logistic_regression", "linear"), 1600, 2)


@pytest.fixture
def make(choices, registry):
    """A scheduler on two CPU threads; `speed` is the measured one of the first backbone, per thread."""

    def make(tried=(), choices=choices, speed=None, threads=None, **options):
        scheduler = Scheduler(choices, registry, tried, 2000, threads or {"cpu": 2}, **options)
        if speed:
            scheduler.observe_speed(LITE0, "levels", "cpu", speed)
        return scheduler

    return make


@pytest.fixture
def portfolio(choices, registry):
    """All recipes of the portfolio, the expensive ones with eight passes."""
    expensive = [
        recipe
        for backbone in choices.backbones
        for strategy in choices.strategies
        for head in expensive_heads(choices, registry, strategy)
        for recipe in expensive_portfolio(choices, registry, backbone, strategy, head, 8)
    ]
    return [*cheap_portfolio(choices, registry), *expensive]


def trials(scheduler, n, time_budget, running=None, first=0):
    """Parameters of the next `n` trials, none of which finishes."""
    return [scheduler.next(time_budget, running or {}, first + i) for i in range(n)]


# the portfolio


def test_a_resumed_study_does_not_repeat_recipes_of_which_the_sampler_has_drawn_a_part(make, registry):
    some = Choices((LITE0,), ("fast_extraction",), ("linear", "knn"), 1600, 2, levels=("stages",))
    portfolio = cheap_portfolio(some, registry)
    drawn = [{"fast_extraction.levels": "stages", **params} for params in portfolio]
    assert "fast_extraction.levels" not in portfolio[0]
    assert make(drawn[1:], some).cheap_queue == portfolio[:1]


def test_the_first_trial_is_the_cheapest_strategy_on_the_smallest_backbone(make):
    first = make().next(300, {}, 0)
    assert (first["strategy"], first["backbone"]) == ("fast_extraction", LITE0)


def test_the_cheap_portfolio_covers_every_strategy(make, registry):
    assert {params["strategy"] for params in make().cheap_queue} == set(registry.strategies)


def test_a_resumed_study_does_not_repeat_recipes_of_the_portfolio(make, choices, registry):
    tried = cheap_portfolio(choices, registry)[:2]
    assert make(tried).next(300, {}, 2) not in tried


def test_an_expensive_recipe_is_as_expensive_as_the_time_allows(make):
    views = {}
    for seconds in (200, 10_000):
        recipes = trials(make(speed=100.0), 20, seconds)  # 2,000 images take 10 s: two passes are 10 % of 200 s
        views[seconds] = [p["extract_augment.views"] for p in recipes if p.get("extract_augment.policy") == "dihedral"]
    assert views[200][:1] == [1]
    assert views[10_000][:1] == [7]


def test_an_expensive_recipe_may_plan_for_more_time(make):
    scheduler = make()
    shares = {scheduler.next(10_000, {}, i).get("extract_augment.policy"): scheduler.time_share for i in range(20)}
    assert shares["dihedral"] > shares["flip"]


# strategies


def test_strategies_get_equal_time(make, portfolio, registry):
    scheduler = make(portfolio)
    seconds = dict.fromkeys(registry.strategies, 0.0)
    cost = {"fast_extraction": 1.0, "extract_augment": 10.0, "fine_tuning": 30.0}
    for number in range(300):
        strategy = scheduler.next(float("inf"), {}, number)["strategy"]
        seconds[strategy] += cost[strategy]
        scheduler.finished({"strategy": strategy}, cost[strategy], value=0.5)
    assert max(seconds.values()) - min(seconds.values()) <= 30.0


def test_running_trials_count_towards_the_time_of_their_strategy(make, portfolio):
    running = {"fast_extraction": 5.0, "extract_augment": 5.0}
    assert make(portfolio).next(float("inf"), running, 0)["strategy"] == "fine_tuning"


def test_a_strategy_whose_trials_no_longer_fit_is_left_out(make, portfolio):
    scheduler = make(portfolio)
    scheduler.finished({"strategy": "fine_tuning"}, 60.0, value=0.5)
    scheduler.finished({"strategy": "extract_augment"}, 60.0, value=0.5)
    assert {params["strategy"] for params in trials(scheduler, 5, 20.0)} == {"fast_extraction"}


def test_a_first_trial_that_has_extracted_the_features_keeps_no_cheap_recipe_out(make):
    scheduler = make(speed=50.0)
    first = scheduler.next(40.0, {}, 0)
    scheduler.finished(first, 22.0, value=0.5, extraction_seconds=20.0)
    cheap = [dict(params) for params in scheduler.cheap_queue if params["backbone"] == LITE0]
    cheap = [params for params in cheap if params["strategy"] == "fast_extraction"]
    assert len(cheap) > 1
    assert [dict(scheduler.next(15.0, {}, number)) for number in range(1, len(cheap) + 1)] == cheap


def test_a_strategy_is_not_started_where_its_first_pass_takes_most_of_the_time(make, registry):
    assert {p["strategy"] for p in trials(make(speed=50.0), 30, 40.0)} == {"fast_extraction"}  # a pass takes 20 s
    assert {p["strategy"] for p in trials(make(speed=50.0), 30, 90.0)} == set(registry.strategies)


def test_the_only_strategy_is_tried_in_any_case(make):
    only = Choices((LITE0,), ("fine_tuning",), ("linear",), 1600, 2)
    assert make(choices=only, speed=50.0).next(40.0, {}, 0)["strategy"] == "fine_tuning"


# backbones and their features


def test_a_backbone_whose_first_pass_takes_most_of_the_time_is_not_used(make):
    scheduler = make(speed=20.0)  # 2,000 images take 50 s, with the larger backbone longer
    while scheduler.cheap_queue:
        assert scheduler.next(100, {}, 0)["backbone"] == LITE0
    assert scheduler.next(100, {}, 0)["backbone"] == LITE0


def test_with_enough_time_every_backbone_is_used(make, portfolio):
    tried = {p.get("backbone", "the sampler's") for p in trials(make(portfolio, speed=20.0), 100, 10_000)}
    assert tried == {*BACKBONES, "the sampler's"}


def test_most_trials_fix_a_pair(make, portfolio):
    params = trials(make(portfolio), 100, 10_000)
    assert 60 < sum(f"{p['strategy']}.head" in p and "backbone" in p for p in params) < 95


def test_most_trials_reuse_recorded_features(make, portfolio):
    running = {"fast_extraction": 1e6, "fine_tuning": 1e6}
    params = trials(make(portfolio), 50, 10_000, running)
    reused = [p for p in params if "extract_augment.policy" in p]
    assert 25 < len(reused) < 50
    assert {(p["extract_augment.policy"], p["extract_augment.views"]) for p in reused} == {("flip", 1), ("dihedral", 7)}


def test_where_a_pass_is_expensive_every_trial_reuses_recorded_features(make, portfolio):
    scheduler = make(portfolio, speed=20.0)  # a pass takes 50 s, with the larger backbone 100 s
    scheduler.observe_speed(LITE2, "levels", "cpu", 10.0)
    running = {"fast_extraction": 1e6, "fine_tuning": 1e6}
    assert all("extract_augment.policy" in p for p in trials(scheduler, 30, 1000, running))
    assert any("extract_augment.policy" not in p for p in trials(scheduler, 30, 10_000, running))


def test_where_the_weights_of_the_first_backbone_are_gone_another_one_is_used_whatever_time_is_left(make):
    scheduler = make([{"strategy": "fast_extraction", "backbone": LITE0}], speed=20.0)
    scheduler.cheap_queue.clear()
    scheduler.untried_expensive.clear()
    scheduler.missing = {LITE0}
    assert {params.get("backbone", LITE2) for params in trials(scheduler, 10, 20.0)} == {LITE2}


def test_what_joins_a_backbone_beyond_the_limits_is_not_used(make):
    joined = Choices((*BACKBONES, f"{LITE0} + {LITE2}"), ("fast_extraction",), ("linear",), 1600, 2)
    scheduler = make(choices=joined)
    scheduler.excluded.add(LITE2)
    assert scheduler.unusable == {LITE2, f"{LITE0} + {LITE2}"}


# speeds


def test_a_pass_takes_as_long_as_all_threads_of_all_device_types_need(make):
    scheduler = make(threads={"cpu": 2, "cuda": 4}, speed=10.0)
    assert scheduler.pass_seconds(LITE0) == 2000 / 20
    scheduler.observe_speed(LITE0, "levels", "cuda", 100.0)
    assert scheduler.pass_seconds(LITE0) == 2000 / 420
    assert scheduler.pass_seconds(LITE0, 42) == 0.1


@pytest.mark.parametrize("ran", ["images", "prefix-3"])
def test_only_whole_networks_are_taken_for_the_speed_of_a_pass(make, ran):
    scheduler = make(speed=10.0)
    scheduler.observe_speed(LITE0, ran, "cpu", 5000.0)
    scheduler.observe_speed(LITE2, ran, "cpu", 5000.0)
    assert scheduler.pass_seconds(LITE0) == 100.0
    assert scheduler.measured_speeds() == {LITE0: 1 / 20}


def test_a_device_type_without_slots_does_not_count(make):
    scheduler = make(speed=10.0)
    scheduler.observe_speed(LITE0, "levels", "cuda", 5000.0)
    assert scheduler.pass_seconds(LITE0) == 100.0


def test_a_backbone_that_was_not_measured_is_slower_by_its_multiply_adds(make, registry):
    scheduler = make(speed=10.0)
    ratio = multiply_adds(registry.backbone(LITE2)) / multiply_adds(registry.backbone(LITE0))
    assert scheduler.pass_seconds(LITE2) == pytest.approx(100.0 * ratio)


def test_a_backbone_of_unknown_size_is_counted(make, registry, monkeypatch):
    """It was taken to have one parameter, and its pass to last 4e-11 s."""
    scheduler = make(speed=10.0)
    known = scheduler.pass_seconds(LITE2)
    backbone = registry.backbone(LITE2)
    count = backbone.count_params()
    monkeypatch.setattr(backbone, "num_params", None)
    monkeypatch.setattr(backbone, "count_params", lambda: count)
    assert scheduler.pass_seconds(LITE2) == known


def test_before_anything_is_measured_there_is_a_default(make, registry):
    scheduler = make(threads={"cpu": 2, "cuda": 4})
    assert scheduler.default_seconds_per_image == 1 / 120
    assert scheduler.pass_seconds(LITE0, 120) == assumed_pass_seconds(registry.backbone(LITE0), 120, scheduler.threads)
    assert scheduler.measured_speeds() == {}


# backbones whose weights aren't here yet


def test_no_trial_uses_a_backbone_that_is_missing(make):
    scheduler = make(speed=1e6)
    scheduler.missing = {LITE2}
    assert {params["backbone"] for params in trials(scheduler, 60, 1000) if "backbone" in params} == {LITE0}
    assert all("backbone" in params for params in trials(scheduler, 60, 1000, first=60))  # the sampler draws none


def test_a_backbone_that_arrives_gets_its_recipes_of_the_portfolio(make, portfolio):
    scheduler = make(speed=1e6)
    scheduler.missing = {LITE2}
    before = trials(scheduler, 60, 1000)
    scheduler.missing.clear()
    after = trials(scheduler, 60, 1000, first=60)
    tried = [params for params in before + after if params in portfolio]
    assert len(tried) == len([params for params in portfolio if params in tried])
    assert [p for p in portfolio if p["backbone"] == LITE2 and p["strategy"] == "fast_extraction"]
    first_of_it = next(params for params in after if params["backbone"] == LITE2)
    assert first_of_it in cheap_portfolio(scheduler.choices, scheduler.registry)
    assert after[0]["backbone"] == LITE2


def test_a_backbone_that_went_missing_is_used_no_more_by_a_resumed_search(make, portfolio):
    scheduler = make(tried=portfolio, speed=1e6)
    scheduler.missing = {LITE2}
    assert {params["backbone"] for params in trials(scheduler, 60, 1000)} == {LITE0}


def test_time_for_a_backbone_follows_from_its_pass(make):
    scheduler = make(speed=10.0)
    seconds = scheduler.pass_seconds(LITE2)
    assert scheduler.has_time_for(LITE2, 2.1 * seconds)  # the second backbone may take half of it
    assert not scheduler.has_time_for(LITE2, 1.9 * seconds)
    assert not scheduler.has_time_for(LITE2, -1.0)


# pairs


def statistics(greater_is_better=True, seconds=lambda i: 1.0):
    """One trial of each pair; scores rise with the index."""
    pairs = PairStatistics(greater_is_better=greater_is_better)
    for i, pair in enumerate(PAIRS):
        pairs.finished("fast", pair, seconds(i), i / 100)
    return pairs


def draws(pairs, strategy="fast", n=3000):
    rng = random.Random(0)
    return Counter(pairs.choose(strategy, PAIRS, rng) for _ in range(n))


def test_the_best_pairs_are_tuned():
    assert set(draws(statistics())) == set(PAIRS[-NUM_TUNED_PAIRS:])


def test_where_less_is_better_the_best_pairs_have_the_smallest_scores():
    assert set(draws(statistics(greater_is_better=False))) == set(PAIRS[:NUM_TUNED_PAIRS])


def test_pairs_get_equal_time():
    seconds = [1.0 + i % 4 for i in range(len(PAIRS))]
    drawn = draws(statistics(seconds=seconds.__getitem__))
    spent = [drawn[pair] * seconds[PAIRS.index(pair)] for pair in PAIRS[-NUM_TUNED_PAIRS:]]
    assert max(spent) < 1.4 * min(spent)


def test_the_best_pairs_of_one_strategy_are_tuned_with_the_others_too():
    assert set(draws(statistics(), "slow")) == set(PAIRS[-NUM_TUNED_PAIRS:])


def test_pairs_without_a_complete_trial_rank_last():
    pairs = PairStatistics()
    for pair in PAIRS[: NUM_TUNED_PAIRS + 1]:
        pairs.finished("fast", pair, 1.0, 0.5)
    for pair in PAIRS[NUM_TUNED_PAIRS + 1 :]:
        pairs.finished("fast", pair, 0.1, None)
    assert set(draws(pairs)) <= set(PAIRS[: NUM_TUNED_PAIRS + 1])


def test_before_the_first_trial_any_pair_may_be_drawn():
    rng = random.Random(0)
    assert {PairStatistics().choose("fast", PAIRS[:2], rng) for _ in range(100)} == set(PAIRS[:2])


def test_extraction_does_not_count_as_the_time_of_a_pair(make, portfolio):
    scheduler = make(portfolio)
    params = {"strategy": "fast_extraction", "backbone": LITE0, "fast_extraction.head": "linear"}
    scheduler.finished(params, 30.0, value=0.9, extraction_seconds=29.0)
    scheduler.finished({**params, "backbone": LITE2}, 1.0, value=0.9)
    pairs, rng = [(LITE0, "linear"), (LITE2, "linear")], random.Random(0)
    drawn = Counter(scheduler.pairs.choose("fast_extraction", pairs, rng) for _ in range(300))
    assert 100 < drawn[pairs[0]] < 200


# repeatability


def simulated_search(make, choices, registry, seed, trials=20, **options):
    """Parameter sets of a search on one slot. Its trials' durations and its workers' speeds differ in every run."""
    durations = random.Random()
    scheduler = make(seed=seed, **options)
    study = optuna.create_study(direction="maximize", sampler=ConditionalTPESampler(seed))
    for number in range(trials):
        study.enqueue_trial(scheduler.next(float("inf"), {}, number))
        trial = study.ask()
        recipe = suggest(trial, choices, registry, seed)
        scheduler.observe_speed(recipe.backbone, "levels", "cpu", durations.uniform(1e-3, 1e3))
        value = (int(recipe.digest, 16) % 1000) / 1000
        study.tell(trial, value)
        seconds = durations.uniform(0.01, 100.0)
        scheduler.finished(trial.params, seconds, value, seconds / 2)
    return [trial.params for trial in study.trials]


def test_a_search_without_a_time_limit_repeats_its_recipes(make, choices, registry):
    """Past the portfolio too, of which 20 trials of this search are left to the sampler."""
    options = {"timed": False, "trials": 40}
    first, second = (simulated_search(make, choices, registry, 0, **options) for _ in range(2))
    assert first == second
    assert first != simulated_search(make, choices, registry, 1, **options)


def test_a_search_of_20_trials_repeats_its_recipes(make, choices, registry, portfolio):
    """A small portfolio is behind a search soon, or a resumed one at once."""
    options = {"timed": False, "tried": portfolio}
    first, second = (simulated_search(make, choices, registry, 0, **options) for _ in range(2))
    assert len(first) == 20
    assert first == second
    assert first != simulated_search(make, choices, registry, 1, **options)


def test_without_a_time_limit_strategies_get_equally_many_trials(make, portfolio, registry):
    scheduler = make(portfolio, timed=False)
    drawn = Counter(scheduler.next(1.0, {"fast_extraction": 1e6}, number)["strategy"] for number in range(30))
    assert set(drawn.values()) == {10}
    assert len(drawn) == len(registry.strategies)


def test_decisions_depend_on_seed_and_number(make, portfolio):
    def decide(seed, number):
        return make(portfolio, seed=seed).next(10_000, {}, number)

    assert decide(0, 7) == decide(0, 7)
    assert len({str(decide(seed, number)) for seed in range(4) for number in range(4)}) > 4


def test_global_generators_are_neither_used_nor_changed(make, choices, registry, portfolio):
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    options = {"tried": portfolio, "timed": False}
    simulated_search(make, choices, registry, 0, **options)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002


# what a worker may do where accelerators and CPU workers share a search


FLIP = Recording(LITE0, "flip", 1)


def test_an_accelerator_gets_networks_to_train_from_the_portfolio_and_after_it(make, portfolio):
    for scheduler in (make(), make(portfolio)):
        works = [scheduler.next(10_000, {}, number, Work.NETWORKS) for number in range(10)]
        assert {params["strategy"] for params in works} == {"fine_tuning"}


def test_an_accelerator_gets_no_network_that_has_no_time(make, portfolio):
    scheduler = make(portfolio)
    scheduler.finished({"strategy": "fine_tuning"}, 60.0, value=0.5)
    assert scheduler.next(30.0, {}, 0, Work.NETWORKS) is None


@pytest.mark.parametrize("is_new", [True, False])
def test_a_cpu_worker_gets_heads_on_what_is_recorded(make, portfolio, is_new):
    scheduler = make() if is_new else make(portfolio)
    for number in range(40):
        params = scheduler.next(10_000, {}, number, Work.HEADS, [FLIP])
        assert scheduler.needs.recording(params) in (Recording(LITE0), FLIP)
    assert scheduler.next(10_000, {}, 40, Work.HEADS, []) is None


def test_both_strategies_that_fit_heads_get_time(make, portfolio):
    scheduler = make(portfolio)
    seconds = Counter()
    for number in range(40):
        params = scheduler.next(10_000, {}, number, Work.HEADS, [FLIP])
        seconds[params["strategy"]] += 1.0
        scheduler.finished(params, 1.0, value=0.5)
    assert seconds == {"fast_extraction": 20, "extract_augment": 20}


def test_recordings_follow_the_portfolio(make):
    scheduler = make(speed=100.0)  # 2,000 images take 10 s
    attempted = []
    while recording := scheduler.next_recording(10_000, attempted):
        attempted.append(recording)
    assert attempted[:2] == [Recording(LITE0), FLIP]
    assert [r for r in attempted if r.policy == "dihedral"] == [
        Recording(LITE0, "dihedral", 7),
        Recording(LITE2, "dihedral", 7),
    ]
    needed = [scheduler.needs.recording(params) for params in scheduler.cheap_queue]
    assert all(recording is None or recording.is_in(attempted) for recording in needed)


def test_a_backbone_whose_pass_takes_most_of_the_time_is_not_recorded(make):
    scheduler = make(speed=20.0)  # 2,000 images take 50 s, with the larger backbone longer
    attempted = []
    while recording := scheduler.next_recording(100, attempted):
        attempted.append(recording)
    assert {recording.backbone for recording in attempted} == {LITE0}


def test_a_resumed_search_records_what_its_trials_read_again(make, portfolio):
    assert make(portfolio).next_recording(10_000, []) == Recording(LITE0)


def test_trials_that_wait_are_recorded_for_first(make):
    waiting = {"strategy": "extract_augment", "backbone": LITE0}
    waiting |= {"extract_augment.policy": "crop", "extract_augment.views": 2}
    assert make().next_recording(10_000, [], (), [waiting]) == Recording(LITE0, "crop", 2)


def test_a_resumed_study_has_used_each_backbone_that_was_joined(make):
    scheduler = make(tried=[{"strategy": "fast_extraction", "backbone": f"{LITE0}{JOIN}{LITE2}"}])
    assert {LITE0, LITE2} <= scheduler.active_backbones


def test_no_features_are_explored_of_a_backbone_whose_weights_are_gone(make):
    scheduler = make(tried=[{"strategy": "fast_extraction", "backbone": LITE0}], speed=100)
    assert scheduler.explore(10_000, [], (), 0) is not None
    scheduler.missing = {LITE0}
    assert scheduler.explore(10_000, [], (), 0) is None


def test_views_that_the_portfolio_does_not_have_are_explored_where_they_cost_little(make):
    scheduler = make(speed=100.0)
    scheduler.next(10_000, {}, 0)  # activates the first backbone
    attempted = []
    while recording := scheduler.explore(10_000, attempted, (), len(attempted)):
        attempted.append(recording)
    assert {recording.policy for recording in attempted} == set(scheduler.choices.augmentations)
    assert scheduler.explore(100, [], (), 0) is None
