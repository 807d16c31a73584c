"""The torch modules of dense heads. Imported by what builds or loads one, never by the registry."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["BatchNorm", "Dropout", "linear", "mlp", "seeded"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of [N, num_features] for short trainings and any batch size.

    torch's own differs in two ways. It raises on a training batch of one row, which has no spread: here such a row is
    normalised by the running statistics, as in eval mode, and leaves them alone. And its running statistics start
    from mean 0 and variance 1, of which a third is still there after 10 batches: here the first batches are averaged
    evenly, until an even share would fall below `momentum`.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, input: Tensor) -> Tensor:
        update = self.training and len(input) > 1
        share = 0.0
        if update:
            self.num_batches_tracked.add_(1)
            share = max(self.momentum or 0.0, 1.0 / int(self.num_batches_tracked))
        return nn.functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, update, share, self.eps
        )


class Dropout(nn.Dropout):
    """torch's own draws a number for each value on a CPU. Here it is a byte, eight of which are drawn at once: forward
    and backward take a quarter of the time. (`p` is rounded to 1/256 by it, and the rest scaled by what was kept.)"""

    def forward(self, input: Tensor) -> Tensor:
        n, dropped = input.numel(), round(self.p * 256)
        if not self.training or input.device.type != "cpu" or dropped == 256:
            return super().forward(input)
        words = torch.empty(-(-n // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.uint8)[:n].view(input.shape) >= dropped
        return input * (kept * (256 / (256 - dropped)))


def linear(num_features: int, num_classes: int, dropout: float) -> nn.Module:
    return nn.Sequential(_input_norm(num_features), Dropout(dropout), nn.Linear(num_features, num_classes))


def mlp(
    num_features: int, num_classes: int, depth: int, width: int, dropout: float, normalization: str, activation: str
) -> nn.Module:
    """`depth` hidden layers of `width` units. `normalization` is "batch", "layer" or "none"."""
    layers: list[nn.Module] = [_input_norm(num_features)]
    for n_in, n_out in pairwise([num_features] + [width] * depth):
        layers.append(nn.Linear(n_in, n_out))
        if normalization != "none":
            layers.append(BatchNorm(n_out) if normalization == "batch" else nn.LayerNorm(n_out))
        layers += [ACTIVATIONS[activation](), Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(width, num_classes))


def _input_norm(num_features: int) -> nn.Module:
    """Features of different levels differ in scale by orders of magnitude: whiten them one by one, learn nothing."""
    return BatchNorm(num_features, affine=False)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw torch's CPU randomness from `seed`, and leave every generator as it was.

    (`torch.manual_seed` would seed the accelerators' generators too, which `fork_rng` can't undo cheaply.)
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
