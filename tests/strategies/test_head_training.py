"""Training of heads on recorded features: what an estimator's `fit` is given, and how a dense head is trained."""

import numpy as np
import optuna
import pytest
import torch
from sklearn.dummy import DummyClassifier

from autotl.clock import Deadline
from autotl.heads.base import Head
from autotl.heads.dense import MLP
from autotl.strategies.base import OutOfTime
from autotl.strategies.extract_augment import ExtractAugment
from autotl.strategies.fast_extraction import FastExtraction
from autotl.strategies.head_training import train_head
from autotl.testing.scripted import VirtualClock


class Slow(Head):
    """Its estimators learn in four steps, and report progress after each."""

    name, type = "slow", "estimator"

    def suggest(self, space):
        return {}

    def build(self, params, num_features, num_classes, seed):
        class Classifier(DummyClassifier):
            def fit(classifier, features, labels, groups, on_progress):  # `self` is the head here
                self.groups = groups
                super().fit(features, labels)
                for step in range(1, 5):
                    on_progress(step / 4)
                return classifier

        return Classifier()


def test_an_estimator_that_accepts_groups_gets_the_image_of_each_sample(resnet, task, fit):
    problem = task(resnet, "linear")
    problem.head = Slow()
    fit(ExtractAugment(), problem, policy="crop", views=2, levels="last")
    assert problem.head.groups.tolist() == list(range(36)) * 3


def test_an_estimators_progress_is_reported_with_its_validation_score_and_can_be_pruned(resnet, task, fit):
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


def test_an_estimator_that_reports_progress_ends_at_the_deadline(resnet, task, fit):
    clock = VirtualClock()
    problem = task(resnet, "linear", deadline=Deadline(10.0, clock))
    problem.head = Slow()
    with pytest.raises(OutOfTime, match="the time ran out after 50% of the fit"):
        fit(FastExtraction(), problem, report=lambda fraction, score: clock.sleep(20.0), levels="last")


def test_weight_decay_applies_to_the_weight_matrices_of_a_dense_head_alone(resnet, task):
    """AdamW's decay shows in one step of a head whose gradients are 0: only decayed parameters change."""
    head = MLP().build({**MLP().defaults(), "normalization": "layer", "dropout": 0.0}, 6, 2, seed=0)
    for parameter in head.parameters():
        parameter.register_hook(torch.zeros_like)
        with torch.no_grad():
            parameter.add_(0.5)
    before = {name: parameter.clone() for name, parameter in head.named_parameters()}
    features, labels = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32), np.arange(64) % 2
    problem = task(resnet, "mlp")
    problem.train_labels = problem.validation_labels = labels
    params = {"lr": 0.1, "weight_decay": 0.5, "epochs": 1}
    train_head(head, features, labels, [features], params, problem, "cpu", lambda fraction, score: None, seed=0)
    changed = {name for name, parameter in head.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {name for name, parameter in head.named_parameters() if parameter.ndim > 1}
    assert len(changed) == 2  # of the two linear layers
