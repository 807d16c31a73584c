"""Accelerators: streams, so that copies run beside computation, pinned copies, and the dtype of a precision."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = [
    "ACCELERATOR_BATCH",
    "PIPELINE_THREADS",
    "autocast",
    "deterministic",
    "is_accelerator",
    "own_stream",
    "prefetch",
    "synchronize",
    "to_device",
    "to_half",
    "to_host",
    "use_here",
    "wait_for_stream",
]

PIPELINE_THREADS = 4
"""Batches in progress on an accelerator: two are decoded, one computed, and the results of one are copied back."""
ACCELERATOR_BATCH = 256
"""Number of images that an accelerator decodes and infers at a time."""
END: Any = object()
T = TypeVar("T")
_local = threading.local()


def autocast(device: str, precision: str | None) -> "torch.autocast":
    """The context in which a network computes in a precision: "fp32" (or None), "bf16" or "fp16"."""
    import torch

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision or "fp32")
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype is not None)


def is_accelerator(device: str) -> bool:
    """Whether a torch device is something else than the CPU."""
    return not device.startswith("cpu")


@contextmanager
def own_stream(device: str) -> Iterator[None]:
    """Queue what this thread computes on a stream of its own. Does nothing on devices other than NVIDIA's and AMD's."""
    if not device.startswith("cuda"):
        yield
        return
    import torch

    streams = _local.__dict__.setdefault("streams", {})
    if device not in streams:
        streams[device] = torch.cuda.Stream(device)
    with torch.cuda.stream(streams[device]):
        yield


@contextmanager
def deterministic() -> Iterator[None]:
    """Let accelerators compute the same results each time, where PyTorch has such kernels, at the cost of speed."""
    import torch

    # cuBLAS reads the variable when it first computes
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark


def synchronize(device: str) -> None:
    """Wait until an accelerator has computed everything that was queued, for a measurement of time."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device.startswith("mps"):
        torch.mps.synchronize()
    elif device.startswith("xpu"):
        torch.xpu.synchronize(device)


def wait_for_stream(device: str) -> None:
    """Wait until this thread's stream has computed what it queued, so that other streams may read the result."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.current_stream(device).synchronize()


def use_here(tensor: "Tensor") -> "Tensor":
    """Note that this thread's stream reads a tensor that another stream allocated: its memory is reused afterwards."""
    if tensor.is_cuda:
        import torch

        tensor.record_stream(torch.cuda.current_stream(tensor.device))
    return tensor


def to_device(tensor: "Tensor", device: str) -> "Tensor":
    """Copy a tensor to a device; to a GPU through pinned memory, without waiting for the copy."""
    if device.startswith("cuda") and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_half(tensor: "Tensor") -> "Tensor":
    """float16, in which features are recorded; values beyond its range are clipped. A CPU takes longer for it than a
    GPU for the network."""
    import torch

    largest = torch.finfo(torch.float16).max
    return tensor.clamp(-largest, largest).to(torch.float16)


def to_host(tensor: "Tensor") -> "Tensor":
    """Copy a tensor to the CPU. Waits for this thread's stream alone, and not for the whole device."""
    if not tensor.is_cuda:
        return tensor.cpu()
    import torch

    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    wait_for_stream(str(tensor.device))
    return host


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """The same items, each computed on another thread while the one before it is in use."""
    with ThreadPoolExecutor(1, "prefetch") as thread:
        coming = thread.submit(next, items, END)
        while (item := coming.result()) is not END:
            coming = thread.submit(next, items, END)
            yield item
