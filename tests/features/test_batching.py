"""Batches come in order, bounded in number, and end their threads."""

import threading
import time

import pytest

from autotl.errors import DataError
from autotl.features.batching import batches


def test_batches_come_in_order_with_their_results() -> None:
    def doubled(items: list[int]) -> list[int]:
        time.sleep(0.002 * (items[0] % 3))  # later batches may be done first
        return [2 * item for item in items]

    got = list(batches(range(23), doubled, threads=4, batch=5))
    assert [items for items, _ in got] == [[*range(i, min(i + 5, 23))] for i in range(0, 23, 5)]
    assert all(made == [2 * item for item in items] for items, made in got)


def test_each_thread_works_on_its_own_batch() -> None:
    meet = threading.Barrier(3)
    assert len(list(batches(range(12), lambda items: meet.wait(10), threads=3, batch=2))) == 6


def test_at_most_two_batches_per_thread_are_taken_ahead() -> None:
    taken = []

    def items():
        for i in range(1000):
            taken.append(i)
            yield i

    reading = batches(items(), len, threads=2, batch=4)
    for done in range(1, 4):
        next(reading)
        time.sleep(0.02)
        assert len(taken) <= 4 * (done + 4)
    reading.close()


def test_an_exception_in_work_is_raised_at_its_batch() -> None:
    def work(items: list[int]) -> list[int]:
        if 9 in items:
            raise DataError("the ninth is broken")
        return items

    reading = batches(range(100), work, threads=2, batch=4)
    assert [next(reading)[0], next(reading)[0]] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(DataError, match="ninth"):
        next(reading)


def test_closing_early_ends_the_threads() -> None:
    reading = batches(range(1000), len, threads=3, batch=4)
    next(reading)
    reading.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("batch")]


def test_no_items_give_no_batch() -> None:
    assert list(batches([], len, threads=2)) == []
