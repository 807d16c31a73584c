"""The torch modules of dense heads. Only imported to build or load a head, never for registering one."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["BatchNorm", "Dropout", "linear", "mlp", "seeded"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of [N, num_features] for short trainings and any batch size.

    Differs from torch's BatchNorm1d in two ways:

    - A training batch of one sample has no variance, and torch raises. Here it is normalised by the running statistics,
      as in eval mode, and doesn't update them.
    - torch's running statistics start from mean 0 and variance 1, which still have a weight of a third after 10
      batches. Here they are the plain average of the first batches, until a batch's weight would fall below `momentum`.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, input: Tensor) -> Tensor:
        use_batch_statistics = self.training and len(input) > 1
        momentum = 0.0
        if use_batch_statistics:
            self.num_batches_tracked.add_(1)
            momentum = max(self.momentum or 0.0, 1.0 / int(self.num_batches_tracked))
        return nn.functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, use_batch_statistics, momentum, self.eps
        )


class Dropout(nn.Dropout):
    """Dropout that is fast on a CPU: forward and backward take a quarter of the time of torch's.

    torch draws one random number per value; here eight values share one random integer, a byte each. `p` is therefore
    rounded to a multiple of 1/256, and the kept values are scaled by the rounded probability.
    """

    def forward(self, input: Tensor) -> Tensor:
        n, dropped = input.numel(), round(self.p * 256)
        if not self.training or input.device.type != "cpu" or dropped == 256:
            return super().forward(input)
        integers = torch.empty(-(-n // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = integers.view(torch.uint8)[:n].view(input.shape) >= dropped
        return input * (kept * (256 / (256 - dropped)))


def linear(num_features: int, num_classes: int, dropout: float) -> nn.Module:
    """The module of the head `linear`."""
    return nn.Sequential(_input_norm(num_features), Dropout(dropout), nn.Linear(num_features, num_classes))


def mlp(
    num_features: int, num_classes: int, depth: int, width: int, dropout: float, normalization: str, activation: str
) -> nn.Module:
    """The module of the head `mlp`: `depth` hidden layers of `width` units.

    Args:
        normalization: "batch", "layer" or "none".
        activation: one of `ACTIVATIONS`.
    """
    layers: list[nn.Module] = [_input_norm(num_features)]
    for n_in, n_out in pairwise([num_features] + [width] * depth):
        layers.append(nn.Linear(n_in, n_out))
        if normalization != "none":
            layers.append(BatchNorm(n_out) if normalization == "batch" else nn.LayerNorm(n_out))
        layers += [ACTIVATIONS[activation](), Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(width, num_classes))


def _input_norm(num_features: int) -> nn.Module:
    """Normalise each feature, without learned weights: features of different levels differ in scale by orders of
    magnitude."""
    return BatchNorm(num_features, affine=False)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator, and restore its state afterwards.

    Not `torch.manual_seed`, which also seeds the accelerators' generators: `fork_rng` can't restore those cheaply.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
