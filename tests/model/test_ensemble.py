"""Selection of the trials that a model averages."""

import numpy as np
import pytest

from autotl.metrics import Metric
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


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "macro_f1", "log_loss", "auroc"])
@pytest.mark.parametrize("seed", range(2))
def test_the_average_is_hardly_worse_than_the_best_candidate(name, seed, metrics):
    metric = metrics[name]
    labels, probabilities = candidates(seed, metric)
    weights = select(probabilities, range(len(probabilities)), labels, metric, limit=5)
    assert sum(weights.values()) == pytest.approx(1)
    alone, together = metric(labels, probabilities[0]), metric(labels, average(weights, probabilities))
    assert metric.better(together, alone) or abs(together - alone) < 0.1  # more than any of their standard errors


def test_the_average_beats_a_candidate_that_is_best_by_chance(metrics):
    """Sixty equally good trials in each of four groups: the best of all on few images is no better on new ones."""
    accuracy, rng = metrics["accuracy"], np.random.default_rng(0)
    labels = rng.integers(2, size=2200)
    groups = [group for group in range(4) for _ in range(60)]
    shared = rng.standard_normal((4, len(labels)))
    signal = np.array(
        [0.8 * (2 * labels - 1) + shared[group] + 0.5 * rng.standard_normal(len(labels)) for group in groups]
    )
    second = 1 / (1 + np.exp(-2 * signal))
    probabilities = np.stack([1 - second, second], 2)
    order = sorted(range(len(groups)), key=lambda i: -accuracy(labels[:200], probabilities[i, :200]))
    weights = select([probabilities[i, :200] for i in order], [groups[i] for i in order], labels[:200], accuracy, 8)
    together = sum(weight * probabilities[order[i], 200:] for i, weight in weights.items())
    assert len({groups[order[i]] for i in weights}) == len(weights) == 4
    assert accuracy(labels[200:], together) > accuracy(labels[200:], probabilities[order[0], 200:]) + 0.03


def test_a_much_worse_candidate_is_left_out(metrics):
    labels, _ = candidates(0, metrics["accuracy"], n=2, n_images=400)
    wrong = np.eye(3)[(labels + 1) % 3]
    good = 0.9 * np.eye(3)[labels] + 0.1 / 3
    assert select([good, wrong], [0, 1], labels, metrics["accuracy"], 8) == {0: 1.0}


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_no_more_candidates_than_the_limit(limit, metrics):
    labels, probabilities = candidates(1, metrics["log_loss"], n=12, n_images=60)
    assert len(select(probabilities, range(len(probabilities)), labels, metrics["log_loss"], limit)) == limit


def test_only_candidates_that_are_allowed_together(metrics):
    labels, probabilities = candidates(2, metrics["log_loss"])
    chosen = select(
        probabilities,
        range(len(probabilities)),
        labels,
        metrics["log_loss"],
        5,
        allowed=lambda group: len(group) <= 2 and 1 not in group,
    )
    assert len(chosen) == 2
    assert 1 not in chosen


def test_the_best_candidate_alone_if_no_set_is_allowed(metrics):
    labels, probabilities = candidates(0, metrics["accuracy"])
    chosen = select(
        probabilities, range(len(probabilities)), labels, metrics["accuracy"], 5, allowed=lambda group: False
    )
    assert chosen == {0: 1.0}


def test_a_single_candidate_is_selected(metrics):
    labels, probabilities = candidates(0, metrics["accuracy"], n=1)
    assert select(probabilities, range(len(probabilities)), labels, metrics["accuracy"], 5) == {0: 1.0}


def test_the_probabilities_are_not_changed(metrics):
    labels, probabilities = candidates(0, metrics["accuracy"])
    before = [p.copy() for p in probabilities]
    select(probabilities, range(len(probabilities)), labels, metrics["accuracy"], 5)
    assert all(np.array_equal(a, b) for a, b in zip(probabilities, before, strict=True))


def test_a_bootstrap_sample_without_a_score_is_ignored(metrics):
    """The metric is NaN for a sample that lacks a class, as most samples of these six images do."""

    def needs_all_classes(labels, probabilities):
        return float("nan") if len(set(labels)) < 3 else float((probabilities.argmax(1) == labels).mean())

    labels, metric = np.array([0, 0, 0, 0, 1, 2]), Metric("needs_all_classes", needs_all_classes)
    good = 0.9 * np.eye(3)[labels] + 0.1 / 3
    assert sum(select([good, good], [0, 1], labels, metric, 8).values()) == pytest.approx(1)


def test_an_average_without_a_score_is_not_selected():
    def few_only(labels, probabilities):
        return float("nan") if probabilities[0, 0] > 0.7 else 0.5

    labels = np.array([0, 1])
    low, high = np.array([[0.6, 0.4], [0.4, 0.6]]), np.array([[0.99, 0.01], [0.4, 0.6]])
    assert select([low, high], [0, 1], labels, Metric("few_only", few_only), 8) == {0: 1.0}


@pytest.mark.parametrize(("positives", "n"), [(1, 8), (2, 12), (3, 40)])
@pytest.mark.parametrize("limit", [1, 8])
def test_a_rare_class_selects_with_auroc(positives, n, limit, metrics):
    """Many bootstrap samples have one class, for which the area under the curve is undefined."""
    rng = np.random.default_rng(0)
    labels = np.array([1] * positives + [0] * (n - positives))
    scores = [np.clip(0.5 * labels + rng.normal(0.25, 0.1, n), 0.01, 0.99) for _ in range(3)]
    weights = select([np.stack([1 - s, s], 1) for s in scores], "abc", labels, metrics["auroc"], limit)
    assert sum(weights.values()) == pytest.approx(1)


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e308, "raises"])
def test_a_metric_without_a_score_selects_the_best_candidate(value):
    def compute(labels, probabilities):
        return (1 / 0 if value == "raises" else value) * (-1) ** int(1e6 * probabilities[0, 0])

    labels, probabilities = candidates(0, Metric("first", lambda labels, probabilities: probabilities[0, 0]))
    weights = select(probabilities, range(len(probabilities)), labels, Metric("odd", compute), 5)
    assert 0 in weights
    assert sum(weights.values()) == pytest.approx(1)
