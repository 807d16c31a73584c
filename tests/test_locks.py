"""What a search and a cache do on a file system without locks."""

import errno
import fcntl

import pytest

from autotl.coordinator.join import search_runs
from autotl.coordinator.run import _exclusive
from autotl.errors import AutotlError
from autotl.features.store import FeatureStore, StoreUnavailable
from autotl.features.table import FeatureTable
from autotl.locks import FileLock, NoLocks, Timeout
from autotl.study.storage import Journal, open_storage

FAULTS = [
    OSError(errno.ENOLCK, "No locks available"),
    OSError(errno.EOPNOTSUPP, "Operation not supported"),
    NotImplementedError("no flock"),
]


@pytest.fixture(params=FAULTS, ids=repr)
def no_locks(request, monkeypatch):
    def raise_fault(*arguments, **options):
        raise request.param

    monkeypatch.setattr(fcntl, "flock", raise_fault)


def test_a_lock_excludes_and_ends(tmp_path):
    with FileLock(tmp_path / "lock"), pytest.raises(Timeout), FileLock(tmp_path / "lock", timeout=0):
        pytest.fail("both hold the lock")
    with FileLock(tmp_path / "lock", timeout=0):
        assert not search_runs(tmp_path)


def test_every_lack_of_locks_is_one_error(no_locks, tmp_path):
    with pytest.raises(NoLocks, match="no locks"), FileLock(tmp_path / "lock"):
        pytest.fail("there is no lock")


def test_another_failure_keeps_its_own_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError), FileLock(tmp_path / "file" / "lock"):
        pytest.fail("its folder is a file")


def test_a_study_without_locks_names_another_output(no_locks, tmp_path):
    with pytest.raises(AutotlError, match=r"no locks.*--output"), _exclusive(tmp_path / "study"):
        pytest.fail("there is no lock")


def test_whether_a_search_runs_is_an_error_in_words(no_locks, tmp_path):
    (tmp_path / ".lock").touch()
    with pytest.raises(AutotlError, match="no locks"):
        search_runs(tmp_path)


def test_a_store_without_locks_is_unavailable(no_locks, tmp_path):
    with pytest.raises(StoreUnavailable, match=r"no locks.*--cache"):
        FeatureStore(tmp_path)


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
def test_a_table_that_loses_its_locks_is_unavailable(fault, tmp_path, monkeypatch):
    def raise_fault(*arguments, **options):
        raise fault

    with_locks = FeatureTable(tmp_path, (2,), "float32")
    monkeypatch.setattr(fcntl, "flock", raise_fault)
    with pytest.raises(StoreUnavailable, match="no locks"):
        with_locks.append(["0" * 32], [[1.0, 2.0]])
    with pytest.raises(StoreUnavailable, match="no locks"), with_locks.claim(0):
        pytest.fail("there is no lock")


def test_a_journal_without_locks_is_an_error_in_words(no_locks, tmp_path):
    (tmp_path / "journal.log").write_text('{"op_code":0')
    with pytest.raises(AutotlError, match="no locks"):
        Journal(tmp_path).repair()
    with pytest.raises(AutotlError, match="no locks"):
        open_storage(tmp_path).create_new_study([], "new")


def test_a_network_is_converted_without_the_cache(no_locks, tmp_path, monkeypatch):
    from autotl.engines import openvino

    monkeypatch.setattr(openvino, "load_openvino", lambda: None)
    monkeypatch.setattr(openvino, "_convert", lambda module, size: "converted")
    assert openvino._cached(None, None, 32, tmp_path, tmp_path / "key") == "converted"
