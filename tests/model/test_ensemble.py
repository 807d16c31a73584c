"""Which trials to average: never worse than the best one, and within what is allowed."""

import numpy as np
import pytest

from autotl.model.ensemble import select
from autotl.registry import load_registry


@pytest.fixture(scope="module")
def metrics():
    return load_registry().metrics


def candidates(seed, metric, n=6, n_images=50, n_classes=3):
    """Labels, and candidates of different worth with errors of their own, best first."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_classes, size=n_images)
    found = []
    for skill in rng.uniform(0.3, 1.5, n):
        logits = rng.standard_normal((n_images, n_classes)) + skill * np.eye(n_classes)[labels]
        exp = np.exp(logits)
        found.append(exp / exp.sum(1, keepdims=True))
    sign = -1 if metric.greater_is_better else 1
    return labels, sorted(found, key=lambda p: sign * metric(labels, p))


def average(weights, found):
    return sum(weight * found[i] for i, weight in weights.items())


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "macro_f1", "log_loss", "auroc"])
@pytest.mark.parametrize("seed", range(2))
def test_the_average_is_never_below_the_best_single(name, seed, metrics):
    metric = metrics[name]
    labels, found = candidates(seed, metric)
    weights = select(found, labels, metric, limit=5)
    assert sum(weights.values()) == pytest.approx(1)
    alone, together = metric(labels, found[0]), metric(labels, average(weights, found))
    assert together == pytest.approx(alone) or metric.better(together, alone)


def test_it_helps_where_errors_differ(metrics):
    labels, found = candidates(0, metrics["accuracy"])
    weights = select(found, labels, metrics["accuracy"], limit=5)
    assert metrics["accuracy"](labels, average(weights, found)) > metrics["accuracy"](labels, found[0])


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_no_more_candidates_than_the_limit(limit, metrics):
    labels, found = candidates(1, metrics["log_loss"], n=12, n_images=60)
    assert len(select(found, labels, metrics["log_loss"], limit)) == limit


def test_only_what_is_allowed_together(metrics):
    labels, found = candidates(2, metrics["log_loss"])
    chosen = select(found, labels, metrics["log_loss"], 5, allowed=lambda group: len(group) <= 2 and 1 not in group)
    assert len(chosen) == 2
    assert 1 not in chosen


def test_the_best_alone_where_nothing_is_allowed(metrics):
    labels, found = candidates(0, metrics["accuracy"])
    assert select(found, labels, metrics["accuracy"], 5, allowed=lambda group: False) == {0: 1.0}


def test_one_candidate_is_taken_as_it_is(metrics):
    labels, found = candidates(0, metrics["accuracy"], n=1)
    assert select(found, labels, metrics["accuracy"], 5) == {0: 1.0}


def test_where_the_best_is_perfect_it_stays_alone(metrics):
    labels, found = candidates(0, metrics["accuracy"])
    perfect = np.eye(3)[labels]
    assert select([perfect, *found], labels, metrics["accuracy"], 5) == {0: 1.0}


def test_the_candidates_are_left_as_they_were(metrics):
    labels, found = candidates(0, metrics["accuracy"])
    before = [p.copy() for p in found]
    select(found, labels, metrics["accuracy"], 5)
    assert all(np.array_equal(a, b) for a, b in zip(found, before, strict=True))
