"""What a measured alignment changes of a search's order, and what it leaves."""

from dataclasses import replace

import pytest

from autotl.alignment.card import Card
from autotl.coordinator.dispatch import Dispatcher
from autotl.study.advice import Advice, alignment_sample
from autotl.study.scheduler import Scheduler
from autotl.study.space import Choices
from autotl.trial.aligning import _order
from autotl.workers.codec import decode, encode
from autotl.workers.messages import FROM_COORDINATOR, FROM_WORKER, Align, Aligned

NAMES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


@pytest.fixture
def scheduler(registry):
    choices = Choices(NAMES, ("fast_extraction", "fine_tuning"), ("linear", "logistic_regression"), 1000, 4)
    scheduler = Scheduler(choices, registry, [], num_images=1200, threads={"cpu": 2})
    for name in NAMES:
        scheduler.observe_speed(name, "levels", "cpu", 25.0)  # 50 images a second
    return scheduler


def test_the_order_changes_and_no_recipe_is_lost(scheduler):
    before = list(scheduler.cheap_queue)
    scheduler.align_with(Advice(("efficientnet_lite2", "efficientnet_lite0", "efficientnet_lite1"), 0))
    assert scheduler.cheap_queue[0]["backbone"] == "efficientnet_lite2"
    assert sorted(map(repr, scheduler.cheap_queue)) == sorted(map(repr, before))
    assert {candidate[0] for candidate in scheduler.untried_expensive} == set(NAMES)


def test_joined_backbones_keep_their_place_before_the_other_heads(registry):
    joins = (f"{NAMES[0]} + {NAMES[1]}", f"{NAMES[0]} + {NAMES[2]}")
    heads = ("linear", "logistic_regression", "kernel_ridge")
    choices = Choices((*NAMES, *joins), ("fast_extraction", "fine_tuning"), heads, 1000, 4)
    scheduler = Scheduler(choices, registry, [], num_images=1200, threads={"cpu": 2})
    scheduler.align_with(Advice((NAMES[0], NAMES[2], NAMES[1]), deserves_tuning=False))
    backbones = list(dict.fromkeys(params["backbone"] for params in scheduler.cheap_queue))
    assert backbones == [NAMES[0], NAMES[2], joins[1], NAMES[1], joins[0]]
    last = scheduler.cheap_queue[-1]
    assert last["strategy"] == "fine_tuning"  # which promises little
    joined = max(i for i, params in enumerate(scheduler.cheap_queue) if params["backbone"] in joins)
    assert any(params["backbone"] == NAMES[2] for params in scheduler.cheap_queue[joined:])


def test_expensive_fine_tuning_without_a_promise_waits_for_the_cheap_recipes(scheduler):
    scheduler.active_backbones = {NAMES[0]}
    scheduler.align_with(Advice(NAMES, deserves_tuning=False))
    cheap = scheduler.cheap_queue
    assert all(params["strategy"] != "fine_tuning" for params in iter(lambda: expensive(scheduler), None))
    scheduler.cheap_queue = []
    assert any(params["strategy"] == "fine_tuning" for params in iter(lambda: expensive(scheduler), None))
    assert cheap


def expensive(scheduler):
    return scheduler._expensive_trial(600.0, lambda params: True)


def test_fine_tuning_of_the_first_backbone_retrains_what_is_advised(scheduler):
    scheduler.align_with(Advice((NAMES[0],), 3))
    name = "fine_tuning.unfrozen_blocks"
    advised = [params[name] for params in scheduler.cheap_queue if name in params]
    assert advised == [3]
    recipe = {"strategy": "fine_tuning", "backbone": NAMES[0], name: 1, "fine_tuning.unfreeze": "last"}
    assert Advice((NAMES[1],), 3).applied(recipe, scheduler.choices)[name] == 1
    first = Advice((NAMES[0],), 2, "first")
    assert first.applied(recipe, scheduler.choices) == {**recipe, name: 2}  # a CPU trains the last ones alone
    accelerated = first.applied(recipe, replace(scheduler.choices, accelerator=True))
    assert accelerated["fine_tuning.unfreeze"] == "first"


@pytest.mark.parametrize(
    ("symmetry", "cheap", "expensive"),
    [
        ("", "flip", "dihedral"),
        ("turns", "dihedral", "dihedral"),
        ("flips", "flip", "crop"),
        ("none", "flip", "dihedral"),
    ],
)
def test_policies_follow_what_keeps_the_label(scheduler, symmetry, cheap, expensive):
    advice = Advice(NAMES, symmetry=symmetry)
    recipes = [
        {"strategy": "extract_augment", "backbone": NAMES[0], "extract_augment.policy": policy}
        for policy in ("flip", "dihedral")
    ]
    applied = [advice.applied(recipe, scheduler.choices)["extract_augment.policy"] for recipe in recipes]
    assert applied == [cheap, expensive]
    assert (advice.share("extract_augment", scheduler.needs) < 1) == (symmetry == "none")
    few = replace(scheduler.choices, augmentations=("flip",))
    assert advice.applied(recipes[0], few) == recipes[0]  # only what the study searches


def test_fine_tuning_without_a_promise_gets_less_time_and_not_none(scheduler):
    scheduler.cheap_queue, scheduler.untried_expensive = [], []
    scheduler.align_with(Advice(NAMES, deserves_tuning=False))
    for name in scheduler.choices.strategies:
        scheduler.finished({"strategy": name, "backbone": NAMES[0], f"{name}.head": "linear"}, 1.0, 0.5)
    chosen = []
    scheduler.sampling = True
    for number in range(40):
        strategy = scheduler.next(600.0, {}, number)["strategy"]
        chosen.append(strategy)
        scheduler.spent[strategy] += 1.0
    assert chosen.count("fine_tuning") == 10


def test_an_empty_advice_changes_nothing(scheduler):
    before = list(scheduler.cheap_queue)
    scheduler.align_with(Advice())
    assert scheduler.cheap_queue == before


@pytest.mark.parametrize(
    ("time_budget", "sample"),
    [(10, None), (60, (1, 256)), (100, (2, 200)), (165, (3, 187)), (300, (3, 256)), (float("inf"), None)],
)
def test_the_sample_takes_a_tenth_of_the_time_at_most(scheduler, time_budget, sample):
    scheduler.active_backbones = {NAMES[0]}
    found = alignment_sample(scheduler, time_budget)
    # 3 s to build a backbone, then 0.02 s for each image of those that aren't recorded
    assert (found and (len(found[0]), found[1])) == sample
    assert not found or found[0][0] == NAMES[0]


def test_one_backbone_is_measured_for_what_to_retrain(scheduler):
    scheduler.missing = set(NAMES[1:])
    assert alignment_sample(scheduler, 300) == ((NAMES[0],), 256, 30.0)


@pytest.mark.parametrize(("lead", "first"), [(0.01, "recorded"), (0.05, "better")])
def test_a_recorded_backbone_is_tried_first_unless_another_is_certainly_better(lead, first):
    cards = [
        Card(name, "", 96, 1, (), 0.0, 0.0, 0.9, 0.1, 0.9, {}, {}, {}, None, None, None, None, 0.9, value, 0.02)
        for name, value in (("better", 0.9 + lead), ("recorded", 0.9))
    ]
    assert _order(cards, "recorded")[0] == first
    assert _order(cards, "another") == ("better", "recorded")


def test_alignment_is_measured_once_after_the_first_trial(scheduler):
    class Slot:
        is_accelerator = False

    class Worker:
        slot, trial, recording = Slot, None, None

    dispatcher = Dispatcher(None, scheduler, None, None, None)
    assert dispatcher._alignment(Worker, 300) is None  # not wanted
    scheduler.aligns = True
    assert dispatcher._alignment(Worker, 300) is None  # no trial has ended
    Worker.trial = 0
    dispatcher.ended(Worker)
    assert isinstance(dispatcher._alignment(Worker, 300), Align)
    assert dispatcher._alignment(Worker, 300) is None


def test_the_messages_survive_their_encoding():
    for message, known in (
        (Align(NAMES, 256, 30.0), FROM_COORDINATOR),
        (Aligned(Advice(NAMES, 2, "first", "turns", deserves_tuning=False)), FROM_WORKER),
        (Aligned(cause="no"), FROM_WORKER),
    ):
        assert decode(encode(message), known) == message
