"""The average of fine-tuned and pretrained weights with the least log loss on the validation images."""

import numpy as np
import pytest
import torch
from torch import nn

from autotl.clock import Deadline
from autotl.strategies.weight_averaging import average_with_pretrained
from autotl.testing.scripted import VirtualClock


class Problem:
    """The part of a task that is used: two images of class 1."""

    validation_labels = np.array([1, 1])
    deadline = Deadline()


def scalar(value: float) -> nn.Module:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, value)
    return network


def averaged(target: float, share: float | None = None, task: type[Problem] = Problem) -> tuple[float, float]:
    """The share, and the weight, where the probability of class 1 is greatest at `target` between 0 and 1."""
    network, pretrained = scalar(1.0), scalar(0.0).state_dict()

    def predict() -> np.ndarray:
        right = np.exp(-abs(float(network.weight) - target))
        return np.array([[1 - right, right]] * 2)

    share, probabilities = average_with_pretrained(network, pretrained, predict, predict(), task, share)
    assert np.array_equal(probabilities, predict())  # of the weights that the network now has
    return share, float(network.weight)


@pytest.mark.parametrize(("target", "share"), [(0.2, 0.25), (0.5, 0.5), (0.8, 0.75), (1.0, 1.0), (2.0, 1.0)])
def test_the_share_with_the_least_log_loss_is_chosen(target: float, share: float) -> None:
    assert averaged(target) == (share, share)


def test_a_stated_share_is_taken_whatever_the_loss() -> None:
    assert averaged(1.0, 0.5) == (0.5, 0.5)
    assert averaged(0.25, 1.0) == (1.0, 1.0)


def test_after_the_deadline_nothing_is_tried() -> None:
    class Late(Problem):
        deadline = Deadline(-1.0, VirtualClock())

    assert averaged(0.5, task=Late) == (1.0, 1.0)


def test_counters_are_not_averaged() -> None:
    network = nn.BatchNorm1d(2)
    pretrained = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.num_batches_tracked += 7
    with torch.no_grad():
        network.weight.fill_(3.0)
    average_with_pretrained(network, pretrained, lambda: np.eye(2), np.eye(2), Problem, 0.5)
    assert int(network.num_batches_tracked) == 7
    assert network.weight.tolist() == [2.0, 2.0]
