"""The OpenVINO engine: several times as fast as PyTorch on a CPU, in bf16 where the chip multiplies it."""

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

from autotl.atomic_io import write_sealed
from autotl.engines.base import Compiled, Engine
from autotl.engines.conversions import CHECKSUMS, checksums, require_intact
from autotl.locks import FileLock

if TYPE_CHECKING:
    from torch import nn

    from autotl.registration import Register

__all__ = ["OpenVinoEngine", "load_openvino"]

IMAGES_PER_INFERENCE = 4
"""Images in one inference request. With 32, EfficientNet-Lite0 takes 336 MB instead of 137, and a sixth more time."""
MAX_STREAMS = 4
"""Each stream has its own memory for activations. Threads beyond this number share streams."""


class OpenVinoEngine(Engine):
    """Runs on this worker's share of the CPU, with one stream for each calling thread, so that no thread waits for
    another between two layers."""

    name = "openvino"

    def usable(self, device: str) -> bool:
        return device == "cpu" and find_spec("openvino") is not None

    def precision(self, device: str) -> str:
        return "bf16" if "BF16" in _capabilities() else "fp32"

    def version(self) -> str:
        return f"openvino {load_openvino().__version__}"

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
        openvino = load_openvino()
        core = openvino.Core()
        if cache and key:
            model = _cached(core, module, size, cache, _folder(size, cache, key))
        else:
            model = _convert(module, size)
        if precision == "bf16":
            model = _append_identity_convolution(model)
        streams = min(threads, MAX_STREAMS)
        settings = {
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "ENABLE_CPU_PINNING": False,  # parallel workers would all be pinned to the same first cores
        }
        compiled = core.compile_model(model, "CPU", settings)
        idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(streams):
            idle.put(compiled.create_infer_request())

        def infer(request: Any, images: np.ndarray) -> np.ndarray:
            request.infer({0: np.ascontiguousarray(images)}, share_inputs=True)
            return request.get_output_tensor(0).data.astype(np.float32)  # a copy: the next request reuses the tensor

        def run(images: np.ndarray) -> np.ndarray:
            request = idle.get()
            try:
                starts = range(0, len(images), IMAGES_PER_INFERENCE)
                return np.concatenate([infer(request, images[i : i + IMAGES_PER_INFERENCE]) for i in starts])
            finally:
                idle.put(request)

        return run

    def has_cached(self, size: int, cache: Path, key: str) -> bool:
        return _folder(size, cache, key).exists()


@functools.cache
def _capabilities() -> frozenset[str]:
    """What the CPU can do. Cached: the query takes as long as reading thousands of features, and each read needs it."""
    return frozenset(load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def load_openvino() -> Any:
    """Import openvino without its telemetry, which reports each import and conversion over the network."""
    if "openvino" not in sys.modules:
        # None makes the import fail, as if the package weren't installed: openvino then uses its own stub.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module("openvino")


def _convert(module: "nn.Module", size: int) -> Any:
    """The module as an OpenVINO model for batches of any length."""
    import torch

    example = torch.zeros(1, size, size, 3, dtype=torch.uint8)  # converts five times faster than a batch of 32
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of each Python branch; `engine_cosine` checks the result
        return load_openvino().convert_model(module.eval().to("cpu"), example_input=example, input=[-1, size, size, 3])


def _append_identity_convolution(model: Any) -> Any:
    """Append an identity grouped 1×1 convolution, so that OpenVINO keeps the poolings before it in bf16.

    In a bf16 network, OpenVINO computes an operation in fp32 if no convolution or matrix product follows it. The
    poolings of the feature levels are such operations: their maps would be written, moved and read at twice the size,
    which takes 6 to 23 % of a forward pass. A model whose output isn't [N, F] is returned unchanged.
    """
    ops = importlib.import_module("openvino.opset13")
    features = model.output(0).get_node().input_value(0)
    shape = features.get_partial_shape()
    if len(shape) != 2 or shape[1].is_dynamic:
        return model
    ones = np.ones((shape[1].get_length(), 1, 1, 1, 1), np.float32)
    identity = ops.group_convolution(ops.unsqueeze(features, [2, 3]), ones, [1, 1], [0, 0], [0, 0], [1, 1])
    return load_openvino().Model([ops.squeeze(identity, [2, 3])], model.get_parameters())


def _folder(size: int, cache: Path, key: str) -> Path:
    """Where `cache` has the module `key` as this version of OpenVINO has converted it."""
    name = f"{key}/{size}/{load_openvino().__version__}"
    return cache / f"openvino-{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def _cached(core: Any, module: "nn.Module", size: int, cache: Path, folder: Path) -> Any:
    """The converted model from `folder`, in `cache`. Under a file lock, the first process converts and stores it."""
    openvino = load_openvino()
    with ExitStack() as lock:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            lock.enter_context(FileLock(f"{folder}.lock", thread_local=False))
        except OSError:  # read-only, removed or full: work without the cache
            return _convert(module, size)
        if folder.exists():
            try:
                require_intact(folder)
                return core.read_model(folder / "model.xml")
            except (OSError, ValueError, RuntimeError):  # damaged: convert again
                shutil.rmtree(folder, ignore_errors=True)
        model = _convert(module, size)
        draft = cache / f".{os.getpid()}-{secrets.token_hex(4)}"
        try:
            openvino.save_model(model, draft / "model.xml", compress_to_fp16=False)
            write_sealed(draft / CHECKSUMS, checksums(draft))
            for file in draft.iterdir():
                with file.open("rb") as written:  # synced before the rename: else a power cut can leave empty files
                    os.fsync(written.fileno())
            draft.rename(folder)
        except (OSError, RuntimeError):
            pass  # disk full or folder removed: work without the cache
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return model


def autotl_register_engines(register: "Register[Engine]") -> None:
    register(OpenVinoEngine())
