"""Rows on disk: read as they were written, intact whenever a process is killed."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from autotl.atomic_io import DiskFull
from autotl.features.sharing import extract_missing
from autotl.features.store import StoreUnavailable
from autotl.features.table import RECORD, to_stored_dtype

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no test folder
from sample_tables import SHAPE, Computing, child, damage, digests_of, open_table, rows_of


def test_read_returns_rows_in_the_order_of_the_digests(tmp_path):
    table, digests = open_table(tmp_path), digests_of(20)
    table.append(digests, rows_of(digests))
    asked = [digests[7], digests[2], digests[7], *digests[3:9]]
    np.testing.assert_array_equal(table.read(asked), rows_of(asked))


def test_read_returns_a_copy_also_of_contiguous_rows(tmp_path):
    table, digests = open_table(tmp_path), digests_of(20)
    table.append(digests, rows_of(digests))
    table.read(digests)[:] = 0
    np.testing.assert_array_equal(table.read(digests), rows_of(digests))


@pytest.mark.parametrize("with_torch", [True, False])
def test_rows_are_cast_with_and_without_torch(tmp_path, monkeypatch, with_torch):
    monkeypatch.setitem(sys.modules, "torch", pytest.importorskip("torch") if with_torch else None)
    table, digests = open_table(tmp_path), digests_of(600)
    table.append(digests, rows_of(digests))
    read = table.read(digests[::-1], "float32")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, rows_of(digests[::-1]).astype(np.float32))


def test_read_returns_only_the_features_asked_for(tmp_path):
    table, digests = open_table(tmp_path), digests_of(5)
    table.append(digests, rows_of(digests))
    np.testing.assert_array_equal(table.read(digests[::-1], "float32", slice(1, 2)), rows_of(digests[::-1])[:, 1:])


def test_missing_returns_each_image_once(tmp_path):
    table, digests = open_table(tmp_path), digests_of(4)
    table.append(digests[:1], rows_of(digests[:1]))
    assert table.missing([digests[2], digests[0], digests[2], digests[3]]) == [digests[2], digests[3]]


def test_reading_a_missing_image_raises_with_its_digest(tmp_path):
    with pytest.raises(KeyError, match=digests_of(1)[0]):
        open_table(tmp_path).read(digests_of(1))


def test_appending_an_image_twice_keeps_the_first_row(tmp_path):
    table, digests = open_table(tmp_path), digests_of(3)
    assert table.append([*digests, digests[0]], rows_of([*digests, digests[0]])) == 3
    assert table.append(digests, np.zeros((3, *SHAPE))) == 0
    np.testing.assert_array_equal(table.read(digests), rows_of(digests))


def test_rows_of_another_shape_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must have shape"):
        open_table(tmp_path).append(digests_of(2), np.zeros((2, 5)))


def test_float16_rows_saturate_instead_of_overflowing():
    made = to_stored_dtype(np.array([1e6, -1e6, 1.5], np.float32), "float16")
    np.testing.assert_array_equal(made, np.array([65504, -65504, 1.5], np.float16))


def test_a_reader_sees_what_another_process_appends(tmp_path):
    table = open_table(tmp_path)
    assert len(table) == 0
    assert child(tmp_path, "table.append(digests_of(5), rows_of(digests_of(5)))").wait() == 0
    np.testing.assert_array_equal(table.read(digests_of(5)), rows_of(digests_of(5)))


def test_a_process_killed_while_it_appends_leaves_only_whole_rows(tmp_path):
    appends = "n = len(table)\nwhile True: table.append(digests_of(3, n), rows_of(digests_of(3, n))); n += 3"
    table = open_table(tmp_path)
    for _ in range(3):
        before = len(table)
        process = child(tmp_path, appends)
        deadline = time.monotonic() + 30
        while len(table) < before + 30 and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(table) >= before + 30
    fresh = open_table(tmp_path)
    np.testing.assert_array_equal(fresh.read(digests_of(len(fresh))), rows_of(digests_of(len(fresh))))


def test_rows_without_records_are_missing_and_overwritten(tmp_path):
    dies = "os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)\n"
    dies += "table.append(digests_of(4, 4), rows_of(digests_of(4, 4)) + 1)"
    table = open_table(tmp_path)
    table.append(digests_of(4), rows_of(digests_of(4)))
    assert child(tmp_path, dies).wait() == -signal.SIGKILL
    assert (table.folder / "rows.bin").stat().st_size == 8 * table.row_bytes  # it did get that far
    assert table.missing(digests_of(8)) == digests_of(4, 4)
    table.append(digests_of(4, 4), rows_of(digests_of(4, 4)))
    np.testing.assert_array_equal(open_table(tmp_path).read(digests_of(8)), rows_of(digests_of(8)))


def test_a_record_torn_at_any_byte_is_skipped_and_cut_off(tmp_path):
    table, digests = open_table(tmp_path), digests_of(6)
    table.append(digests, rows_of(digests))
    index = table.folder / "index.bin"
    whole = index.read_bytes()
    for torn in range(1, RECORD.itemsize + 1):
        index.write_bytes(whole[:-torn])
        reader = open_table(tmp_path)
        assert reader.missing(digests) == digests[-1:], torn
        reader.append(digests[-1:], rows_of(digests[-1:]))
        assert index.read_bytes() == whole, torn
        np.testing.assert_array_equal(open_table(tmp_path).read(digests), rows_of(digests))


def test_records_of_zeros_are_skipped(tmp_path):
    table, digests = open_table(tmp_path), digests_of(6)
    table.append(digests, rows_of(digests))
    with (table.folder / "index.bin").open("r+b") as file:
        file.seek(4 * RECORD.itemsize)
        file.write(bytes(2 * RECORD.itemsize))
    assert open_table(tmp_path).missing([*digests, "0" * 32]) == [*digests[4:], "0" * 32]


def test_rows_beyond_the_end_of_a_truncated_file_are_missing(tmp_path):
    table, digests = open_table(tmp_path), digests_of(6)
    table.append(digests, rows_of(digests))
    os.truncate(table.folder / "rows.bin", 4 * table.row_bytes)
    after = open_table(tmp_path)
    assert after.missing(digests) == digests[4:]
    extract_missing(after, digests, Computing())
    np.testing.assert_array_equal(open_table(tmp_path).read(digests), rows_of(digests))


def test_a_damaged_row_is_extracted_again(tmp_path):
    table, digests, compute = open_table(tmp_path), digests_of(6), Computing()
    table.append(digests, rows_of(digests))
    damage(table, 3)
    assert extract_missing(open_table(tmp_path), digests, compute) == 1
    assert compute.calls == [[digests[3]]]
    np.testing.assert_array_equal(open_table(tmp_path).read(digests), rows_of(digests))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_full_disk_is_an_error_with_the_bytes_needed(tmp_path):
    table = open_table(tmp_path)
    (table.folder / "rows.bin").unlink()
    (table.folder / "rows.bin").symlink_to("/dev/full")
    with pytest.raises(DiskFull, match=r"no room on the disk for .*: it needs 512 bytes more, and .* are free there"):
        table.append(digests_of(4), rows_of(digests_of(4)))
    assert table.missing(digests_of(4)) == digests_of(4)


def test_a_root_that_was_removed_is_unavailable(tmp_path):
    table = open_table(tmp_path / "store")
    (tmp_path / "store").rename(tmp_path / "gone")
    with pytest.raises(StoreUnavailable, match="can't be used any more"):
        table.append(digests_of(1), rows_of(digests_of(1)))
