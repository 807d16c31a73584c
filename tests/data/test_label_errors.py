"""Likely label errors: the ranking is cleanlab's, and flipped labels are found."""

import numpy as np
import pytest

from autotl.data.label_errors import likely_errors


def problem(seed, n=400, num_classes=4, flipped=0.05):
    """Labels, of which some were flipped, and the probabilities of a model that isn't always right."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(num_classes, size=n)
    logits = rng.normal(0, 1, (n, num_classes))
    logits[np.arange(n), truth] += 3
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wrong = rng.random(n) < flipped
    labels = np.where(wrong, (truth + rng.integers(1, num_classes, n)) % num_classes, truth)
    return labels, probabilities, wrong


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("num_classes", [2, 4, 12])
def test_the_order_is_that_of_cleanlab(seed, num_classes):
    ranking = pytest.importorskip("cleanlab.rank")
    labels, probabilities, _ = problem(seed, num_classes=num_classes)
    quality = ranking.get_label_quality_scores(labels, probabilities, method="self_confidence")
    found = [error.image for error in likely_errors(labels, probabilities)]
    assert len(found) > 5
    assert found == np.argsort(quality, kind="stable")[: len(found)].tolist()


def test_most_flipped_labels_are_found():
    labels, probabilities, wrong = problem(0)
    found = [error.image for error in likely_errors(labels, probabilities)]
    assert wrong[found].mean() > 0.6
    assert wrong[found].sum() > 0.6 * wrong.sum()


def test_a_suggestion_is_the_predicted_class_and_the_score_the_labels_probability():
    labels, probabilities = (
        np.array([0, 1, 0, 1, 0]),
        np.array([[0.9, 0.1], [0.2, 0.8], [0.8, 0.2], [0.1, 0.9], [0.05, 0.95]]),
    )
    (error,) = likely_errors(labels, probabilities)
    assert (error.image, error.suggested, error.score) == (4, 1, 0.05)


def test_labels_that_are_hard_to_tell_are_not_named():
    """Three classes of which two look alike: predicted as the other one, with a probability that is no surprise."""
    labels = np.array([0, 1, 2, 0, 1])
    probabilities = np.array(
        [[0.3, 0.69, 0.01], [0.6, 0.38, 0.02], [0.1, 0.1, 0.8], [0.45, 0.5, 0.05], [0.9, 0.02, 0.08]]
    )
    assert [error.image for error in likely_errors(labels, probabilities)] == [4]


def test_rows_that_no_fold_predicted_are_left_out():
    labels, probabilities, _ = problem(1)
    complete = [error.image for error in likely_errors(labels[5:], probabilities[5:])]
    probabilities[:5] = np.nan
    assert [error.image - 5 for error in likely_errors(labels, probabilities)] == complete
    assert likely_errors(labels[:5], probabilities[:5]) == []
