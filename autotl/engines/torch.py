"""The PyTorch engines: plain PyTorch on any device, and `torch.compile`."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autotl.engines.base import Compiled, Engine
from autotl.errors import AutotlError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from autotl.registration import Register

__all__ = ["TorchCompileEngine", "TorchEngine"]


class TorchEngine(Engine):
    """Plain PyTorch, on any device: channels_last, inference mode, and bf16 or fp16 where the chip multiplies it
    natively.

    Args:
        bf16: allow bf16 and fp16; without, the engine computes in fp32 everywhere.
    """

    name = "torch"
    takes_tensors = True

    def __init__(self, *, bf16: bool = True):
        self.bf16 = bf16

    def usable(self, device: str) -> bool:
        return True

    def precision(self, device: str) -> str:
        from autotl.engines.probe import native_precision

        return native_precision(device) if self.bf16 else "fp32"

    def compile(
        self,
        module: "nn.Module",
        size: int,
        device: str,
        threads: int,
        precision: str,
        cache: Path | None = None,
        key: str = "",
    ) -> Compiled:
        import torch

        from autotl.engines.accelerator import autocast, own_stream, to_device, to_half, to_host
        from autotl.engines.micro_batch import MicroBatch
        from autotl.engines.passes import has_plans, padded_size, queued, run_padded

        device_type = torch.device(device).type
        micro = MicroBatch(f"{type(module).__name__} {key[:12]} in {precision}", device)
        module = module.eval()
        if device_type != "cpu":
            module = deepcopy(module)  # the caller's module stays on the CPU
        network = self._compile_module(module.to(device).to(memory_format=torch.channels_last))

        def pass_of(images: "Tensor") -> "Tensor":
            """Queued where the device can queue."""
            with torch.inference_mode(), autocast(device, precision):
                padded = padded_size(len(images), size) if has_plans(device) else len(images)
                parts = micro.forward(
                    len(images),
                    lambda samples: run_padded(network, images[samples], micro.size_for(padded) if padded > 1 else 1),
                    at_least=padded,
                )
                features = torch.cat(parts)
                return features.float() if device_type == "cpu" else to_half(features)

        def infer(images: "np.ndarray | Tensor") -> np.ndarray:
            batch = images if isinstance(images, torch.Tensor) else to_device(torch.from_numpy(images), device)
            return to_host(queued(lambda: pass_of(batch), device) if has_plans(device) else pass_of(batch)).numpy()

        if device_type == "cuda":  # each calling thread queues on its own stream

            def run_on_stream(images: "np.ndarray | Tensor") -> np.ndarray:
                with own_stream(device):
                    return infer(images)

            return run_on_stream
        # Serialise calls on one thread: PyTorch keeps one OpenMP pool per calling thread.
        caller = ThreadPoolExecutor(1, thread_name_prefix="torch")

        def run(images: "np.ndarray | Tensor") -> np.ndarray:
            return caller.submit(infer, images).result()

        return run

    def _compile_module(self, module: "nn.Module") -> "Callable[[Tensor], Tensor]":
        return module


class TorchCompileEngine(TorchEngine):
    """PyTorch with `torch.compile`. Only used when it is chosen by name.

    Compiling a network takes a minute, which pays on a GPU from about a hundred thousand images. On a CPU OpenVINO is
    faster.
    """

    name = "torch_compile"

    def usable(self, device: str) -> bool:
        if device == "cpu":
            return any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++")))
        return device.startswith("cuda") and find_spec("triton") is not None

    def _compile_module(self, module: "nn.Module") -> "Callable[[Tensor], Tensor]":
        import torch

        compiled = torch.compile(module, dynamic=True)  # compiled once for batches of any length

        def run(images: "Tensor") -> "Tensor":
            n = len(images)
            # PyTorch would compile a network again for one image, and for tensors that inference mode has not made
            if n == 1:
                images = images.repeat(2, 1, 1, 1)
            elif not images.is_inference():
                images = images.clone()
            try:
                return compiled(images)[:n]
            except torch._dynamo.exc.TorchDynamoException as error:
                cause = " ".join(str(error).split())[:300]
                raise AutotlError(
                    f"Engine {self.name} can't compile {type(module).__name__}: {cause} It needs a C++ compiler "
                    "on a CPU, and triton on a GPU. Type --engine torch, or omit --engine."
                ) from error

        return run


def autotl_register_engines(register: "Register[Engine]") -> None:
    register(TorchCompileEngine())
    register(TorchEngine())  # registered last and usable everywhere, so that torch_compile is never chosen by itself
