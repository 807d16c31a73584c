"""The training loop: schedule, limits of time, early stopping, class weights, mixup."""

import numpy as np
import pytest
import torch
from torch import nn

from autotl.backbones.base import Preprocessing
from autotl.backbones.graph_split import Normalize
from autotl.clock import Deadline
from autotl.strategies import head_training, training_loop
from autotl.strategies.base import OutOfTime
from autotl.strategies.head_training import train_head
from autotl.strategies.losses import BUILT_IN
from autotl.strategies.training_loop import Diverged, TrainingConfig
from autotl.testing.scripted import VirtualClock


def ignore(fraction, score):
    """A report that keeps nothing."""


@pytest.fixture
def train(resnet, task, monkeypatch):
    """`train(problem, report, **params)`: train a linear head in batches of 8, four steps per epoch."""
    monkeypatch.setattr(head_training, "MIN_BATCH", 8)

    def run(problem=None, report=ignore, seed=1, **params):
        problem = problem or task(resnet, "linear")
        features, validation = (problem.features.levels(subset, "last") for subset in ("train", "validation"))
        head = problem.head.build({"dropout": 0.2}, features.shape[1], 3, seed)
        params = {"lr": 1e-2, "weight_decay": 0.05, "epochs": 5, **params}
        labels = problem.train_labels
        return train_head(head, features, labels, [validation], params, problem, "cpu", report, seed)

    return run


class CountedClock:
    """A clock that stands still for a number of readings, then jumps past every deadline."""

    def __init__(self):
        self.readings = float("inf")

    def now(self):
        self.readings -= 1
        return 0.0 if self.readings >= 0 else 1e9

    def sleep(self, seconds):
        raise NotImplementedError


def test_a_config_takes_the_parameters_it_has_fields_for():
    config = TrainingConfig.from_params({"epochs": 7, "mixup": 0.2, "levels": "last", "views": 3}, patience=2)
    assert (config.epochs, config.mixup, config.patience, config.class_weight) == (7, 0.2, 2, None)


def test_a_short_time_budget_means_fewer_epochs_and_a_schedule_of_those(train, resnet, task):
    trained = train(task(resnet, "linear", time_budget=1e-6), epochs=30)
    assert trained.config.epochs == len(trained.history) == 1
    assert trained.config.stop_after is None


def test_a_training_with_fewer_epochs_is_repeated_exactly(train, resnet, task):
    """The timed steps ran in a schedule of 30 epochs, the repetition's in a shorter one: their learning rates agree."""
    short = train(task(resnet, "linear", time_budget=1e-6), epochs=30)
    again = train(epochs=short.config.epochs)
    assert np.array_equal(short.probabilities, again.probabilities)


def test_an_epoch_cut_short_by_the_deadline_is_discarded(train, resnet, task):
    clock = CountedClock()
    deadline = Deadline(1000.0, clock)

    def report(fraction, score):
        if fraction == 3 / 5:
            clock.readings = 3  # at the end of the third epoch, and before two steps of the fourth

    trained = train(task(resnet, "linear", deadline=deadline), report)
    assert (len(trained.history), trained.config.stop_after) == (3, 3)
    again = train(stop_after=3)
    assert np.array_equal(trained.probabilities, again.probabilities)


def test_too_little_time_for_one_epoch_is_out_of_time(train, resnet, task):
    with pytest.raises(OutOfTime, match="the time ran out before one epoch was complete"):
        train(task(resnet, "linear", deadline=Deadline(0.0, VirtualClock())), stop_after=5)
    with pytest.raises(OutOfTime, match="an epoch takes about"):
        train(task(resnet, "linear", deadline=Deadline(1e-7, VirtualClock())))


def test_training_stops_where_the_score_no_longer_improves(train):
    trained = train(lr=0.0, epochs=40)
    assert len(trained.history) == 6


@pytest.mark.parametrize("lr", [1e30, float("nan")])
def test_a_divergence_is_raised_with_its_step_and_epoch(lr, train):
    with pytest.raises(Diverged, match=r"step \d+ \(epoch 1\)"):
        train(lr=lr)


def test_an_exception_of_the_report_ends_the_training(train):
    class Pruned(Exception):
        pass

    def report(fraction, score):
        raise Pruned

    with pytest.raises(Pruned):
        train(report=report)


def test_balanced_class_weights_make_a_rare_class_more_probable(train, resnet, task):
    kept = np.r_[0:2, 12:36]  # two images of class 0, twelve of each other class
    rare = []
    for class_weight in (None, "balanced"):
        problem = task(resnet, "linear")
        problem.train_labels = problem.train_labels[kept]
        problem.features = SomeImages(problem.features, kept)
        rare.append(train(problem, class_weight=class_weight, epochs=3).probabilities[:, 0].mean())
    assert rare[1] > rare[0]


class SomeImages:
    """The features of some of the training images."""

    def __init__(self, features, kept):
        self.features, self.kept = features, kept

    def levels(self, subset, levels):
        features = self.features.levels(subset, levels)
        return features[self.kept] if subset == "train" else features


def test_mixing_uint8_images_is_the_same_as_mixing_normalised_images():
    preprocessing = Preprocessing(4, 1.0, "bilinear", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    images = torch.randint(0, 256, (8, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8) % 3
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    normalised = Normalize(nn.Identity(), preprocessing)(images)
    loss = BUILT_IN["cross_entropy"]
    losses = [
        training_loop._micro_batch_loss(
            module,
            x,
            labels,
            TrainingConfig(1, mixup=0.8),
            loss,
            None,
            torch.Generator().manual_seed(1),
        )(slice(0, 8))
        for module, x in ((Normalize(network, preprocessing), images), (network, normalised))
    ]
    torch.testing.assert_close(losses[0], losses[1])
