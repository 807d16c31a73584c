"""The feature store: tables by spec, shared by processes, bounded, checked."""

import os
import sys
import tempfile
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from autotl.features.store import FeatureStore
from autotl.features.table import RECORD, StoreFull, StoreUnavailable

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no test folder
from sample_tables import SHAPE, SPEC, child, damage, digests_of, open_table, rows_of


def test_equal_specs_share_a_folder_and_others_do_not(tmp_path):
    store = FeatureStore(tmp_path)
    same = store.open(dict(reversed(SPEC.items())), SHAPE, "float16")
    other = store.open(SPEC | {"view": "flip-0"}, SHAPE, "float16")
    assert same.folder == open_table(tmp_path).folder != other.folder


def test_a_second_use_in_one_process_checks_no_row_again(tmp_path, monkeypatch):
    store, digests = FeatureStore(tmp_path), digests_of(6)
    open_table(tmp_path).append(digests, rows_of(digests))
    checked = []
    monkeypatch.setattr(zlib, "crc32", lambda row, crc32=zlib.crc32: checked.append(1) or crc32(row))
    for _ in range(3):
        table = store.open(SPEC, SHAPE, "float16")
        np.testing.assert_array_equal(table.read(digests), rows_of(digests))
        table.close()
    assert len(checked) == len(digests)


def test_a_later_use_sees_appends_and_removals_by_others(tmp_path):
    store, digests = FeatureStore(tmp_path), digests_of(6)
    with closing(store.open(SPEC, SHAPE, "float16")) as table:
        table.append(digests[:4], rows_of(digests[:4]))
    open_table(tmp_path).append(digests[4:], rows_of(digests[4:]))
    with closing(store.open(SPEC, SHAPE, "float16")) as table:
        np.testing.assert_array_equal(table.read(digests), rows_of(digests))
    assert [table.num_rows for table in FeatureStore(tmp_path).clear()] == [6]  # removable between uses
    assert open_table(tmp_path).append(digests[::-1][:2], rows_of(digests[::-1][:2])) == 2
    with closing(store.open(SPEC, SHAPE, "float16")) as table:
        assert table.missing(digests) == digests[:4]
        np.testing.assert_array_equal(table.read(digests[4:]), rows_of(digests[4:]))
        assert FeatureStore(tmp_path).clear() == []  # not while it is open


def test_verify_returns_and_drops_a_damaged_row(tmp_path):
    table, digests = open_table(tmp_path), digests_of(6)
    table.append(digests, rows_of(digests))
    damage(table, 3)
    assert FeatureStore(tmp_path).verify() == {table.folder: [digests[3]]}
    assert FeatureStore(tmp_path).verify() == {table.folder: []}
    assert open_table(tmp_path).missing(digests) == [digests[3]]


def test_pruning_keeps_tables_that_a_running_process_has_open(tmp_path):
    holder = child(
        tmp_path, "table.append(digests_of(5), rows_of(digests_of(5))); print('open', flush=True); time.sleep(60)"
    )
    assert holder.stdout.readline() == "open\n"
    store = FeatureStore(tmp_path)
    assert [table.in_use for table in store.usage()] == [True]
    assert store.clear() == []
    holder.kill()
    holder.wait()
    assert [table.num_rows for table in store.clear()] == [5]
    assert store.usage() == []


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000], ids=range(4))
def test_a_damaged_specification_of_a_table_is_none(text, tmp_path):
    table = open_table(tmp_path)
    table.close()
    (table.folder / "spec.json").write_text(text)
    assert [stored.spec for stored in FeatureStore(tmp_path).usage()] == [None]


def fill(store: FeatureStore, view: str, used: float, n: int = 10) -> Path:
    table = store.open(SPEC | {"view": view}, SHAPE, "float16")
    table.append(digests_of(n), rows_of(digests_of(n)))
    table.close()
    os.utime(table.folder / "spec.json", (used, used))
    return table.folder


def test_pruning_takes_the_least_recently_used_first(tmp_path):
    store = FeatureStore(tmp_path)
    folders = [fill(store, view, used) for view, used in (("a", 2e9), ("b", 1e9), ("c", 3e9))]
    each = store.usage()[0].num_bytes
    assert [table.folder for table in store.prune(2 * each)] == [folders[1]]
    assert {table.spec["view"] for table in store.usage()} == {"a", "c"}


def test_verifying_does_not_count_as_a_use(tmp_path):
    store = FeatureStore(tmp_path)
    fill(store, "old", 1e9)
    store.verify()
    assert [table.last_used for table in store.usage()] == [1e9]


def test_the_store_stays_within_its_size_limit(tmp_path):
    each = 10 * (int(np.prod(SHAPE)) * 2 + RECORD.itemsize)
    store = FeatureStore(tmp_path, size_limit=2 * each)
    for number in range(4):
        fill(store, f"view-{number}", 1e9 + number)
    assert [table.spec["view"] for table in store.usage()] == ["view-2", "view-3"]
    assert sum(table.num_bytes for table in store.usage()) == 2 * each


def test_a_store_full_of_tables_in_use_is_an_error_that_names_the_flag(tmp_path):
    table = open_table(tmp_path, size_limit=1000)
    with pytest.raises(StoreFull, match="--cache-size"):
        table.append(digests_of(10), rows_of(digests_of(10)))


def test_a_read_only_root_is_unavailable():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)  # root may write anywhere
            with pytest.raises(StoreUnavailable, match="can't be written"):
                FeatureStore(Path(folder))
        finally:
            os.seteuid(user)


def test_a_root_below_a_file_is_unavailable(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="can't be written"):
        FeatureStore(tmp_path / "file" / "store")
