"""Which precision trains a network faster on a device: fp32, or bf16 where the chip multiplies it. Measured, once.

bf16 isn't always the faster one: on a CPU with AMX the last block of an EfficientNet-Lite trains twice as fast in it,
the last two blocks at two thirds of the speed, because a depthwise convolution's backward pass is slow there.
"""

import time
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotl.engines.torch import TorchEngine

__all__ = ["faster"]

_measured: dict[str, str] = {}
"""By network and device: one step of each precision is enough for all trials of a worker."""


def faster(network: nn.Module, x: Tensor, y: Tensor, device: str, name: str) -> str:
    """`"fp32"` or `"bf16"`: what a training step of `network` on `x` and `y` takes less time in.

    The network, its gradients and the random numbers of others are left as they are. On an accelerator nothing is
    measured: what multiplies bf16 there is faster in it.

    Args:
        name: what is measured once: the network, and which part of it learns.
    """
    if TorchEngine().precision(device) == "fp32":
        return "fp32"
    if torch.device(device).type != "cpu":
        return "bf16"
    if name not in _measured:
        trial = deepcopy(network)
        with torch.random.fork_rng(devices=[]):
            seconds = {precision: _step(trial, x, y, precision) for precision in ("fp32", "bf16")}
        _measured[name] = min(seconds, key=seconds.__getitem__)
    return _measured[name]


def _step(network: nn.Module, x: Tensor, y: Tensor, precision: str) -> float:
    """Seconds of the quicker of two steps, after one that makes things ready."""
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            predicted = network(x)
        F.cross_entropy(predicted.float(), y).backward()
        network.zero_grad(set_to_none=True)
        taken.append(time.perf_counter() - began)
    return min(taken[1:])
