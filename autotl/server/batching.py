"""Answers images of concurrent requests in batches, on a few threads that live as long as the server."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from autotl.features.batching import one_thread_per_task
from autotl.model.answering import Answerer
from autotl.server.refusals import Refused

__all__ = ["Batcher"]


@dataclass
class _Waiting:
    content: bytes
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"

    def resolve(self, result: Any, failure: Exception | None) -> None:
        with suppress(RuntimeError):  # the server has ended
            self.loop.call_soon_threadsafe(self._set, result, failure)

    def _set(self, result: Any, failure: Exception | None) -> None:
        if self.future.done():  # the client is gone
            return
        if failure:
            self.future.set_exception(failure)
        else:
            self.future.set_result(result)


class Batcher:
    """Each thread decodes and infers its own batch, as in `autotl.features.batching`. A thread waits a few milliseconds
    for more images, and leaves their share to those that wait beside it.

    Args:
        answer: what computes a batch.
        threads: number of threads.
        size: images in a batch, at most.
        wait: seconds that the first image of a batch waits for others.
        max_waiting: images that may wait in all.
        on_batch: called with the number of images of a batch, on its thread.
    """

    def __init__(
        self,
        answer: Answerer,
        threads: int,
        size: int,
        wait: float,
        max_waiting: int,
        on_batch: Callable[[int], None] = lambda number: None,
    ):
        self.answer, self.size, self.wait, self.max_waiting, self.on_batch = answer, size, wait, max_waiting, on_batch
        self.changed = threading.Condition()
        self.queue: deque[_Waiting] = deque()
        self.idle, self.closed = 0, False
        self.threads = [threading.Thread(target=self._work, name=f"answer-{i}", daemon=True) for i in range(threads)]
        for thread in self.threads:
            thread.start()

    async def __call__(self, contents: Sequence[bytes]) -> list[Any]:
        """For each image what the answerer returns.

        Raises:
            Refused: with status 503, if too many images wait.
        """
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(content, loop, loop.create_future()) for content in contents]
        with self.changed:
            if self.closed or len(self.queue) + len(waiting) > self.max_waiting:
                raise Refused(503, "The server is busy. Try again in a second.")
            self.queue.extend(waiting)
            self.changed.notify_all()
        return list(await asyncio.gather(*(item.future for item in waiting)))

    @property
    def num_waiting(self) -> int:
        return len(self.queue)

    def close(self) -> None:
        """End the threads. What they are computing is finished; what waits is not answered."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        for thread in self.threads:
            thread.join(timeout=10)

    def _take(self) -> list[_Waiting]:
        """The next batch; empty when the server is closed."""
        with self.changed:
            self.idle += 1
            while not self.queue and not self.closed:
                self.changed.wait()
            until = time.monotonic() + self.wait
            while len(self.queue) < self.size and not self.closed and (left := until - time.monotonic()) > 0:
                self.changed.wait(left)
            share = -(-len(self.queue) // self.idle)
            self.idle -= 1
            return [] if self.closed else [self.queue.popleft() for _ in range(min(share, self.size))]

    def _work(self) -> None:
        one_thread_per_task()
        while not self.closed:
            batch = self._take()
            if not batch:  # another thread was faster
                continue
            self.on_batch(len(batch))
            failure: Exception | None = None
            results: Sequence[Any] = [None] * len(batch)
            try:
                results = self.answer([item.content for item in batch])
            except Exception as error:  # each request of the batch answers 500, and the server goes on
                failure = error
            for item, result in zip(batch, results, strict=True):
                item.resolve(result, failure)
