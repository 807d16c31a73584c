"""Losses that dense heads and unfrozen blocks are trained with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from autotl.registration import Register

__all__ = ["BUILT_IN", "Loss"]


@dataclass(frozen=True)
class Loss:
    """A named loss.

    `compute(logits, labels, class_weight, label_smoothing)` takes float32 [n, num_classes], int64 [n], float32
    [num_classes] or None, and a number in [0, 1), and returns the loss of each sample, [n], already times the weight of
    its class. It must be differentiable by the logits. Mixup, the mean over the batch and micro-batches are the loop's.
    """

    name: str
    compute: "Callable[[Tensor, Tensor, Tensor | None, float], Tensor]"


def cross_entropy(
    logits: "Tensor", labels: "Tensor", class_weight: "Tensor | None", label_smoothing: float
) -> "Tensor":
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits, labels, class_weight, label_smoothing=label_smoothing, reduction="none")


BUILT_IN: Mapping[str, Loss] = {"cross_entropy": Loss("cross_entropy", cross_entropy)}
"""The losses that are registered, by name."""


def autotl_register_losses(register: "Register[Loss]") -> None:
    for loss in BUILT_IN.values():
        register(loss)
