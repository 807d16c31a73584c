"""Which precision trains a network faster on a device: fp32, or bf16 where the chip multiplies it. Measured once.

bf16 isn't always faster: on a CPU with AMX the last block of an EfficientNet-Lite trains twice as fast in bf16, the
last two blocks at two thirds of the speed of fp32, because a depthwise convolution's backward pass is slow in bf16.
"""

import hashlib
import time
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotl.atomic_io import write_atomically
from autotl.engines.torch import TorchEngine

__all__ = ["faster_precision", "likely_precision"]

PRECISIONS = ("fp32", "bf16")
_verdicts: dict[str, str] = {}
"""The verdicts this process knows: one measurement serves all trials of a worker."""


def likely_precision(network: nn.Module, device: str) -> str:
    """The precision for a search that must be repeatable, and so can't depend on a measurement: fp32 on a CPU where a
    depthwise convolution is trained."""
    native = TorchEngine().precision(device)
    is_depthwise = any(
        isinstance(module, nn.Conv2d) and module.groups > 1 and module.weight.requires_grad
        for module in network.modules()
    )
    return "fp32" if device == "cpu" and is_depthwise else native


def faster_precision(
    network: nn.Module, x: Tensor, y: Tensor, device: str, key: str, verdicts: Path | None = None
) -> str:
    """`"fp32"`, `"bf16"` or `"fp16"`: the precision in which a training step of `network` on `x` and `y` takes less
    time.

    Leaves the network, its gradients and the global random generators unchanged. Nothing is measured on an
    accelerator: one that multiplies bf16 or fp16 is faster in it.

    Args:
        key: identifies the network, its weights, and the part of it that is trained.
        verdicts: folder where the verdict is kept for other processes. The choice becomes part of the recipe, so a
            second measurement could give a repeated search other recipes.
    """
    native = TorchEngine().precision(device)
    device_type = torch.device(device).type
    if native == "fp32" or device_type != "cpu":
        return native
    key = f"{key} on {device_type}, torch {torch.__version__}"
    if key not in _verdicts:
        file = verdicts / f"precision-{hashlib.sha256(key.encode()).hexdigest()[:32]}.txt" if verdicts else None
        _verdicts[key] = _read(file) or _measure(network, x, y, file)
    return _verdicts[key]


def _read(file: Path | None) -> str | None:
    """The verdict in a file; None where the file is missing or damaged."""
    if file:
        with suppress(OSError, ValueError):
            verdict = file.read_text(encoding="utf-8")
            return verdict if verdict in PRECISIONS else None
    return None


def _measure(network: nn.Module, x: Tensor, y: Tensor, file: Path | None) -> str:
    copy = deepcopy(network)
    with torch.random.fork_rng(devices=[]):
        seconds = {precision: _step_seconds(copy, x, y, precision) for precision in PRECISIONS}
    verdict = min(PRECISIONS, key=seconds.__getitem__)
    if file:
        if earlier := _read(file):  # another worker measured at the same time
            return earlier
        with suppress(OSError):  # without the file the next process measures again
            write_atomically(file, verdict.encode())
    return verdict


def _step_seconds(network: nn.Module, x: Tensor, y: Tensor, precision: str) -> float:
    """The shorter of two training steps, after one step of warm-up."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            predicted = network(x)
        F.cross_entropy(predicted.float(), y).backward()
        network.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
