"""Selection of the trials that a model averages."""

import numpy as np
import pytest

from autotl.model.ensemble import select
from autotl.registry import load_registry


@pytest.fixture(scope="module")
def metrics():
    return load_registry().metrics


def candidates(seed, metric, n=6, n_images=50, num_classes=3):
    """Labels, and the probabilities of candidates of different skill with independent errors, best first."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=n_images)
    probabilities = []
    for skill in rng.uniform(0.3, 1.5, n):
        logits = rng.standard_normal((n_images, num_classes)) + skill * np.eye(num_classes)[labels]
        exp = np.exp(logits)
        probabilities.append(exp / exp.sum(1, keepdims=True))
    sign = -1 if metric.greater_is_better else 1
    return labels, sorted(probabilities, key=lambda p: sign * metric(labels, p))


def average(weights, probabilities):
    return sum(weight * probabilities[i] for i, weight in weights.items())


@pytest.mark.parametrize("seed", range(4))
def test_the_average_has_a_lower_log_loss_than_each_candidate(seed, metrics):
    log_loss = metrics["log_loss"]
    labels, probabilities = candidates(seed, log_loss, n_images=200)
    weights = select(probabilities, labels, limit=5)
    assert sum(weights.values()) == pytest.approx(1)
    assert log_loss(labels, average(weights, probabilities)) < log_loss(labels, probabilities[0])


def test_the_average_beats_a_candidate_that_is_best_by_chance(metrics):
    """Sixty equally good trials in each of four groups: the best of all on few images is no better on new ones."""
    accuracy, rng = metrics["accuracy"], np.random.default_rng(0)
    labels = rng.integers(2, size=2200)
    shared = rng.standard_normal((4, len(labels)))
    signal = np.concatenate(
        [0.8 * (2 * labels - 1) + row + 0.5 * rng.standard_normal((60, len(labels))) for row in shared]
    )
    second = 1 / (1 + np.exp(-2 * signal))
    probabilities = np.stack([1 - second, second], 2)
    best = max(range(240), key=lambda i: accuracy(labels[:200], probabilities[i, :200]))
    weights = select(probabilities[:, :200], labels[:200], 8)
    together = average(weights, probabilities[:, 200:])
    assert {i // 60 for i in weights} == {0, 1, 2, 3}
    assert accuracy(labels[200:], together) > accuracy(labels[200:], probabilities[best, 200:]) + 0.03


def test_a_much_worse_candidate_is_left_out(metrics):
    labels, _ = candidates(0, metrics["accuracy"], n=2, n_images=400)
    wrong = np.eye(3)[(labels + 1) % 3]
    good = 0.9 * np.eye(3)[labels] + 0.1 / 3
    assert select([good, wrong], labels, 8) == {0: 1.0}


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_no_more_candidates_than_the_limit(limit, metrics):
    labels, probabilities = candidates(1, metrics["log_loss"], n=12, n_images=60)
    assert len(select(probabilities, labels, limit)) == limit


def test_only_candidates_that_are_allowed_together(metrics):
    labels, probabilities = candidates(2, metrics["log_loss"])
    chosen = select(probabilities, labels, 5, allowed=lambda group: len(group) <= 2 and 1 not in group)
    assert len(chosen) == 2
    assert 1 not in chosen


def test_the_best_candidate_alone_if_no_set_is_allowed(metrics):
    labels, probabilities = candidates(0, metrics["accuracy"])
    assert select(probabilities, labels, 5, allowed=lambda group: False) == {0: 1.0}


def test_the_probabilities_are_not_changed(metrics):
    labels, probabilities = candidates(0, metrics["accuracy"])
    before = [p.copy() for p in probabilities]
    select(probabilities, labels, 5)
    assert all(np.array_equal(a, b) for a, b in zip(probabilities, before, strict=True))


def test_a_probability_of_zero_for_the_right_class_is_no_error():
    labels = np.array([0, 1, 0])
    never, often = np.eye(2)[1 - labels], np.eye(2)[labels] * 0.6 + 0.2
    assert select([never, often], labels, 8) == {1: 1.0}


def test_candidates_that_predicted_some_images_are_compared_on_those(metrics):
    """As a fine-tuned candidate, which has predicted one fold: it joins where it is better there, and only there."""
    labels, probabilities = candidates(3, metrics["log_loss"], n=3, n_images=100)
    better, worse = (0.8 * np.eye(3)[labels] + 0.2 / 3 for _ in range(2))
    worse[:20] = 1 / 3  # and better on the images that it hasn't predicted
    better[20:], worse[20:] = np.nan, np.nan
    assert select([*probabilities, better], labels, 8)[3] > 0.5
    assert 3 not in select([*probabilities, worse], labels, 8)
    full = select(probabilities, labels, 8)
    assert select([*probabilities, worse], labels, 8) == full
