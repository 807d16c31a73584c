"""Features that hosts share through objects: nothing torn is read, and nothing is extracted twice."""

import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from autotl.errors import AutotlError
from autotl.features.pool import MAGIC, FeaturePool
from autotl.features.sharing import extract_missing

sys.path.insert(0, str(Path(__file__).parent))
from sample_tables import Computing, digests_of, open_table, rows_of


@pytest.fixture
def pool(tmp_path):
    return FeaturePool(f"file://{tmp_path}/pool")


def host(tmp_path, name):
    """The table of a host with a cache of its own."""
    return open_table(tmp_path / name)


def test_another_host_extracts_nothing_that_is_in_the_pool(pool, tmp_path):
    digests = digests_of(200)
    assert extract_missing(host(tmp_path, "a"), digests, Computing(), pool=pool) == 200
    table, compute = host(tmp_path, "b"), Computing()
    assert extract_missing(table, digests, compute, pool=FeaturePool(pool.address)) == 0
    assert not compute.calls
    np.testing.assert_array_equal(table.read(digests), rows_of(digests))


def test_what_one_host_lacks_is_added(pool, tmp_path):
    extract_missing(host(tmp_path, "a"), digests_of(100), Computing(), pool=pool)
    assert extract_missing(host(tmp_path, "b"), digests_of(150), Computing(), pool=FeaturePool(pool.address)) == 50
    assert extract_missing(host(tmp_path, "c"), digests_of(150), Computing(), pool=FeaturePool(pool.address)) == 0


def test_a_torn_upload_is_never_read(pool, tmp_path):
    digests = digests_of(200)
    extract_missing(host(tmp_path, "a"), digests, Computing(), pool=pool)
    objects = sorted(p for p in (tmp_path / "pool").rglob("*") if p.is_file())
    rng = np.random.default_rng(0)
    for number, path in enumerate(objects):
        content = path.read_bytes()
        cut = int(rng.integers(0, len(content)))
        path.write_bytes(content[:cut] if number % 2 else content[:cut] + b"\xff\x00" + content[cut + 2 :])
    compute, table = Computing(), host(tmp_path, "b")
    assert extract_missing(table, digests, compute, pool=FeaturePool(pool.address)) == 200
    np.testing.assert_array_equal(table.read(digests), rows_of(digests))
    assert all(one.num_rows for one in FeaturePool(pool.address).verify())  # uploaded again
    deep = b"[" * 100_000
    objects[0].write_bytes(MAGIC + struct.pack("<I", len(deep)) + deep)
    assert sum(one.num_rows == 0 for one in FeaturePool(pool.address).verify()) == 1
    objects[0].write_bytes(b"torn")
    assert sum(one.num_rows == 0 for one in FeaturePool(pool.address).verify(remove=True)) == 1
    assert all(one.num_rows for one in FeaturePool(pool.address).verify())


def test_a_claimed_bucket_is_released_once_it_is_in_the_pool(pool, tmp_path):
    held = set()

    def claim(table, bucket):
        held.add(bucket)
        return True

    def release(table, bucket):
        held.remove(bucket)
        assert any(path.name.startswith(f"{bucket:02}-") for path in (tmp_path / "pool").rglob("*"))

    table = host(tmp_path, "a")
    extract_missing(table, digests_of(100), Computing(), pool=FeaturePool(pool.address, claim, release))
    assert not held


def test_objects_of_another_shape_are_left_alone(pool, tmp_path):
    table = host(tmp_path, "a")
    extract_missing(table, digests_of(40), Computing(), pool=pool)
    table.shape = (2, 12)
    assert FeaturePool(pool.address).fetch(table) == 0


def test_what_another_host_has_claimed_is_awaited(pool, tmp_path, monkeypatch):
    monkeypatch.setattr("autotl.features.sharing.POOL_POLL", 0.01)
    digests, claimed, others = digests_of(100), [], []

    def claim(table, bucket):
        claimed.append(bucket)
        if len(claimed) == 40:  # the other host is done
            others.append(extract_missing(host(tmp_path, "a"), digests, Computing(), pool=pool))
        return False

    compute = Computing()
    assert extract_missing(host(tmp_path, "b"), digests, compute, pool=FeaturePool(pool.address, claim)) == 0
    assert (others, compute.calls) == ([100], [])


def test_files_of_others_are_neither_listed_nor_removed(pool, tmp_path):
    extract_missing(host(tmp_path, "a"), digests_of(100), Computing(), pool=pool)
    photograph = tmp_path / "pool" / "holidays" / "01-abc.jpg"
    photograph.parent.mkdir()
    photograph.write_bytes(b"not an object")
    assert all(one.num_rows for one in FeaturePool(pool.address).verify(remove=True))
    assert photograph.exists()


def test_an_address_that_can_not_be_read_is_named(tmp_path):
    (tmp_path / "file").touch()
    FeaturePool(f"file://{tmp_path}/new").require_readable()
    with pytest.raises(AutotlError, match="can't be read: NotADirectoryError"):
        FeaturePool(f"file://{tmp_path}/file/pool").require_readable()


def test_an_address_of_no_file_system_is_named():
    with pytest.raises(AutotlError, match="file:///FOLDER"):
        FeaturePool("nonsense://bucket/features")


def test_the_objects_hold_no_pickle(pool, tmp_path):
    extract_missing(host(tmp_path, "a"), digests_of(40), Computing(), pool=pool)
    first = next(p for p in Path(tmp_path / "pool").rglob("*") if p.is_file())
    assert first.read_bytes().startswith(b"autotl features 1\n")
