"""The feature store: shared by processes, safe from whoever is killed, bounded."""

import hashlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from autotl.atomic_io import DiskFull
from autotl.features.sharing import StoreTimeout, extract_missing
from autotl.features.store import FeatureStore, FeatureTable, StoreFull, StoreUnavailable, to_stored_dtype
from autotl.features.table import RECORD

SHAPE = (2, 24)
SPEC = {"backbone": "lite0", "view": "none"}

CHILD = """
import hashlib, itertools, os, signal, sys, time
from pathlib import Path
import numpy as np
from autotl.features.store import FeatureStore, extract_missing

def names(n, start=0):
    return [hashlib.blake2b(str(i).encode(), digest_size=16).hexdigest() for i in range(start, start + n)]

def rows(digests):
    return np.array([np.random.default_rng(int(d, 16)).standard_normal((2, 24)) for d in digests], np.float16)

def compute(digests):
    while chunk := list(itertools.islice(digests, 8)):
        time.sleep(0.01)
        yield chunk, rows(chunk)

store = FeatureStore(Path(sys.argv[1]))
recorded = store.open({"backbone": "lite0", "view": "none"}, (2, 24), "float16")
"""


def names(n: int, start: int = 0) -> list[str]:
    return [hashlib.blake2b(str(i).encode(), digest_size=16).hexdigest() for i in range(start, start + n)]


def rows(digests: list[str]) -> np.ndarray:
    """What the row of each digest has to be."""
    drawn = [np.random.default_rng(int(d, 16)).standard_normal(SHAPE) for d in digests]
    return np.array(drawn, np.float16).reshape(-1, *SHAPE)


def opened(root: Path, **store) -> FeatureTable:
    return FeatureStore(root, **store).open(SPEC, SHAPE, "float16")


def child(root: Path, code: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", CHILD + code, str(root)], stdout=subprocess.PIPE, text=True)


class Computing:
    """Computes rows and counts: what it took, batch by batch."""

    def __init__(self, batch: int = 32):
        self.calls: list[list[str]] = []
        self.batch = batch

    def __call__(self, digests):
        while chunk := list(itertools.islice(digests, self.batch)):
            self.calls.append(chunk)
            yield chunk, rows(chunk)


def test_rows_come_back_in_the_asked_order(tmp_path):
    recorded, digests = opened(tmp_path), names(20)
    recorded.append(digests, rows(digests))
    asked = [digests[7], digests[2], digests[7], *digests[3:9]]
    np.testing.assert_array_equal(recorded.read(asked), rows(asked))


def test_a_run_of_rows_is_a_copy_that_may_be_changed(tmp_path):
    recorded, digests = opened(tmp_path), names(20)
    recorded.append(digests, rows(digests))
    recorded.read(digests)[:] = 0
    np.testing.assert_array_equal(recorded.read(digests), rows(digests))


@pytest.mark.parametrize("with_torch", [True, False])
def test_rows_are_cast_on_request(tmp_path, monkeypatch, with_torch):
    monkeypatch.setitem(sys.modules, "torch", pytest.importorskip("torch") if with_torch else None)
    recorded, digests = opened(tmp_path), names(600)
    recorded.append(digests, rows(digests))
    read = recorded.read(digests[::-1], "float32")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, rows(digests[::-1]).astype(np.float32))


def test_some_columns_of_rows(tmp_path):
    recorded, digests = opened(tmp_path), names(5)
    recorded.append(digests, rows(digests))
    np.testing.assert_array_equal(recorded.read(digests[::-1], "float32", slice(1, 2)), rows(digests[::-1])[:, 1:])


def test_missing_names_each_image_once(tmp_path):
    recorded, digests = opened(tmp_path), names(4)
    recorded.append(digests[:1], rows(digests[:1]))
    assert recorded.missing([digests[2], digests[0], digests[2], digests[3]]) == [digests[2], digests[3]]


def test_reading_what_is_not_recorded_names_it(tmp_path):
    with pytest.raises(KeyError, match=names(1)[0]):
        opened(tmp_path).read(names(1))


def test_a_row_is_written_once(tmp_path):
    recorded, digests = opened(tmp_path), names(3)
    assert recorded.append([*digests, digests[0]], rows([*digests, digests[0]])) == 3
    assert recorded.append(digests, np.zeros((3, *SHAPE))) == 0
    np.testing.assert_array_equal(recorded.read(digests), rows(digests))


def test_rows_of_another_shape_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must have shape"):
        opened(tmp_path).append(names(2), np.zeros((2, 5)))


def test_equal_specs_share_a_folder_and_others_do_not(tmp_path):
    store = FeatureStore(tmp_path)
    same = store.open(dict(reversed(SPEC.items())), SHAPE, "float16")
    other = store.open(SPEC | {"view": "flip-0"}, SHAPE, "float16")
    assert same.folder == opened(tmp_path).folder != other.folder


def test_float16_rows_saturate_instead_of_overflowing():
    made = to_stored_dtype(np.array([1e6, -1e6, 1.5], np.float32), "float16")
    np.testing.assert_array_equal(made, np.array([65504, -65504, 1.5], np.float16))


def test_a_reader_sees_what_another_process_appends(tmp_path):
    recorded = opened(tmp_path)
    assert len(recorded) == 0
    assert child(tmp_path, "recorded.append(names(5), rows(names(5)))").wait() == 0
    np.testing.assert_array_equal(recorded.read(names(5)), rows(names(5)))


def test_ten_new_images_among_two_thousand_cost_ten_rows_in_one_batch(tmp_path):
    recorded, compute = opened(tmp_path), Computing()
    extract_missing(recorded, names(2000), Computing())
    assert extract_missing(recorded, names(2010), compute) == 10
    assert [sorted(call) for call in compute.calls] == [sorted(names(10, 2000))]


def test_two_processes_share_the_work_and_compute_nothing_twice(tmp_path):
    code = "asked = []\n"
    code += "def counted(ds):\n    for names, rows in compute(ds): asked.extend(names); yield names, rows\n"
    code += "n = extract_missing(recorded, names(800), counted); print(n, *asked)"
    pair = [child(tmp_path, code) for _ in range(2)]
    told = [process.communicate(timeout=60)[0].split() for process in pair]
    assert sum(int(words[0]) for words in told) == 800
    assert not set(told[0][1:]) & set(told[1][1:])
    assert min(int(words[0]) for words in told) > 0
    np.testing.assert_array_equal(opened(tmp_path).read(names(800)), rows(names(800)))


def test_what_another_process_recorded_before_our_claim_is_not_computed_again(tmp_path, monkeypatch):
    recorded, other, digests, compute = opened(tmp_path), opened(tmp_path), names(60), Computing()
    claim = recorded.claim

    def late(bucket, block=False):
        other.append(digests[:40], rows(digests[:40]))
        return claim(bucket, block)

    monkeypatch.setattr(recorded, "claim", late)
    assert extract_missing(recorded, digests, compute) == 20
    assert [sorted(call) for call in compute.calls] == [sorted(digests[40:])]


def test_a_process_killed_while_it_appends_leaves_only_whole_rows(tmp_path):
    appends = "n = len(recorded)\nwhile True: recorded.append(names(3, n), rows(names(3, n))); n += 3"
    recorded = opened(tmp_path)
    for _ in range(3):
        before = len(recorded)
        process = child(tmp_path, appends)
        deadline = time.monotonic() + 30
        while len(recorded) < before + 30 and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(recorded) >= before + 30
    fresh = opened(tmp_path)
    np.testing.assert_array_equal(fresh.read(names(len(fresh))), rows(names(len(fresh))))


def test_rows_without_their_records_are_not_there_and_are_written_over(tmp_path):
    dies = "os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)\n"
    dies += "recorded.append(names(4, 4), rows(names(4, 4)) + 1)"
    recorded = opened(tmp_path)
    recorded.append(names(4), rows(names(4)))
    assert child(tmp_path, dies).wait() == -signal.SIGKILL
    assert (recorded.folder / "rows.bin").stat().st_size == 8 * recorded.row_bytes  # it did get that far
    assert recorded.missing(names(8)) == names(4, 4)
    recorded.append(names(4, 4), rows(names(4, 4)))
    np.testing.assert_array_equal(opened(tmp_path).read(names(8)), rows(names(8)))


def test_a_record_torn_at_any_byte_is_passed_over_and_cut(tmp_path):
    recorded, digests = opened(tmp_path), names(6)
    recorded.append(digests, rows(digests))
    index = recorded.folder / "index.bin"
    whole = index.read_bytes()
    for torn in range(1, RECORD.itemsize + 1):
        index.write_bytes(whole[:-torn])
        reader = opened(tmp_path)
        assert reader.missing(digests) == digests[-1:], torn
        reader.append(digests[-1:], rows(digests[-1:]))
        assert index.read_bytes() == whole, torn
        np.testing.assert_array_equal(opened(tmp_path).read(digests), rows(digests))


def test_records_that_a_crash_left_as_zeros_are_passed_over(tmp_path):
    recorded, digests = opened(tmp_path), names(6)
    recorded.append(digests, rows(digests))
    with (recorded.folder / "index.bin").open("r+b") as file:
        file.seek(4 * RECORD.itemsize)
        file.write(bytes(2 * RECORD.itemsize))
    assert opened(tmp_path).missing([*digests, "0" * 32]) == [*digests[4:], "0" * 32]


def test_rows_that_a_crash_cut_off_are_missing(tmp_path):
    recorded, digests = opened(tmp_path), names(6)
    recorded.append(digests, rows(digests))
    os.truncate(recorded.folder / "rows.bin", 4 * recorded.row_bytes)
    after = opened(tmp_path)
    assert after.missing(digests) == digests[4:]
    extract_missing(after, digests, Computing())
    np.testing.assert_array_equal(opened(tmp_path).read(digests), rows(digests))


def damage(recorded: FeatureTable, row: int) -> None:
    with (recorded.folder / "rows.bin").open("r+b") as file:
        file.seek(row * recorded.row_bytes + 5)
        file.write(b"\xaa\x55\xaa")


def test_a_damaged_row_is_computed_again(tmp_path):
    recorded, digests, compute = opened(tmp_path), names(6), Computing()
    recorded.append(digests, rows(digests))
    damage(recorded, 3)
    assert extract_missing(opened(tmp_path), digests, compute) == 1
    assert compute.calls == [[digests[3]]]
    np.testing.assert_array_equal(opened(tmp_path).read(digests), rows(digests))


def test_a_second_use_in_one_process_checks_no_row_twice(tmp_path, monkeypatch):
    store, digests = FeatureStore(tmp_path), names(6)
    opened(tmp_path).append(digests, rows(digests))
    checked = []
    monkeypatch.setattr(zlib, "crc32", lambda row, crc32=zlib.crc32: checked.append(1) or crc32(row))
    for _ in range(3):
        recorded = store.open(SPEC, SHAPE, "float16")
        np.testing.assert_array_equal(recorded.read(digests), rows(digests))
        recorded.close()
    assert len(checked) == len(digests)


def test_a_later_use_sees_what_others_did_meanwhile(tmp_path):
    store, digests = FeatureStore(tmp_path), names(6)
    with closing(store.open(SPEC, SHAPE, "float16")) as recorded:
        recorded.append(digests[:4], rows(digests[:4]))
    opened(tmp_path).append(digests[4:], rows(digests[4:]))
    with closing(store.open(SPEC, SHAPE, "float16")) as recorded:
        np.testing.assert_array_equal(recorded.read(digests), rows(digests))
    assert [kept.rows for kept in FeatureStore(tmp_path).clear()] == [6]  # between uses it may be evicted
    assert opened(tmp_path).append(digests[::-1][:2], rows(digests[::-1][:2])) == 2
    with closing(store.open(SPEC, SHAPE, "float16")) as recorded:
        assert recorded.missing(digests) == digests[:4]
        np.testing.assert_array_equal(recorded.read(digests[4:]), rows(digests[4:]))
        assert FeatureStore(tmp_path).clear() == []  # and not while it is read


def test_verify_reports_and_drops_a_damaged_row(tmp_path):
    recorded, digests = opened(tmp_path), names(6)
    recorded.append(digests, rows(digests))
    damage(recorded, 3)
    assert FeatureStore(tmp_path).verify() == {recorded.folder: [digests[3]]}
    assert FeatureStore(tmp_path).verify() == {recorded.folder: []}
    assert opened(tmp_path).missing(digests) == [digests[3]]


def test_a_failing_computation_keeps_what_it_recorded_and_frees_its_claims(tmp_path):
    def fails(digests):
        first = list(itertools.islice(digests, 4))
        yield first, rows(first)
        raise OSError("the image server is gone")

    recorded, compute = opened(tmp_path), Computing()
    with pytest.raises(OSError, match="image server"):
        extract_missing(recorded, names(40), fails)
    assert extract_missing(opened(tmp_path), names(40), compute, seconds_left=lambda: 5) == 36


def test_a_computation_that_leaves_images_out_is_an_error(tmp_path):
    def forgets(digests):
        _, *others = digests
        yield others, rows(others)

    with pytest.raises(RuntimeError, match="1 of the images it took"):
        extract_missing(opened(tmp_path), names(40), forgets)


def test_what_a_computation_has_not_taken_is_free_for_others(tmp_path):
    left_to_us = []

    def compute(digests):
        while chunk := list(itertools.islice(digests, 8)):
            if not left_to_us:  # another process comes while the first batch is computed
                with pytest.raises(StoreTimeout):
                    extract_missing(opened(tmp_path), names(800), Computing(), seconds_left=lambda: began + 1 - time.monotonic())
                left_to_us.extend(opened(tmp_path).missing(names(800)))
            yield chunk, rows(chunk)

    began = time.monotonic()
    assert extract_missing(opened(tmp_path), names(800), compute) == len(left_to_us)
    assert 8 <= len(left_to_us) < 100  # the bucket that the batch is of
    assert opened(tmp_path).missing(names(800)) == []


def test_waiting_for_others_ends_with_the_time(tmp_path):
    holder, compute = opened(tmp_path), Computing()
    start = time.monotonic()
    with holder.claim(holder.bucket(names(1)[0])), pytest.raises(StoreTimeout, match="1 of 1"):
        extract_missing(opened(tmp_path), names(1), compute, seconds_left=lambda: start + 0.2 - time.monotonic())
    assert compute.calls == []


def test_the_work_of_a_process_that_dies_is_taken_over(tmp_path):
    hold = "from contextlib import ExitStack\nstack = ExitStack()\n"
    hold += "for bucket in range(recorded.n_buckets): assert stack.enter_context(recorded.claim(bucket))\n"
    hold += "print('held', flush=True); time.sleep(60)"
    holder = child(tmp_path, hold)
    assert holder.stdout.readline() == "held\n"
    threading.Timer(0.3, holder.kill).start()
    start = time.monotonic()
    assert extract_missing(opened(tmp_path), names(50), Computing(), seconds_left=lambda: start + 20 - time.monotonic()) == 50
    assert time.monotonic() - start > 0.25  # it did wait
    holder.wait()


def test_pruning_spares_what_a_living_process_has_open(tmp_path):
    holder = child(tmp_path, "recorded.append(names(5), rows(names(5))); print('open', flush=True); time.sleep(60)")
    assert holder.stdout.readline() == "open\n"
    store = FeatureStore(tmp_path)
    assert [kept.in_use for kept in store.usage()] == [True]
    assert store.clear() == []
    holder.kill()
    holder.wait()
    assert [kept.rows for kept in store.clear()] == [5]
    assert store.usage() == []


def fill(store: FeatureStore, view: str, used: float, n: int = 10) -> Path:
    recorded = store.open(SPEC | {"view": view}, SHAPE, "float16")
    recorded.append(names(n), rows(names(n)))
    recorded.close()
    os.utime(recorded.folder / "spec.json", (used, used))
    return recorded.folder


def test_pruning_takes_the_least_recently_used_first(tmp_path):
    store = FeatureStore(tmp_path)
    folders = [fill(store, view, used) for view, used in (("a", 2e9), ("b", 1e9), ("c", 3e9))]
    each = store.usage()[0].n_bytes
    assert [kept.folder for kept in store.prune(2 * each)] == [folders[1]]
    assert {kept.spec["view"] for kept in store.usage()} == {"a", "c"}


def test_verifying_is_no_use(tmp_path):
    store = FeatureStore(tmp_path)
    fill(store, "old", 1e9)
    store.verify()
    assert [kept.last_used for kept in store.usage()] == [1e9]


def test_what_is_recorded_stays_within_the_size_limit(tmp_path):
    each = 10 * (int(np.prod(SHAPE)) * 2 + RECORD.itemsize)
    store = FeatureStore(tmp_path, size_limit=2 * each)
    for number in range(4):
        fill(store, f"view-{number}", 1e9 + number)
    assert [kept.spec["view"] for kept in store.usage()] == ["view-2", "view-3"]
    assert store.room() == 2 * each


def test_more_than_the_size_limit_in_use_is_an_error_that_names_the_flag(tmp_path):
    recorded = opened(tmp_path, size_limit=1000)
    with pytest.raises(StoreFull, match="--cache-size"):
        recorded.append(names(10), rows(names(10)))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_full_disk_says_what_was_needed(tmp_path):
    recorded = opened(tmp_path)
    (recorded.folder / "rows.bin").unlink()
    (recorded.folder / "rows.bin").symlink_to("/dev/full")
    with pytest.raises(DiskFull, match=r"no room on the disk for .*: it needs 512 bytes more, and .* are free there"):
        recorded.append(names(4), rows(names(4)))
    assert recorded.missing(names(4)) == names(4)


@pytest.mark.skipif(os.name != "posix", reason="folders are made read-only the POSIX way")
def test_a_read_only_root_is_unavailable():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)  # nobody: root may write anywhere
            with pytest.raises(StoreUnavailable, match="can't be written"):
                FeatureStore(Path(folder))
        finally:
            os.seteuid(user)


def test_a_root_below_a_file_is_unavailable(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="can't be written"):
        FeatureStore(tmp_path / "file" / "store")


def test_a_root_that_vanishes_is_unavailable(tmp_path):
    recorded = opened(tmp_path / "store")
    (tmp_path / "store").rename(tmp_path / "gone")
    with pytest.raises(StoreUnavailable, match="can't be used any more"):
        recorded.append(names(1), rows(names(1)))
