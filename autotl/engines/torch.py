"""The PyTorch engines: plain PyTorch on any device, and `torch.compile`."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotl.engines.base import Compiled, Engine
from autotl.errors import AutotlError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from autotl.registration import Register

__all__ = ["TorchCompileEngine", "TorchEngine"]


class TorchEngine(Engine):
    """PyTorch itself, on any device: channels_last, inference mode, bf16 where the chip multiplies it natively."""

    name = "torch"

    def __init__(self, bf16: bool = True):
        self.bf16 = bf16

    def usable(self, device: str) -> bool:
        return True

    def precision(self, device: str) -> str:
        import torch

        if not self.bf16:
            return "fp32"
        if device.startswith("cuda"):
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        return "bf16" if device == "cpu" and _cpu_multiplies_bf16() else "fp32"

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

        from autotl.engines.micro_batch import MicroBatch

        kind = torch.device(device).type
        micro = MicroBatch(f"{type(module).__name__} {key[:12]} in {precision}", device)
        module = module.eval() if kind == "cpu" else deepcopy(module.eval())  # the caller's stays on the CPU
        network = self._made_fast(module.to(device).to(memory_format=torch.channels_last))

        def part(images: np.ndarray) -> np.ndarray:
            return network(torch.from_numpy(images).to(device)).float().cpu().numpy()

        # one call at a time has the whole device, and always the same thread, whose helpers PyTorch keeps
        caller = ThreadPoolExecutor(1, thread_name_prefix="torch")

        def whole(images: np.ndarray) -> np.ndarray:
            with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16"):
                return np.concatenate(micro.forward(len(images), lambda rows: part(images[rows])))

        def run(images: np.ndarray) -> np.ndarray:
            return caller.submit(whole, images).result()

        return run

    def _made_fast(self, module: "nn.Module") -> "Callable[[Tensor], Tensor]":
        return module


class TorchCompileEngine(TorchEngine):
    """The same through `torch.compile`. It is only used where it is asked for by name: it takes a minute to compile a
    network, which pays on a GPU with a hundred thousand images; on a CPU OpenVINO is faster."""

    name = "torch_compile"

    def usable(self, device: str) -> bool:
        if device == "cpu":
            return any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++")))
        return device.startswith("cuda") and find_spec("triton") is not None

    def _made_fast(self, module: "nn.Module") -> "Callable[[Tensor], Tensor]":
        import torch

        compiled = torch.compile(module, dynamic=True)  # once for batches of any length

        def run(images: "Tensor") -> "Tensor":
            try:
                return compiled(images)
            except torch._dynamo.exc.TorchDynamoException as error:
                cause = " ".join(str(error).split())[:300]
                raise AutotlError(
                    f"Engine {self.name} can't compile {type(module).__name__} here: {cause} It needs a C++ compiler "
                    "on a CPU, and triton on a GPU. Type --engine torch, or leave --engine out."
                ) from error

        return run


def _cpu_multiplies_bf16() -> bool:
    """Emulated bf16 is several times slower than fp32, so ask the chip. (Linux and PyTorch's own probe.)"""
    import torch

    probe: Any = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe and probe())


def autotl_register_engines(register: "Register[Engine]") -> None:
    register(TorchCompileEngine())
    register(TorchEngine())  # usable wherever the former is, and registered later: the former is never chosen by itself
