"""Recipes that join backbones: in the search space, the portfolio, what is recorded for them, and what they cost."""

from pathlib import Path

import optuna
import pytest

from autotl.config import StudyConfig, load_study_file
from autotl.coordinator.joins import propose_joins
from autotl.errors import AutotlError
from autotl.events import SearchStarted
from autotl.model.costs import NetworkCost, Part, total_costs
from autotl.study.needs import Needs, Recording, Work
from autotl.study.portfolio import cheap_portfolio, learnt_recipes
from autotl.study.scheduler import Scheduler
from autotl.study.space import Choices, suggest
from autotl.ui.rendering import headline_rows

LITE0, LITE1, LITE2 = (f"efficientnet_lite{number}" for number in range(3))
JOIN = f"{LITE0} + {LITE2}"
STRATEGIES = ("fast_extraction", "extract_augment", "fine_tuning")


@pytest.fixture(scope="module")
def choices():
    return Choices((LITE0, LITE2, JOIN), STRATEGIES, ("kernel_ridge", "logistic_regression", "linear"), 1600, 2)


@pytest.fixture
def make(choices, registry):
    def make(speed=1000.0, tried=(), choices=choices):
        scheduler = Scheduler(choices, registry, tried, 2000, {"cpu": 2})
        scheduler.observe_speed(LITE0, "levels", "cpu", speed)
        return scheduler

    return make


def test_pairs_come_before_threes(registry):
    backbones = [registry.backbone(name) for name in (LITE0, LITE1, LITE2)]
    pairs = [f"{LITE0} + {LITE1}", f"{LITE0} + {LITE2}", f"{LITE1} + {LITE2}"]
    assert propose_joins(StudyConfig(data="a"), backbones) == [*pairs, f"{LITE0} + {LITE1} + {LITE2}"]
    assert propose_joins(StudyConfig(data="a", joined=2), backbones) == pairs
    assert propose_joins(StudyConfig(data="a", joined=1), backbones) == []
    assert propose_joins(StudyConfig(data="a"), [registry.backbone(JOIN), backbones[0]]) == []


def test_a_single_backbone_is_joined_with_itself_on_larger_images_unless_it_was_named(registry, monkeypatch):
    backbone = registry.backbone(LITE0)
    monkeypatch.setattr(backbone, "any_size", True)
    assert propose_joins(StudyConfig(data="a"), [backbone]) == [f"{LITE0} + {LITE0},size=288"]
    assert propose_joins(StudyConfig(data="a", backbones=[LITE0]), [backbone]) == []
    monkeypatch.setattr(backbone, "any_size", False)
    assert propose_joins(StudyConfig(data="a"), [backbone]) == []


def test_only_strategies_that_read_features_join(choices, registry):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    recipes = [suggest(study.ask(), choices, registry, 0) for _ in range(40)]
    assert {r.backbones for r in recipes if r.strategy == "fine_tuning"} == {(LITE0,), (LITE2,)}
    assert {r.backbone for r in recipes if r.strategy == "fast_extraction"} == {LITE0, LITE2, JOIN}


def test_the_scheduler_fixes_a_single_network_to_fine_tune(make):
    scheduler = make()
    for number in range(300):
        params = scheduler.next(1e6, {}, number)
        assert (params["strategy"], params.get("backbone", JOIN)) != ("fine_tuning", JOIN)


def test_joins_are_tried_with_the_best_learnt_heads_before_the_others(choices, registry):
    portfolio = [params for params in cheap_portfolio(choices, registry) if params["strategy"] == "fast_extraction"]
    tried = [(params["backbone"], params["fast_extraction.head"]) for params in portfolio]
    learnt = list(dict.fromkeys(r["head"] for r in learnt_recipes()[1:] if r["head"] in choices.heads))
    joined = [head for backbone, head in tried if backbone == JOIN]
    assert joined == learnt[:2]
    assert tried.index((JOIN, joined[1])) < tried.index((LITE2, "logistic_regression"))


def test_joined_features_cost_the_passes_that_are_not_recorded(make):
    scheduler = make()
    assert scheduler.pass_seconds(JOIN) == scheduler.pass_seconds(LITE0) + scheduler.pass_seconds(LITE2)
    seconds = scheduler.pass_seconds(LITE2)
    scheduler.active_backbones = {LITE0}
    assert scheduler.has_time_for(JOIN, 2.1 * seconds)  # a pass of the second one, in half of the time
    assert not scheduler.has_time_for(JOIN, 1.9 * seconds)
    scheduler.active_backbones = {LITE0, LITE2}
    assert scheduler.has_time_for(JOIN, 0.0)


def test_a_join_waits_for_the_weights_of_all_its_parts(make):
    scheduler = make()
    scheduler.missing = {LITE2}
    assert scheduler.unusable == {LITE2, JOIN}
    scheduler.missing = set()
    assert scheduler.unusable == set()


def test_a_cpu_worker_joins_what_an_accelerator_has_recorded(choices, registry, make):
    both = [Recording(LITE0, "flip", 2), Recording(LITE2, "flip", 1)]
    assert Recording(JOIN).is_in(both)
    assert Recording(JOIN, "flip", 1).is_in(both)
    assert not Recording(JOIN, "flip", 2).is_in(both)
    assert not Recording(JOIN).is_in(both[:1])
    params = {"strategy": "fast_extraction", "backbone": JOIN, "fast_extraction.head": "kernel_ridge"}
    assert Needs(choices, registry).suits(params, Work.HEADS, both)
    assert not Needs(choices, registry).suits(params, Work.HEADS, both[:1])
    scheduler = make()
    running = {"fast_extraction": 1e9}
    drawn = [scheduler.next(1e6, running, number, Work.HEADS, both) for number in range(60)]
    joined = [params for params in drawn if params["backbone"] == JOIN]
    assert any(params["strategy"] == "extract_augment" for params in joined)
    assert all(Needs(choices, registry).recording(params).is_in(both) for params in drawn)


def test_an_accelerator_records_one_part_after_the_other(registry, make):
    only = Choices((JOIN,), ("fast_extraction",), ("kernel_ridge",), 1600, 2)
    scheduler = make(choices=only)
    first = scheduler.next_recording(1e6, [])
    assert first == Recording(LITE0)
    assert scheduler.next_recording(1e6, [first]) == Recording(LITE2)
    assert scheduler.next_recording(1e6, [first, Recording(LITE2)]) is None


def test_costs_are_added_and_shared_with_members_of_one_network():
    networks = {"a": NetworkCost(3, 10**6, 4.0, 2.0), "b": NetworkCost(5, 10**6, 6.0, 3.0)}
    joined = Part((("a", "a"), ("b", "b")), ("none-0",), 10**6)
    costs = total_costs([joined, Part((("a", "a"),), ("none-0", "flip-0"), 10**6)], networks)
    assert costs == {
        "milliseconds": 14.0,
        "batch_milliseconds": 7.0,
        "megabytes": 4.0,
        "parameters": 8,
        "passes": 3,
    }


def test_the_header_counts_joins_apart():
    started = SearchStarted("s", Path("s"), "s", ("a", "b"), {"train": 3}, "accuracy", ("cpu:0",), (LITE0, LITE2, JOIN))
    assert ("2 backbones", f"{LITE0}, {LITE2} · 1 join of them") in headline_rows(started)


def test_a_study_file_may_not_join_a_file_outside_of_its_folder(tmp_path):
    file = tmp_path / "study.toml"
    file.write_text('data = "elpv"\nbackbones = ["resnet18 + resnet18@/etc/weights.safetensors"]\n')
    with pytest.raises(AutotlError, match="leads out of the current folder"):
        load_study_file(file)
