"""Batches of concurrent requests."""

import asyncio
import threading

import pytest

from autotl.server.batching import Batcher
from autotl.server.refusals import Refused


def batcher(answer, **options):
    return Batcher(answer, **{"threads": 2, "size": 8, "wait": 0.02, "max_waiting": 100, **options})


def test_concurrent_images_share_batches_and_get_their_own_answers():
    sizes = []

    def answer(contents):
        sizes.append(len(contents))
        return [content.decode() for content in contents]

    async def ask():
        return await asyncio.gather(*(served([str(i).encode()]) for i in range(40)))

    served = batcher(answer)
    assert asyncio.run(ask()) == [[str(i)] for i in range(40)]
    served.close()
    assert sum(sizes) == 40
    assert 2 <= max(sizes) <= 8


def test_more_than_may_wait_is_refused_and_the_rest_answered():
    go = threading.Event()

    def answer(contents):
        go.wait(10)
        return contents

    async def ask():
        first = asyncio.ensure_future(served([b"a"]))
        await asyncio.sleep(0.1)
        waiting = asyncio.ensure_future(served([b"b", b"c"]))
        await asyncio.sleep(0.01)
        with pytest.raises(Refused) as refused:
            await served([b"d", b"e"])
        go.set()
        return refused.value.status, await first, await waiting

    served = batcher(answer, threads=1, max_waiting=3, wait=0.001)
    assert asyncio.run(ask()) == (503, [b"a"], [b"b", b"c"])
    served.close()


def test_a_client_that_left_costs_nothing():
    async def ask():
        asyncio.ensure_future(served([b"a"])).cancel()
        return await served([b"b"])

    served = batcher(lambda contents: contents)
    assert asyncio.run(ask()) == [b"b"]
    served.close()


def test_a_closed_batcher_refuses():
    served = batcher(lambda contents: contents)
    served.close()
    with pytest.raises(Refused):
        asyncio.run(served([b"a"]))
