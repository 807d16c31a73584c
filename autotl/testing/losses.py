"""The requirements of a loss."""

import re
from typing import TYPE_CHECKING

from autotl.strategies.losses import Loss
from autotl.testing.check import Checks, expect

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LOSS"]

LOSS = Checks("loss", Loss)


@LOSS.requires(Loss)
def is_described(loss: Loss) -> None:
    """A loss has a name of letters, digits, _ and -."""
    expect(isinstance(loss.name, str) and re.fullmatch(r"[\w-]+", loss.name), f"name is {loss.name!r}")


@LOSS.requires(Loss)
def is_a_finite_number_for_each_sample(loss: Loss) -> None:
    """`compute` returns a finite number for each sample, [n], also for confident predictions, with and without class
    weights and label smoothing."""
    import torch

    logits, labels = _batch()
    for weight in (None, torch.tensor([0.5, 1.0, 2.0])):
        for smoothing in (0.0, 0.2):
            for scale in (1.0, 100.0):
                values = loss.compute(logits * scale, labels, weight, smoothing)
                expect(values.shape == labels.shape, f"for {len(labels)} samples the shape is {list(values.shape)}")
                expect(torch.isfinite(values).all(), f"values that aren't finite, with logits up to {3 * scale:g}")


@LOSS.requires(Loss)
def does_not_depend_on_the_other_samples(loss: Loss) -> None:
    """The loss of a sample is the same in any batch: a batch is computed in micro-batches where memory is short."""
    import torch

    logits, labels = _batch()
    whole = loss.compute(logits, labels, None, 0.1)
    parts = torch.cat([loss.compute(logits[i : i + 2], labels[i : i + 2], None, 0.1) for i in range(0, len(labels), 2)])
    expect(torch.allclose(whole, parts, rtol=1e-4, atol=1e-6), "in batches of two the values differ")


@LOSS.requires(Loss)
def its_gradient_leads_to_the_right_class(loss: Loss) -> None:
    """Gradient descent on the logits raises the probability of the right class."""
    import torch

    logits, labels = _batch()
    logits = logits.clone().requires_grad_()
    before = logits.detach().softmax(1)[range(len(labels)), labels].mean()
    for _ in range(20):
        loss.compute(logits, labels, None, 0.0).mean().backward()
        expect(logits.grad is not None, "it has no gradient")
        with torch.no_grad():
            logits -= 5.0 * logits.grad  # type: ignore[operator]  # it is not None
            logits.grad = None
    after = logits.detach().softmax(1)[range(len(labels)), labels].mean()
    expect(after > before, f"the probability of the right class went from {before:.3f} to {after:.3f}")


def _batch() -> "tuple[Tensor, Tensor]":
    """Logits [8, 3], float32, and labels [8]."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randn((8, 3), generator=generator), torch.arange(8) % 3
