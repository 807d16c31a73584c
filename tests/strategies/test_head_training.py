"""Heads on recorded features: plain, and of augmented views."""

import numpy as np
import optuna
import pytest
from sklearn.dummy import DummyClassifier

from autotl.backbones.base import LEVELS
from autotl.data.augmentation import ORIGINAL, View
from autotl.heads.base import Head
from autotl.recipe import Recipe
from autotl.strategies import head_training
from autotl.strategies.base import OutOfTime
from autotl.strategies.extract_augment import ExtractAugment
from autotl.strategies.fast_extraction import FastExtraction
from autotl.strategies.head_training import train_head
from autotl.strategies.training_loop import Diverged, TrainingConfig
from autotl.study.space import OwnedSpace


def nothing(fraction, score):
    """A report that nobody reads."""


def fit(strategy, problem, report=nothing, seed=3, **params):
    head = problem.head
    recipe = Recipe(
        problem.backbone.name, strategy.name, head.name, seed, {**strategy.defaults(head), **params}, head.defaults()
    )
    return strategy.fit(recipe, problem, "cpu", report)


def watch_levels(problem):
    """What is asked of the features, as (part, levels, view)."""
    asked, levels = [], problem.features.levels

    def watched(part, which, *view):
        asked.append((part, which, *map(str, view)))
        return levels(part, which, *view)

    problem.features.levels = watched
    return asked


@pytest.fixture
def resnet(tiny):
    return tiny("test_resnet")


@pytest.mark.parametrize("head", ["linear", "mlp", "logistic_regression", "rbf_svm", "knn"])
def test_fast_extraction_learns(head, resnet, task):
    problem = task(resnet, head)
    result = fit(FastExtraction(), problem, levels="stages")
    assert result.probabilities.shape == (12, 3)
    np.testing.assert_allclose(result.probabilities.sum(1), 1)
    assert problem.metric(problem.validation_labels, result.probabilities) >= 0.75


@pytest.mark.parametrize("levels", LEVELS)
def test_the_head_sees_the_levels_of_the_recipe(levels, resnet, task):
    problem = task(resnet, "logistic_regression")
    asked = watch_levels(problem)
    result = fit(FastExtraction(), problem, levels=levels)
    assert asked == [("train", levels), ("validation", levels, "none")]
    assert result.fitted.levels == levels
    assert result.fitted.backbone_state is None


class Watched(Head):
    """Keeps what its classifiers are fitted on."""

    name, type = "watched", "estimator"

    def __init__(self):
        self.seen = []

    def suggest(self, space):
        return {}

    def build(self, params, num_features, num_classes, seed):
        class Classifier(DummyClassifier):
            def fit(classifier, features, labels):  # `self` is the head here
                self.seen.append((features, labels))
                return super().fit(features, labels)

        return Classifier()


def test_extract_augment_learns_from_the_plain_images_and_each_view(resnet, task):
    problem = task(resnet, "linear")
    problem.head = Watched()
    fit(ExtractAugment(), problem, policy="crop", views=2, levels="last")
    ((features, labels),) = problem.head.seen
    views = [ORIGINAL, View("crop", 0), View("crop", 1)]
    expected = [problem.features.levels("train", "last", view) for view in views]
    assert np.array_equal(features, np.concatenate(expected))
    assert labels.tolist() == problem.train_labels.tolist() * 3


class Slow(Head):
    """Learns in four steps, and is watched at each."""

    name, type = "slow", "estimator"

    def suggest(self, space):
        return {}

    def build(self, params, num_features, num_classes, seed):
        class Classifier(DummyClassifier):
            def fit(classifier, features, labels, images, watch):  # `self` is the head here
                self.images = images
                super().fit(features, labels)
                for step in range(1, 5):
                    watch(step / 4)
                return classifier

        return Classifier()


def test_an_estimator_that_asks_is_told_which_image_a_row_is_of(resnet, task):
    problem = task(resnet, "linear")
    problem.head = Slow()
    fit(ExtractAugment(), problem, policy="crop", views=2, levels="last")
    assert problem.head.images.tolist() == list(range(36)) * 3


def test_an_estimator_that_is_watched_reports_its_validation_score_and_can_be_pruned(resnet, task):
    problem = task(resnet, "linear")
    problem.head = Slow()
    reported = []

    def report(fraction, score):
        reported.append((fraction, score))
        if fraction == 0.75:
            raise optuna.TrialPruned

    with pytest.raises(optuna.TrialPruned):
        fit(FastExtraction(), problem, report=report, levels="last")
    assert reported == [(0.25, 1 / 3), (0.5, 1 / 3), (0.75, 1 / 3)]


def test_an_estimator_that_is_watched_ends_when_the_time_is_up(resnet, task):
    problem = task(resnet, "linear", seconds_left=iter([1.0, 0.0]).__next__)
    problem.head = Slow()
    with pytest.raises(OutOfTime, match="the time was up after 50% of the fit"):
        fit(FastExtraction(), problem, levels="last")


def test_extract_augment_trains_a_dense_head_too(resnet, task):
    problem = task(resnet, "linear")
    result = fit(ExtractAugment(), problem, policy="flip", views=2, epochs=30)
    assert problem.metric(problem.validation_labels, result.probabilities) >= 0.75
    assert len(result.history) <= 30


@pytest.mark.parametrize(
    ("max_train_samples", "num_train", "sampled", "views"),
    [(4000, 1000, 4, 3), (4000, 3000, 4, 1), (None, 10**6, 4, 4)],
)
def test_a_head_that_takes_few_rows_gets_few_views(max_train_samples, num_train, sampled, views, resnet, monkeypatch):
    monkeypatch.setattr(Watched, "max_train_samples", max_train_samples)
    trial = optuna.trial.FixedTrial({"x.policy": "flip", "x.views": sampled, "x.tta": True, "x.levels": "last"})
    space = OwnedSpace(trial, "x", num_train, 3, accelerator=False)
    assert ExtractAugment().suggest(space, resnet, Watched())["views"] == views


@pytest.mark.parametrize("head", ["linear", "random_forest"])
def test_the_same_recipe_and_seed_give_the_same_probabilities(head, resnet, task):
    first, second = (fit(FastExtraction(), task(resnet, head)) for _ in range(2))
    assert np.array_equal(first.probabilities, second.probabilities)


def test_the_default_head_is_linear_on_the_networks_own_output(resnet, task):
    assert FastExtraction().defaults(task(resnet, "linear").head)["levels"] == "last"


# the training loop, which fine-tuning uses as well


@pytest.fixture
def train(resnet, task, monkeypatch):
    """`train(task_arguments, **params)`: a linear head in batches of 8, four steps an epoch."""
    monkeypatch.setattr(head_training, "SMALLEST_BATCH", 8)

    def run(problem=None, report=nothing, seed=1, **params):
        problem = problem or task(resnet, "linear")
        features, validation = (problem.features.levels(part, "last") for part in ("train", "validation"))
        head = problem.head.build({"dropout": 0.2}, features.shape[1], 3, seed)
        params = {"lr": 1e-2, "weight_decay": 0.05, "epochs": 5, **params}
        labels = problem.train_labels
        return train_head(head, features, labels, [validation], params, problem, "cpu", report, seed)

    return run


class Clock:
    """Seconds left: plenty, until it is told after how many more looks they are gone."""

    def __init__(self):
        self.looks = float("inf")

    def __call__(self):
        self.looks -= 1
        return 1e9 if self.looks >= 0 else 0.0


def test_a_plan_takes_its_own_from_a_strategys_parameters():
    plan = TrainingConfig.from_params({"epochs": 7, "mixup": 0.2, "levels": "last", "views": 3}, patience=2)
    assert (plan.epochs, plan.mixup, plan.patience, plan.balanced) == (7, 0.2, 2, False)


def test_a_short_allowance_means_fewer_epochs_and_the_schedule_of_those(train, resnet, task):
    trained = train(task(resnet, "linear", time_budget=1e-6), epochs=30)
    assert trained.plan.epochs == len(trained.history) == 1
    assert trained.plan.stop_after is None


def test_fewer_epochs_replay_exactly(train, resnet, task):
    """The steps that were timed knew of 30 epochs, and the replay doesn't: their pace may not depend on it."""
    short = train(task(resnet, "linear", time_budget=1e-6), epochs=30)
    again = train(epochs=short.plan.epochs)
    assert np.array_equal(short.probabilities, again.probabilities)


def test_an_epoch_that_time_cuts_short_counts_for_nothing(train, resnet, task):
    clock = Clock()

    def report(fraction, score):
        if fraction == 3 / 5:
            clock.looks = 3  # at the end of the third epoch, and at two steps of the fourth

    trained = train(task(resnet, "linear", seconds_left=clock), report)
    assert (len(trained.history), trained.plan.stop_after) == (3, 3)
    again = train(stop_after=3)
    assert np.array_equal(trained.probabilities, again.probabilities)


def test_no_time_for_one_epoch_is_out_of_time(train, resnet, task):
    with pytest.raises(OutOfTime, match="the time was up before one epoch was done"):
        train(task(resnet, "linear", seconds_left=lambda: 0.0), stop_after=5)
    with pytest.raises(OutOfTime, match="an epoch would take"):
        train(task(resnet, "linear", seconds_left=lambda: 1e-7))


def test_training_stops_where_nothing_gets_better(train):
    trained = train(lr=0.0, epochs=40)
    assert len(trained.history) == 6


@pytest.mark.parametrize("lr", [1e30, float("nan")])
def test_a_training_that_diverges_says_where(lr, train):
    with pytest.raises(Diverged, match=r"step \d+ \(epoch 1\)"):
        train(lr=lr)


def test_what_a_report_raises_ends_the_training(train):
    class Pruned(Exception):
        pass

    def report(fraction, score):
        raise Pruned

    with pytest.raises(Pruned):
        train(report=report)


def test_rare_classes_weigh_more_where_that_is_asked(train, resnet, task):
    """Of a class with two images among 26 a plain training says little."""
    kept = np.r_[0:2, 12:36]
    of_rare = []
    for balanced in (False, True):
        problem = task(resnet, "linear")
        problem.train_labels = problem.train_labels[kept]
        problem.features = Fewer(problem.features, kept)
        of_rare.append(train(problem, balanced=balanced, epochs=3).probabilities[:, 0].mean())
    assert of_rare[1] > of_rare[0]


class Fewer:
    """Features of some of the training images."""

    def __init__(self, features, kept):
        self.features, self.kept = features, kept

    def levels(self, part, levels):
        rows = self.features.levels(part, levels)
        return rows[self.kept] if part == "train" else rows
