"""Extract and augment: the head learns from the original images and from each recorded view."""

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier

from autotl.data.augmentation import ORIGINAL, View
from autotl.heads.base import Head
from autotl.strategies.extract_augment import ExtractAugment
from autotl.testing.problem import FixedSpace


class Recording(Head):
    """Keeps what its classifiers are fitted on."""

    name, type = "recording", "estimator"

    def __init__(self):
        self.fits = []

    def suggest(self, space):
        return {}

    def build(self, params, num_features, num_classes, seed):
        class Classifier(DummyClassifier):
            def fit(classifier, features, labels):  # `self` is the head here
                self.fits.append((features, labels))
                return super().fit(features, labels)

        return Classifier()


def test_it_trains_on_the_original_images_and_on_each_view(resnet, task, fit):
    problem = task(resnet, "linear")
    problem.head = Recording()
    fit(ExtractAugment(), problem, policy="crop", views=2, levels="last")
    ((features, labels),) = problem.head.fits
    views = [ORIGINAL, View("crop", 0), View("crop", 1)]
    expected = [problem.features.levels("train", "last", view) for view in views]
    assert np.array_equal(features, np.concatenate(expected))
    assert labels.tolist() == problem.train_labels.tolist() * 3


def test_it_trains_a_dense_head_too(resnet, task, fit):
    problem = task(resnet, "linear")
    result = fit(ExtractAugment(), problem, policy="flip", views=2, epochs=30)
    assert problem.metric(problem.validation_labels, result.probabilities) >= 0.75
    assert len(result.history) <= 30


@pytest.mark.parametrize(
    ("max_train_samples", "num_train", "sampled", "views"),
    [(4000, 1000, 4, 3), (4000, 3000, 4, 1), (None, 10**6, 4, 4)],
)
def test_a_head_that_takes_few_samples_gets_few_views(
    max_train_samples, num_train, sampled, views, resnet, monkeypatch
):
    monkeypatch.setattr(Recording, "max_train_samples", max_train_samples)
    space = FixedSpace({"views": sampled}, num_train=num_train)
    assert ExtractAugment().suggest(space, resnet, Recording())["views"] == views
