"""The built-in metrics, and what `Metric` promises of every score."""

import numpy as np
import pytest

from autotl import metrics
from autotl.errors import MetricError
from autotl.metrics import Metric, all_scores, autotl_register_metrics, majority_baseline
from autotl.testing import metric_checks

METRICS: dict[str, Metric] = {}
autotl_register_metrics(lambda metric: METRICS.update({metric.name: metric}))


def graded(labels, num_classes, right=0.6):
    """Probabilities: `right` for the label of each row, the rest in equal parts for the other classes."""
    rest = (1 - right) / (num_classes - 1)
    return np.where(np.eye(num_classes, dtype=bool)[labels], right, rest)


@metric_checks
@pytest.mark.parametrize("name", ["accuracy", "auroc", "balanced_accuracy", "log_loss", "macro_f1"])
def test_a_built_in_metric_passes_the_checks_of_the_kit(name, check):
    check(METRICS[name])


def test_the_names_of_the_built_in_metrics():
    assert sorted(METRICS) == ["accuracy", "auroc", "balanced_accuracy", "log_loss", "macro_f1"]


@pytest.mark.parametrize("num_classes", [2, 7])
@pytest.mark.parametrize(
    ("name", "perfect"),
    [("accuracy", 1), ("balanced_accuracy", 1), ("macro_f1", 1), ("auroc", 1), ("log_loss", -np.log(0.6))],
)
def test_right_predictions_have_the_best_score(name, perfect, num_classes):
    labels = np.arange(21) % num_classes
    assert METRICS[name](labels, graded(labels, num_classes)) == pytest.approx(perfect)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", sorted(METRICS))
def test_labels_without_a_class_are_scored_without_a_warning(name):
    labels = np.array([0, 0, 1, 1, 3, 3])
    score = METRICS[name](labels, graded((labels + (np.arange(6) == 0)) % 4, 4))
    assert np.isfinite(score)


@pytest.mark.parametrize("num_classes", [2, 7])
@pytest.mark.parametrize("name", sorted(METRICS))
def test_right_predictions_are_better_than_wrong_ones(name, num_classes):
    metric, labels = METRICS[name], np.arange(21) % num_classes
    right = metric(labels, graded(labels, num_classes))
    wrong = metric(labels, graded((labels + 1) % num_classes, num_classes))
    assert metric.better(right, wrong)
    assert not metric.better(wrong, right)
    assert (right > wrong) == (metric.direction == "maximize")


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
@pytest.mark.parametrize("classes", [2, 5])
def test_scores_are_those_of_scikit_learn(classes):
    from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss

    rng = np.random.default_rng(classes)
    labels, probabilities = rng.integers(classes, size=40), rng.dirichlet(np.full(classes, 0.3), 40)
    labels[labels == classes - 1] = 0  # a class that is predicted and never right
    probabilities[0] = np.eye(classes)[(labels[0] + 1) % classes]
    expected = {
        "balanced_accuracy": balanced_accuracy_score(labels, probabilities.argmax(1)),
        "macro_f1": f1_score(labels, probabilities.argmax(1), average="macro"),
        "log_loss": log_loss(labels, probabilities, labels=np.arange(classes)),
    }
    assert {name: METRICS[name](labels, probabilities) for name in expected} == pytest.approx(expected, abs=1e-12)


def test_an_equal_score_is_not_better():
    assert not METRICS["accuracy"].better(0.5, 0.5)
    assert not METRICS["log_loss"].better(0.5, 0.5)


def test_balanced_accuracy_counts_each_class_once():
    labels = np.array([0] * 9 + [1])
    always_zero = np.tile([0.9, 0.1], (10, 1))
    assert METRICS["accuracy"](labels, always_zero) == pytest.approx(0.9)
    assert METRICS["balanced_accuracy"](labels, always_zero) == pytest.approx(0.5)


def test_binary_auroc_is_the_share_of_pairs_in_the_right_order():
    labels = np.array([0, 0, 1, 1])
    positive = np.array([0.1, 0.4, 0.35, 0.8])
    assert METRICS["auroc"](labels, np.stack([1 - positive, positive], 1)) == pytest.approx(0.75)


def test_auroc_of_many_classes_is_the_mean_over_the_classes_of_the_labels():
    labels = np.array([0, 0, 1, 1])
    p = np.array([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.3, 0.4, 0.3], [0.1, 0.6, 0.3]])
    # in both classes three of four pairs are in the right order
    assert METRICS["auroc"](labels, p) == pytest.approx(0.75)


def test_all_scores_has_the_names_of_the_result_file():
    labels = np.arange(21) % 7
    scores = all_scores(labels, graded(labels, 7))
    assert scores == pytest.approx(
        {"accuracy": 1, "balanced_accuracy": 1, "macro_f1": 1, "log_loss": -np.log(0.6), "n": 21}
    )


def test_the_baseline_predicts_the_frequencies_of_the_training_labels():
    scores = majority_baseline(np.array([0, 1, 1, 1]), np.array([1, 1, 0, 1]), 3)
    assert scores["accuracy"] == pytest.approx(0.75)
    assert scores["balanced_accuracy"] == pytest.approx(0.5)
    assert scores["log_loss"] == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))


def test_the_baseline_is_at_least_chance_where_classes_tie():
    train, labels = np.arange(30) % 3, np.array([0, 1, 2, 2])
    scores = majority_baseline(train, labels, 3)
    assert scores["accuracy"] == pytest.approx(0.5)
    assert scores["balanced_accuracy"] == pytest.approx(1 / 3)
    assert scores["log_loss"] == pytest.approx(np.log(3))


def test_the_asked_metric_comes_first_in_model_and_baseline():
    labels = np.array([0, 0, 1, 1])
    assert next(iter(all_scores(labels, graded(labels, 2), METRICS["auroc"]))) == "auroc"
    assert majority_baseline(labels, labels, 2, METRICS["auroc"])["auroc"] == pytest.approx(0.5)
    assert list(all_scores(labels, graded(labels, 2), METRICS["log_loss"])) == [
        *("log_loss", "accuracy", "balanced_accuracy", "macro_f1", "n"),
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_is_an_error_that_names_metric_and_value(value):
    metric = Metric("strange", lambda labels, probabilities: value)
    with pytest.raises(MetricError, match=f"metric 'strange' returned {value} for 4 images of 2 classes"):
        metric(np.array([0, 1, 0, 1]), np.full((4, 2), 0.5))


BROKEN = {
    "raises": (lambda labels, probabilities: 1 / 0, r"raised ZeroDivisionError \(division by zero\)"),
    "returns None": (lambda labels, probabilities: None, r"raised TypeError"),
    "returns a score for each class": (lambda labels, probabilities: np.ones(2), r"raised TypeError"),
    "returns a complex number": (lambda labels, probabilities: 1j, r"raised TypeError"),
}


@pytest.mark.parametrize(("compute", "outcome"), BROKEN.values(), ids=BROKEN.keys())
def test_a_metric_that_has_no_score_is_an_error_with_its_name(compute, outcome):
    metric, labels = Metric("strange", compute), np.array([0, 0, 0])
    with pytest.raises(MetricError, match=f"metric 'strange' {outcome}.* for 3 images of 1 class\\."):
        metric(labels, np.full((3, 2), 0.5))
    assert np.isnan(metric.score_or_nan(labels, np.full((3, 2), 0.5)))
    assert "strange" not in all_scores(labels, np.full((3, 2), 0.5), metric)


def test_a_metric_that_writes_into_its_arguments_changes_no_answers():
    def sort(labels, probabilities):
        probabilities.sort()
        labels[:] = 0
        return 0.5

    labels, probabilities = np.array([0, 1]), np.eye(2)
    assert Metric("sorting", sort)(labels, probabilities) == 0.5
    assert labels.tolist() == [0, 1]
    assert probabilities.tolist() == [[1, 0], [0, 1]]


def test_auroc_of_one_class_is_an_error_that_says_so():
    with pytest.raises(MetricError, match="'auroc' returned nan for 5 images of 1 class"):
        METRICS["auroc"](np.zeros(5, int), np.full((5, 2), 0.5))


def test_all_scores_leave_out_a_score_that_is_not_finite(monkeypatch):
    broken = Metric("macro_f1", lambda labels, probabilities: float("nan"))
    monkeypatch.setattr(metrics, "BUILT_IN", tuple(broken if m.name == "macro_f1" else m for m in metrics.BUILT_IN))
    assert set(all_scores(np.array([0, 1]), np.eye(2))) == {"accuracy", "balanced_accuracy", "log_loss", "n"}
