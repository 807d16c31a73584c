"""WiSE-FT: the average of fine-tuned and pretrained weights (Wortsman et al., CVPR 2022)."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from autotl.strategies.base import Task

__all__ = ["average_with_pretrained"]

SHARES = (0.25, 0.5, 0.75)
"""Shares of the fine-tuned weights that are tried, beside 1."""


def average_with_pretrained(
    network: nn.Module,
    pretrained: Mapping[str, Tensor],
    predict: Callable[[], np.ndarray],
    probabilities: np.ndarray,
    task: Task,
    share: float | None = None,
) -> tuple[float, np.ndarray]:
    """Average a network's weights, in place, with those before training, in the proportion with the least log loss on
    the validation images.

    The log loss decides, because it changes smoothly with the proportion: the best accuracy of several proportions
    would flatter.

    Args:
        pretrained: the network's state before training.
        predict: computes the network's probabilities of the validation images, [n, num_classes].
        probabilities: those of the network as it is.
        share: of the fine-tuned weights; chosen by default.

    Returns:
        The share, and the probabilities of the validation images.
    """
    if share == 1.0:
        return share, probabilities
    tuned = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    changed = [n for n, t in tuned.items() if t.is_floating_point() and not torch.equal(t, pretrained[n])]

    def mix(share: float) -> None:
        mixed = {name: torch.lerp(pretrained[name], tuned[name], share) for name in changed}
        network.load_state_dict({**tuned, **mixed})

    if share is not None:
        mix(share)
        return share, predict()
    predicted = {1.0: probabilities}
    for candidate in SHARES:
        if task.deadline.passed():
            break
        mix(candidate)
        predicted[candidate] = predict()
    best = min(predicted, key=lambda s: _log_loss(predicted[s], task.validation_labels))
    mix(best)
    return best, predicted[best]


def _log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(probabilities[np.arange(len(labels)), labels].clip(1e-12)).mean())
