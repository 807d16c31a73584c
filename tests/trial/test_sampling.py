"""Samples of a search's images."""

from types import SimpleNamespace

import numpy as np
import pytest

from autotl.data.splits import Split
from autotl.trial import sampling
from autotl.trial.sampling import on_all_images, sampled


@pytest.fixture
def of(monkeypatch):
    """`of(num_train, num_validation)`: a state of two classes."""
    monkeypatch.setattr(sampling, "replace", lambda some, **changes: type(some)(**vars(some) | changes))

    def make(num_train, num_validation):
        n = num_train + num_validation
        split = Split(np.arange(num_train), np.arange(num_train, n), np.empty(0, np.int64), seed=0)
        return _State(context=SimpleNamespace(split=split), extractor=SimpleNamespace())

    return make


class _State(SimpleNamespace):
    def labels(self, subset):
        return getattr(self.context.split, subset) % 2


@pytest.mark.parametrize(("num_validation", "expected"), [(4, 4), (100, 8), (1000, 32)])
def test_a_sample_has_validation_images(of, num_validation, expected):
    split = sampled(of(1000, num_validation), 64).context.split
    assert (len(split.train), len(split.validation)) == (64 - expected, expected)
    assert np.bincount(split.validation % 2).tolist() == [expected // 2] * 2


def test_a_larger_sample_contains_the_smaller_ones(of):
    state, before = of(300, 50), set()
    for size in range(64, 350):
        development = set(sampled(state, size).context.split.development.tolist())
        assert before <= development
        assert len(development) == size
        before = development


def test_probabilities_of_a_sample_are_those_of_its_images(of):
    state = of(100, 20)
    sample = sampled(state, 40)
    rows = on_all_images(state, sample, np.ones((40, 2)))
    assert np.flatnonzero(rows[:, 0] == 1).tolist() == sample.context.split.development.tolist()
