"""Batches of items that are worked on in parallel and come out in order."""

import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

__all__ = ["BATCH", "batches", "one_thread_per_task"]

BATCH = 32
"""Number of images that a thread decodes and infers at a time, and that are recorded together."""
T = TypeVar("T")
R = TypeVar("R")


def batches(
    items: Iterable[T], work: Callable[[list[T]], R], threads: int, batch: int = BATCH
) -> Iterator[tuple[list[T], R]]:
    """Yield each batch of items, in order, with the result of `work`, which runs in `threads` threads.

    Each thread decodes and infers its own batch; separate decoding and inference threads would oversubscribe the cores
    two to one. At most two batches per thread are in progress beyond the one being waited for: memory stays bounded,
    and a slow thread doesn't block the others.

    An exception in `work` is raised where the result of its batch would have been yielded.
    """
    source = iter(items)
    with ThreadPoolExecutor(threads, thread_name_prefix="batch", initializer=one_thread_per_task) as pool:
        queue: deque[tuple[list[T], Future[R]]] = deque()
        try:
            while True:
                while len(queue) <= 2 * threads and (chunk := list(itertools.islice(source, batch))):
                    queue.append((chunk, pool.submit(work, chunk)))
                if not queue:
                    return
                chunk, future = queue.popleft()
                yield chunk, future.result()
        finally:
            for _, future in queue:
                future.cancel()


def one_thread_per_task() -> None:
    """Let PyTorch's operations that this thread calls, such as resizing, run on this thread alone: the threads of a
    pool use all cores already."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.get_num_threads()  # sets this thread's number to the process's, the first time only
        threadpool_limits(1, user_api="openmp")  # of the calling thread
