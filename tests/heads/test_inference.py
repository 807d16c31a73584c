"""Logits of dense heads and of fitted estimators."""

import numpy as np
import pytest
import torch

from autotl.heads.inference import BATCH, MISSING, logits, probabilities


class Fitted:
    """A fitted estimator whose methods return given arrays: `Fitted(classes, predict_proba=…)`."""

    def __init__(self, classes, **outputs):
        self.classes_ = np.array(classes)
        for method, output in outputs.items():
            setattr(self, method, lambda features, output=output: np.asarray(output)[: len(features)])


FEATURES = np.zeros((2, 3), np.float32)


def test_a_binary_decision_becomes_two_columns():
    scores = logits(Fitted([0, 1], decision_function=[3.0, -2.0]), FEATURES, 2)
    np.testing.assert_allclose(scores[:, 1] - scores[:, 0], [3.0, -2.0])


def test_a_binary_decision_goes_to_the_columns_of_its_two_classes():
    scores = logits(Fitted([1, 3], decision_function=[3.0, -2.0]), FEATURES, 4)
    assert scores.argmax(1).tolist() == [3, 1]
    assert (scores[:, [0, 2]] == MISSING).all()


def test_decisions_of_many_classes_go_to_their_columns():
    scores = logits(Fitted([0, 2, 3], decision_function=[[1.0, 2.0, 3.0], [9.0, 8.0, 7.0]]), FEATURES, 4)
    np.testing.assert_array_equal(scores, [[1, MISSING, 2, 3], [9, MISSING, 8, 7]])


def test_a_probability_of_0_gets_a_finite_logit():
    scores = logits(Fitted([0, 1], predict_proba=[[1.0, 0.0], [0.25, 0.75]]), FEATURES, 2)
    np.testing.assert_allclose(scores, np.log([[1.0, 0.005], [0.25, 0.75]]))


def test_an_estimator_of_one_class_is_certain():
    scores = logits(Fitted([1], predict_proba=[[1.0], [1.0]]), FEATURES, 3)
    np.testing.assert_allclose(probabilities(scores, 1.0), [[0, 1, 0], [0, 1, 0]], atol=1e-12)


def test_samples_are_scored_in_batches_and_stay_in_order():
    head = torch.nn.Linear(3, 2)
    sizes = []
    head.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    x = np.random.default_rng(0).standard_normal((BATCH + 5, 3)).astype(np.float32)
    scores = logits(head, x, 2)
    assert sizes == [BATCH, 5]
    np.testing.assert_allclose(scores, x @ head.weight.detach().numpy().T + head.bias.detach().numpy(), atol=1e-5)


def test_no_samples_give_no_logits():
    assert logits(torch.nn.Linear(3, 2), np.empty((0, 3), np.float32), 2).shape == (0, 2)


def test_a_dense_head_runs_in_eval_mode_and_returns_to_its_own_mode():
    head = torch.nn.Sequential(torch.nn.Dropout(0.9), torch.nn.Linear(3, 2)).train()
    x = np.ones((4, 3), np.float32)
    np.testing.assert_array_equal(logits(head, x, 2), logits(head, x, 2))
    assert head.training


@pytest.mark.filterwarnings("error")
def test_features_may_be_read_only():
    x = np.ones((4, 3), np.float32)
    x.flags.writeable = False
    assert logits(torch.nn.Linear(3, 2), x, 2).dtype == np.float64


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_dense_head_runs_on_its_own_device():
    head, x = torch.nn.Linear(3, 2), np.ones((4, 3), np.float32)
    on_cpu = logits(head, x, 2)
    np.testing.assert_allclose(logits(head.to("cuda"), x, 2), on_cpu, atol=1e-5)
