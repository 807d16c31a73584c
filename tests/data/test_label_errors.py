"""Confident learning: the ranking is cleanlab's, and flipped labels are found."""

import numpy as np
import pytest

from autotl.data.label_errors import confident_learning


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
def test_images_and_their_order_are_those_of_cleanlab(seed, num_classes):
    filter_ = pytest.importorskip("cleanlab.filter")
    labels, probabilities, _ = problem(seed, num_classes=num_classes)
    expected = filter_.find_label_issues(
        labels, probabilities, filter_by="confident_learning", return_indices_ranked_by="self_confidence", n_jobs=1
    )
    assert [error.image for error in confident_learning(labels, probabilities)] == expected.tolist()


def test_most_flipped_labels_are_found():
    labels, probabilities, wrong = problem(0)
    found = [error.image for error in confident_learning(labels, probabilities)]
    assert wrong[found].mean() > 0.6
    assert wrong[found].sum() > 0.6 * wrong.sum()


def test_a_suggestion_is_the_predicted_class_and_the_score_the_labels_probability():
    labels, probabilities = (
        np.array([0, 1, 0, 1, 0]),
        np.array([[0.9, 0.1], [0.2, 0.8], [0.8, 0.2], [0.1, 0.9], [0.05, 0.95]]),
    )
    (error,) = confident_learning(labels, probabilities)
    assert (error.image, error.suggested, error.score) == (4, 1, 0.05)


def test_rows_that_no_fold_predicted_are_left_out():
    labels, probabilities, _ = problem(1)
    complete = [error.image for error in confident_learning(labels[5:], probabilities[5:])]
    probabilities[:5] = np.nan
    assert [error.image - 5 for error in confident_learning(labels, probabilities)] == complete
    assert confident_learning(labels[:5], probabilities[:5]) == []
