"""Temperature scaling."""

import numpy as np
import pytest

from autotl.heads.calibration import fit_temperature
from autotl.heads.inference import MISSING, probabilities
from autotl.metrics import log_loss

every_size = pytest.mark.parametrize("num_classes", [2, 7])


def overconfident(num_classes, n=400, sharpness=8.0, seed=0):
    """Logits that are confident of the right class about three times in four, and the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=n)
    predicted = np.where(rng.random(n) < 0.7, labels, rng.integers(num_classes, size=n))
    return sharpness * (np.eye(num_classes)[predicted] + 0.2 * rng.standard_normal((n, num_classes))), labels


@every_size
def test_calibration_lowers_the_log_loss(num_classes):
    logits, labels = overconfident(num_classes)
    temperature = fit_temperature(logits, labels)
    assert log_loss(labels, probabilities(logits, temperature)) < log_loss(labels, probabilities(logits, 1.0)) - 0.1


@every_size
def test_no_other_temperature_has_a_lower_log_loss(num_classes):
    logits, labels = overconfident(num_classes)
    temperature = fit_temperature(logits, labels)
    others = [log_loss(labels, probabilities(logits, temperature * t)) for t in np.geomspace(0.2, 5, 41)]
    assert log_loss(labels, probabilities(logits, temperature)) < min(others) + 1e-3


@every_size
def test_calibration_changes_no_prediction(num_classes):
    logits, labels = overconfident(num_classes)
    calibrated = probabilities(logits, fit_temperature(logits, labels))
    np.testing.assert_array_equal(calibrated.argmax(1), logits.argmax(1))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_temperature_scales_with_the_logits(scale):
    logits, labels = overconfident(3)
    expected = scale * fit_temperature(logits, labels)
    np.testing.assert_allclose(fit_temperature(scale * logits, labels), expected, rtol=1e-6)


def test_error_free_samples_do_not_give_probabilities_of_1():
    labels = np.arange(20) % 2
    logits = 1000.0 * np.eye(2)[labels]
    largest = probabilities(logits, fit_temperature(logits, labels)).max(1)
    assert ((largest > 0.9) & (largest < 0.99)).all()


def test_samples_of_a_class_missing_from_the_training_are_ignored():
    logits, labels = overconfident(4)
    labels[:20] = 3
    known = labels < 3
    logits[:, 3] = MISSING
    assert fit_temperature(logits, labels) == pytest.approx(fit_temperature(logits[known, :3], labels[known]))


def test_equal_logits_have_the_temperature_1():
    assert fit_temperature(np.zeros((5, 3)), np.arange(5) % 3) == 1.0


def test_without_usable_samples_the_temperature_is_1():
    assert fit_temperature(np.full((4, 2), [0.0, MISSING]), np.ones(4, int)) == 1.0
