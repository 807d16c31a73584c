"""Passes of frozen networks on NVIDIA's and AMD's GPUs: all are queued by one thread, in batches of few sizes.

cuDNN plans each convolution anew for each thread and each size of a batch, which takes 2 to 5 s for a whole
EfficientNet-Lite0 on an H200: as long as a pass over 100,000 images.
"""

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING, TypeVar

from autotl.engines.accelerator import ACCELERATOR_BATCH

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["has_plans", "padded_size", "queued", "run_padded"]

PADDED_SIZE = 224
"""Pixels of the images of which ACCELERATOR_BATCH are a batch; of larger ones it has fewer."""
MIN_BATCH = 16
T = TypeVar("T")
_lock = threading.Lock()
_threads: list[ThreadPoolExecutor] = []
"""The one thread, once it is needed."""
_local = threading.local()


def has_plans(device: str) -> bool:
    """Whether a device's library plans convolutions for each thread and size of a batch."""
    return device.startswith("cuda")


def padded_size(num_images: int, size: int) -> int:
    """The number of images to which a batch of images of `size` pixels is padded: a single image stays one."""
    if num_images == 1:
        return 1
    batch, pixels = ACCELERATOR_BATCH, PADDED_SIZE
    while pixels < size and batch > MIN_BATCH:
        batch, pixels = batch // 2, round(pixels * 2**0.5)
    return math.ceil(num_images / batch) * batch


def run_padded(network: "Callable[[Tensor], Tensor]", images: "Tensor", size: int) -> "Tensor":
    """`network` of images [N, ...], which are padded with black ones to `size`."""
    missing = size - len(images)
    if missing <= 0:
        return network(images)
    import torch

    return network(torch.cat([images, images.new_zeros((missing, *images.shape[1:]))]))[: len(images)]


def queued(run: Callable[[], T], device: str) -> T:
    """The result of `run`, which queues computation, called on the one thread and the stream of the calling thread."""
    if getattr(_local, "is_the_thread", False):
        return run()
    import torch

    stream = torch.cuda.current_stream(device) if device.startswith("cuda") else None

    def on_the_thread() -> T:
        with torch.cuda.stream(stream) if stream is not None else nullcontext():
            return run()

    with _lock:
        if not _threads:
            _threads.append(ThreadPoolExecutor(1, "passes", lambda: setattr(_local, "is_the_thread", True)))
    return _threads[0].submit(on_the_thread).result()
