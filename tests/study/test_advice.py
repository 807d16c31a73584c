"""What a measured alignment changes of a search's order, and what it leaves."""

import pytest

from autotl.coordinator.dispatch import Dispatcher
from autotl.study.advice import Advice, alignment_sample
from autotl.study.scheduler import Scheduler
from autotl.study.space import Choices
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


def test_fine_tuning_of_the_first_backbone_retrains_what_is_advised(scheduler):
    scheduler.align_with(Advice((NAMES[0],), 3))
    name = "fine_tuning.unfrozen_blocks"
    advised = [params[name] for params in scheduler.cheap_queue if name in params]
    assert advised == [3]
    assert Advice((NAMES[1],), 3).applied({"strategy": "fine_tuning", "backbone": NAMES[0], name: 1})[name] == 1


def test_an_empty_advice_changes_nothing(scheduler):
    before = list(scheduler.cheap_queue)
    scheduler.align_with(Advice())
    assert scheduler.cheap_queue == before


@pytest.mark.parametrize(
    ("time_budget", "num_images"),
    [(10, None), (60, None), (300, 256), (165, 125), (float("inf"), None)],
)
def test_the_sample_takes_a_tenth_of_the_time_at_most(scheduler, time_budget, num_images):
    sample = alignment_sample(scheduler, time_budget)
    # 9 s to build three backbones, then 3 x 0.02 s an image
    assert (sample and sample[1]) == num_images


def test_one_backbone_leaves_nothing_to_order(scheduler):
    scheduler.missing = set(NAMES[1:])
    assert alignment_sample(scheduler, 300) is None


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
        (Aligned(Advice(NAMES, 2)), FROM_WORKER),
        (Aligned(cause="no"), FROM_WORKER),
    ):
        assert decode(encode(message), known) == message
