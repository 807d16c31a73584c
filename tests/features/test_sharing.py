"""Processes share the extraction of missing images, and take over from one that dies."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from autotl.clock import Deadline
from autotl.features.sharing import StoreTimeout, extract_missing
from autotl.testing.scripted import VirtualClock

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no test folder
from sample_tables import Computing, child, digests_of, open_table, rows_of


def test_ten_new_images_among_two_thousand_are_extracted_in_one_batch(tmp_path):
    table, compute = open_table(tmp_path), Computing()
    extract_missing(table, digests_of(2000), Computing())
    assert extract_missing(table, digests_of(2010), compute) == 10
    assert [sorted(call) for call in compute.calls] == [sorted(digests_of(10, 2000))]


@pytest.mark.slow
def test_two_processes_share_the_work_and_extract_nothing_twice(tmp_path):
    code = """
def compute(digests):
    while chunk := list(itertools.islice(digests, 8)):
        time.sleep(0.01)
        extracted.extend(chunk)
        yield chunk, rows_of(chunk)

extracted = []
print("ready", flush=True)
sys.stdin.readline()
print(extract_missing(table, digests_of(800), compute), *extracted)
"""
    processes = [child(tmp_path, code) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    (first, *first_digests), (second, *second_digests) = (p.communicate(timeout=60)[0].split() for p in processes)
    assert int(first) + int(second) == 800
    assert min(int(first), int(second)) > 0
    assert not set(first_digests) & set(second_digests)
    np.testing.assert_array_equal(open_table(tmp_path).read(digests_of(800)), rows_of(digests_of(800)))


def test_rows_that_another_process_recorded_before_the_claim_are_not_extracted_again(tmp_path, monkeypatch):
    table, other, digests, compute = open_table(tmp_path), open_table(tmp_path), digests_of(60), Computing()
    claim = table.claim

    def claim_late(bucket):
        other.append(digests[:40], rows_of(digests[:40]))
        return claim(bucket)

    monkeypatch.setattr(table, "claim", claim_late)
    assert extract_missing(table, digests, compute) == 20
    assert [sorted(call) for call in compute.calls] == [sorted(digests[40:])]


def test_a_failed_extraction_keeps_what_it_recorded_and_releases_its_claims(tmp_path):
    def fails(digests):
        first = list(itertools.islice(digests, 4))
        yield first, rows_of(first)
        raise OSError("the image server is gone")

    table, compute = open_table(tmp_path), Computing()
    with pytest.raises(OSError, match="image server"):
        extract_missing(table, digests_of(40), fails)
    assert extract_missing(open_table(tmp_path), digests_of(40), compute, Deadline(5)) == 36


def test_a_compute_function_that_omits_images_is_an_error(tmp_path):
    def omits_one(digests):
        _, *others = digests
        yield others, rows_of(others)

    with pytest.raises(RuntimeError, match="no rows were returned for 1 of the images taken"):
        extract_missing(open_table(tmp_path), digests_of(40), omits_one)


def test_other_processes_can_claim_the_buckets_not_taken_yet(tmp_path):
    left = []

    def compute(digests):
        while chunk := list(itertools.islice(digests, 8)):
            if not left:  # another process joins while the first batch is extracted
                with pytest.raises(StoreTimeout):
                    extract_missing(
                        open_table(tmp_path), digests_of(800), Computing(), Deadline(1, clock=VirtualClock())
                    )
                left.extend(open_table(tmp_path).missing(digests_of(800)))
            yield chunk, rows_of(chunk)

    assert extract_missing(open_table(tmp_path), digests_of(800), compute) == len(left)
    assert 8 <= len(left) < 100  # one bucket: that of the first batch
    assert open_table(tmp_path).missing(digests_of(800)) == []


def test_waiting_for_others_ends_at_the_deadline(tmp_path):
    holder, compute, clock = open_table(tmp_path), Computing(), VirtualClock()
    began = clock.now()
    with holder.claim(holder.bucket(digests_of(1)[0])), pytest.raises(StoreTimeout, match="1 of 1"):
        extract_missing(open_table(tmp_path), digests_of(1), compute, Deadline(5, clock=clock))
    assert clock.now() - began == pytest.approx(5)
    assert compute.calls == []


def test_the_deadline_is_checked_after_each_batch(tmp_path):
    clock = VirtualClock()

    def compute(digests):
        while chunk := list(itertools.islice(digests, 8)):
            clock.sleep(2)
            yield chunk, rows_of(chunk)

    table = open_table(tmp_path)
    with pytest.raises(StoreTimeout, match="84 of 100 images not extracted"):
        extract_missing(table, digests_of(100), compute, Deadline(3, clock=clock))
    assert len(table) == 16


def test_the_buckets_of_a_process_that_dies_are_taken_over(tmp_path):
    hold = "from contextlib import ExitStack\nstack = ExitStack()\n"
    hold += "for bucket in range(table.num_buckets): assert stack.enter_context(table.claim(bucket))\n"
    hold += "print('held', flush=True); time.sleep(60)"
    holder = child(tmp_path, hold)
    assert holder.stdout.readline() == "held\n"

    class KillingClock(VirtualClock):
        def sleep(self, seconds):
            super().sleep(seconds)
            holder.kill()
            holder.wait()

    clock = KillingClock()
    assert extract_missing(open_table(tmp_path), digests_of(50), Computing(), Deadline(20, clock=clock)) == 50
    assert holder.returncode is not None  # the extraction waited for the buckets
