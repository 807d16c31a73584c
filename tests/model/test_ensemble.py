"""Which trials to average: the best of each kind, within what is allowed."""

import numpy as np
import pytest

from autotl.model.ensemble import select
from autotl.registry import load_registry


@pytest.fixture(scope="module")
def metrics():
    return load_registry().metrics


def candidates(seed, metric, n=6, n_images=50, num_classes=3):
    """Labels, and candidates of different worth with errors of their own, best first."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=n_images)
    found = []
    for skill in rng.uniform(0.3, 1.5, n):
        logits = rng.standard_normal((n_images, num_classes)) + skill * np.eye(num_classes)[labels]
        exp = np.exp(logits)
        found.append(exp / exp.sum(1, keepdims=True))
    sign = -1 if metric.greater_is_better else 1
    return labels, sorted(found, key=lambda p: sign * metric(labels, p))


def average(weights, found):
    return sum(weight * found[i] for i, weight in weights.items())


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "macro_f1", "log_loss", "auroc"])
@pytest.mark.parametrize("seed", range(2))
def test_the_average_is_hardly_below_the_best_single(name, seed, metrics):
    metric = metrics[name]
    labels, found = candidates(seed, metric)
    weights = select(found, range(len(found)), labels, metric, limit=5)
    assert sum(weights.values()) == pytest.approx(1)
    alone, together = metric(labels, found[0]), metric(labels, average(weights, found))
    assert metric.better(together, alone) or abs(together - alone) < 0.1  # more than a standard error of any of them


def test_what_was_best_by_chance_does_not_stand_alone(metrics):
    """Sixty equally good trials of each of four kinds: the best of all on few images is no better on new ones."""
    accuracy, rng = metrics["accuracy"], np.random.default_rng(0)
    labels = rng.integers(2, size=2200)
    kinds = [kind for kind in range(4) for _ in range(60)]
    shared = rng.standard_normal((4, len(labels)))
    signal = np.array(
        [0.8 * (2 * labels - 1) + shared[kind] + 0.5 * rng.standard_normal(len(labels)) for kind in kinds]
    )
    second = 1 / (1 + np.exp(-2 * signal))
    everything = np.stack([1 - second, second], 2)
    order = sorted(range(len(kinds)), key=lambda i: -accuracy(labels[:200], everything[i, :200]))
    weights = select([everything[i, :200] for i in order], [kinds[i] for i in order], labels[:200], accuracy, 8)
    together = sum(weight * everything[order[i], 200:] for i, weight in weights.items())
    assert len({kinds[order[i]] for i in weights}) == len(weights) == 4
    assert accuracy(labels[200:], together) > accuracy(labels[200:], everything[order[0], 200:]) + 0.03


def test_what_is_much_worse_takes_no_part(metrics):
    labels, _ = candidates(0, metrics["accuracy"], n=2, n_images=400)
    wrong = np.eye(3)[(labels + 1) % 3]
    good = 0.9 * np.eye(3)[labels] + 0.1 / 3
    assert select([good, wrong], [0, 1], labels, metrics["accuracy"], 8) == {0: 1.0}


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_no_more_candidates_than_the_limit(limit, metrics):
    labels, found = candidates(1, metrics["log_loss"], n=12, n_images=60)
    assert len(select(found, range(len(found)), labels, metrics["log_loss"], limit)) == limit


def test_only_what_is_allowed_together(metrics):
    labels, found = candidates(2, metrics["log_loss"])
    chosen = select(
        found,
        range(len(found)),
        labels,
        metrics["log_loss"],
        5,
        allowed=lambda group: len(group) <= 2 and 1 not in group,
    )
    assert len(chosen) == 2
    assert 1 not in chosen


def test_the_best_alone_where_nothing_is_allowed(metrics):
    labels, found = candidates(0, metrics["accuracy"])
    assert select(found, range(len(found)), labels, metrics["accuracy"], 5, allowed=lambda group: False) == {0: 1.0}


def test_one_candidate_is_taken_as_it_is(metrics):
    labels, found = candidates(0, metrics["accuracy"], n=1)
    assert select(found, range(len(found)), labels, metrics["accuracy"], 5) == {0: 1.0}


def test_the_candidates_are_left_as_they_were(metrics):
    labels, found = candidates(0, metrics["accuracy"])
    before = [p.copy() for p in found]
    select(found, range(len(found)), labels, metrics["accuracy"], 5)
    assert all(np.array_equal(a, b) for a, b in zip(found, before, strict=True))
