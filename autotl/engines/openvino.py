"""The OpenVINO engine: on a CPU several times as fast as PyTorch, in bf16 where the chip multiplies it."""

import functools
import hashlib
import importlib
import os
import secrets
import shutil
import sys
import warnings
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from autotl.engines.base import Compiled, Engine

if TYPE_CHECKING:
    from torch import nn

    from autotl.registration import Register

__all__ = ["OpenVinoEngine"]

AT_ONCE = 4
"""Images that go through a stream together. Of 32, lite0 takes 336 MB instead of 137, and a sixth more time."""
MOST_STREAMS = 4
"""Each has memory of its own for what flows between layers; more threads share a stream."""


class OpenVinoEngine(Engine):
    """Runs on the CPU, in this worker's share of it: a stream for each thread that calls, so that none waits for
    another between two layers."""

    name = "openvino"

    def usable(self, device: str) -> bool:
        return device == "cpu" and find_spec("openvino") is not None

    def precision(self, device: str) -> str:
        return "bf16" if "BF16" in _capabilities() else "fp32"

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
        openvino = _openvino()
        core = openvino.Core()
        if cache and key:
            model = _kept(core, module, size, cache, f"{key}/{size}/{openvino.__version__}")
        else:
            model = _convert(module, size)
        if precision == "bf16":
            model = _ending_in_a_product(model)
        streams = min(threads, MOST_STREAMS)
        settings = {
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "ENABLE_CPU_PINNING": False,  # workers side by side would all be pinned to the same first cores
        }
        compiled = core.compile_model(model, "CPU", settings)
        idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(streams):
            idle.put(compiled.create_infer_request())

        def infer(request: Any, images: np.ndarray) -> np.ndarray:
            request.infer({0: np.ascontiguousarray(images)}, share_inputs=True)
            return request.get_output_tensor(0).data.astype(np.float32)  # a copy: the next images reuse the tensor

        def run(images: np.ndarray) -> np.ndarray:
            request = idle.get()
            try:
                return np.concatenate([infer(request, images[i : i + AT_ONCE]) for i in range(0, len(images), AT_ONCE)])
            finally:
                idle.put(request)

        return run


@functools.cache
def _capabilities() -> frozenset[str]:
    """Of this chip. To ask takes as long as to read thousands of rows, and every reader asks."""
    return frozenset(_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _openvino() -> Any:
    """The package without its telemetry, which would report each import and conversion over the network, unasked."""
    if "openvino" not in sys.modules:
        # as if it weren't installed: openvino then takes its own stand-in
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # how Python spells "not here"
    return importlib.import_module("openvino")


def _convert(module: "nn.Module", size: int) -> Any:
    """The module as an OpenVINO model for batches of any length."""
    import torch

    example = torch.zeros(1, size, size, 3, dtype=torch.uint8)  # a batch of one converts five times faster than of 32
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of each Python branch; `check_engine` looks at what came out
        return _openvino().convert_model(module.eval().to("cpu"), example_input=example, input=[-1, size, size, 3])


def _ending_in_a_product(model: Any) -> Any:
    """The model with one more convolution, each feature by one, after its rows [N, F].

    Of a network in bf16 OpenVINO computes in fp32 whatever isn't followed by a convolution or a product. Taps aren't:
    each map that is pooled would be written, moved and read at twice the size, 6 to 23 % of a pass.
    """
    ops = importlib.import_module("openvino.opset13")
    rows = model.output(0).get_node().input_value(0)
    shape = rows.get_partial_shape()
    if len(shape) != 2 or shape[1].is_dynamic:
        return model
    ones = np.ones((shape[1].get_length(), 1, 1, 1, 1), np.float32)
    by_one = ops.group_convolution(ops.unsqueeze(rows, [2, 3]), ones, [1, 1], [0, 0], [0, 0], [1, 1])
    return _openvino().Model([ops.squeeze(by_one, [2, 3])], model.get_parameters())


def _kept(core: Any, module: "nn.Module", size: int, cache: Path, key: str) -> Any:
    """The converted model from `cache`, converted and put there first by whoever comes first; others wait for it."""
    openvino = _openvino()
    folder = cache / f"openvino-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
    with ExitStack() as held:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(f"{folder}.lock", thread_local=False))
        except OSError:  # read-only, gone or full: to keep it would save time, no more
            return _convert(module, size)
        if folder.exists():
            try:
                return core.read_model(folder / "model.xml")
            except RuntimeError:  # damaged: convert it again
                shutil.rmtree(folder)
        model = _convert(module, size)
        draft = cache / f".{os.getpid()}-{secrets.token_hex(4)}"
        try:
            openvino.save_model(model, draft / "model.xml", compress_to_fp16=False)
            for file in draft.iterdir():
                with file.open("rb") as written:
                    os.fsync(written.fileno())  # or a power cut leaves the new name on an empty file
            draft.rename(folder)
        except (OSError, RuntimeError):
            pass  # the same
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return model


def autotl_register_engines(register: "Register[Engine]") -> None:
    register(OpenVinoEngine())
