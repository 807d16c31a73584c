import numpy as np
import pytest
import torch

from autotl.heads.calibration import fit_temperature
from autotl.heads.inference import MISSING, ROWS, logits, probabilities
from autotl.metrics import log_loss


class Fixed:
    """A fitted estimator of known answers."""

    def __init__(self, classes, **answers):
        self.classes_ = np.array(classes)
        for name, answer in answers.items():
            setattr(self, name, lambda features, answer=answer: np.asarray(answer)[: len(features)])


ROW = np.zeros((2, 3), np.float32)


def noisy(num_classes, n=400, sharpness=8.0, seed=0):
    """Overconfident logits, right about three times in four."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=n)
    said = np.where(rng.random(n) < 0.7, labels, rng.integers(num_classes, size=n))
    return sharpness * (np.eye(num_classes)[said] + 0.2 * rng.standard_normal((n, num_classes))), labels


def test_a_binary_decision_becomes_two_columns():
    found = logits(Fixed([0, 1], decision_function=[3.0, -2.0]), ROW, 2)
    np.testing.assert_allclose(found[:, 1] - found[:, 0], [3.0, -2.0])


def test_a_binary_decision_goes_to_the_classes_it_is_about():
    found = logits(Fixed([1, 3], decision_function=[3.0, -2.0]), ROW, 4)
    assert found.argmax(1).tolist() == [3, 1]
    assert (found[:, [0, 2]] == MISSING).all()


def test_decisions_of_many_classes_go_to_their_columns():
    found = logits(Fixed([0, 2, 3], decision_function=[[1.0, 2.0, 3.0], [9.0, 8.0, 7.0]]), ROW, 4)
    np.testing.assert_array_equal(found, [[1, MISSING, 2, 3], [9, MISSING, 8, 7]])


def test_certain_estimators_get_finite_logits():
    found = logits(Fixed([0, 1], predict_proba=[[1.0, 0.0], [0.25, 0.75]]), ROW, 2)
    np.testing.assert_allclose(found, np.log([[1.0, 0.005], [0.25, 0.75]]))


def test_one_class_alone_is_certain():
    found = logits(Fixed([1], predict_proba=[[1.0], [1.0]]), ROW, 3)
    np.testing.assert_allclose(probabilities(found, 1.0), [[0, 1, 0], [0, 1, 0]], atol=1e-12)


def test_rows_are_scored_in_batches_in_their_order():
    head = torch.nn.Linear(3, 2)
    sizes = []
    head.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    x = np.random.default_rng(0).standard_normal((ROWS + 5, 3)).astype(np.float32)
    found = logits(head, x, 2)
    assert sizes == [ROWS, 5]
    np.testing.assert_allclose(found, x @ head.weight.detach().numpy().T + head.bias.detach().numpy(), atol=1e-5)


def test_no_rows_give_no_logits():
    assert logits(torch.nn.Linear(3, 2), np.empty((0, 3), np.float32), 2).shape == (0, 2)


def test_a_dense_head_is_scored_in_eval_mode_and_left_in_its_own():
    head = torch.nn.Sequential(torch.nn.Dropout(0.9), torch.nn.Linear(3, 2)).train()
    x = np.ones((4, 3), np.float32)
    np.testing.assert_array_equal(logits(head, x, 2), logits(head, x, 2))
    assert head.training


@pytest.mark.filterwarnings("error")
def test_recorded_features_may_be_read_only():
    x = np.ones((4, 3), np.float32)
    x.flags.writeable = False
    assert logits(torch.nn.Linear(3, 2), x, 2).dtype == np.float64


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_dense_head_runs_on_its_own_device():
    head, x = torch.nn.Linear(3, 2), np.ones((4, 3), np.float32)
    on_cpu = logits(head, x, 2)
    np.testing.assert_allclose(logits(head.to("cuda"), x, 2), on_cpu, atol=1e-5)


@pytest.mark.parametrize("num_classes", [2, 7])
def test_calibrated_log_loss_is_lower(num_classes):
    found, labels = noisy(num_classes)
    temperature = fit_temperature(found, labels)
    assert log_loss(labels, probabilities(found, temperature)) < log_loss(labels, probabilities(found, 1.0)) - 0.1


@pytest.mark.parametrize("num_classes", [2, 7])
def test_no_other_temperature_has_a_lower_log_loss(num_classes):
    found, labels = noisy(num_classes)
    temperature = fit_temperature(found, labels)
    others = [log_loss(labels, probabilities(found, temperature * t)) for t in np.geomspace(0.2, 5, 41)]
    assert log_loss(labels, probabilities(found, temperature)) < min(others) + 1e-3


@pytest.mark.parametrize("num_classes", [2, 7])
def test_calibration_changes_no_prediction(num_classes):
    found, labels = noisy(num_classes)
    after = probabilities(found, fit_temperature(found, labels))
    np.testing.assert_array_equal(after.argmax(1), found.argmax(1))


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_the_unit_of_the_logits_is_no_matter(unit):
    found, labels = noisy(3)
    np.testing.assert_allclose(fit_temperature(unit * found, labels), unit * fit_temperature(found, labels), rtol=1e-6)


def test_perfect_rows_dont_ask_for_certainty():
    labels = np.arange(20) % 2
    found = 1000.0 * np.eye(2)[labels]
    worst = probabilities(found, fit_temperature(found, labels)).max(1)
    assert ((worst > 0.9) & (worst < 0.99)).all()


def test_rows_of_a_class_that_was_never_seen_dont_spoil_the_rest():
    found, labels = noisy(4)
    labels[:20] = 3
    seen = labels < 3
    found[:, 3] = MISSING
    assert fit_temperature(found, labels) == pytest.approx(fit_temperature(found[seen, :3], labels[seen]))


def test_logits_that_say_nothing_need_no_temperature():
    assert fit_temperature(np.zeros((5, 3)), np.arange(5) % 3) == 1.0


def test_rows_that_say_nothing_need_no_temperature():
    assert fit_temperature(np.full((4, 2), [0.0, MISSING]), np.ones(4, int)) == 1.0
