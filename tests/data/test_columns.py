"""Columns behave like the tuples that they stand for, in a tenth of the memory."""

import hashlib
import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from autotl.data.columns import (
    ByDigest,
    CodeColumn,
    Column,
    DigestColumn,
    DigestLookup,
    NumberColumn,
    PathColumn,
    TextColumn,
    codes,
    numbers,
)
from autotl.data.dataset import ImageDataset
from autotl.workers.codec import ProtocolError, decode, encode

STRANGE = Path(os.fsdecode(b"/images/caf\xe9 and \xff.png"))
COLUMNS = [
    (DigestColumn, ["0" * 32, "f" * 32, "0123456789abcdef" * 2]),
    (TextColumn, ["", "é", "a longer one"]),
    (CodeColumn, ["train", "test", "train", ""]),
    (PathColumn, [Path("/a/b/c.png"), Path("/a/b/d.png"), Path("/x.png"), Path("relative/y.png"), Path("z"), STRANGE]),
    (NumberColumn, [3, 1, 2]),
    (NumberColumn, [1.5, None, -2.0]),
]


def digests_of(n):
    return [hashlib.blake2b(str(i).encode(), digest_size=16).hexdigest() for i in range(n)]


@pytest.mark.parametrize(("make", "values"), COLUMNS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_column_is_like_its_tuple(make, values):
    column = make(values)
    assert len(column) == len(values)
    assert list(column) == values
    assert (column[0], column[-1], column[1:]) == (values[0], values[-1], tuple(values[1:]))
    assert column == values
    assert column == tuple(values)
    assert column != values[:-1]
    with pytest.raises(IndexError):
        column[len(values)]


@pytest.mark.parametrize(("make", "values"), COLUMNS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_column_survives_json(make, values):
    again = Column.from_plain(json.loads(json.dumps(make(values).plain())))
    assert list(again) == values


def test_arrays_that_do_not_fit_together_are_refused():
    message = encode(ImageDataset("d", ("a", "b"), (Path("/a"),), np.zeros(1, np.int64), ("0" * 32,), ("",), ("",)))
    fields = json.loads(message)
    fields["digests"]["arrays"][0]["shape"] = [2, 8]
    with pytest.raises(ProtocolError, match=r"digests: ValueError: not digests"):
        decode(json.dumps(fields).encode(), {"ImageDataset": ImageDataset})
    fields["digests"]["arrays"][0]["dtype"] = "|O"
    with pytest.raises(ProtocolError, match="objects are not sent"):
        decode(json.dumps(fields).encode(), {"ImageDataset": ImageDataset})


def test_digests_are_found_by_binary_search():
    known, unknown = digests_of(1000), digests_of(1100)[1000:]
    lookup = DigestLookup(DigestColumn(known))
    assert lookup.find(DigestColumn(known[::-1])).tolist() == list(range(999, -1, -1))
    assert (lookup.find(DigestColumn(unknown)) == -1).all()
    assert DigestLookup(DigestColumn([])).find(DigestColumn(known)).max() == -1


def test_digests_with_equal_halves_are_told_apart():
    same = [f"{'a' * 16}{i:016x}" for i in range(50)]  # a stranger can make files whose digests begin alike
    lookup = DigestLookup(DigestColumn(same[::2]))
    assert lookup.find(DigestColumn(same)).tolist() == [i // 2 if i % 2 == 0 else -1 for i in range(50)]


def test_of_equal_digests_the_last_is_found():
    lookup = DigestLookup(DigestColumn(["0" * 32, "1" * 32, "0" * 32]))
    assert lookup.find(DigestColumn(["0" * 32])).tolist() == [2]


def test_values_by_digest():
    known = digests_of(5)
    value_of = ByDigest(DigestColumn(known), "abcde".__getitem__)
    assert dict(value_of) == dict(zip(known, "abcde", strict=True))
    with pytest.raises(KeyError):
        value_of["0" * 32]


def test_a_million_images_take_less_than_100_mebibytes():
    n = 10_000
    rng = np.random.default_rng(0)
    tracemalloc.start()
    paths = PathColumn(Path(f"/data/class-{i % 100:03}/image-{i:07}.jpg") for i in range(n))
    dataset = ImageDataset(
        "many",
        ("a", "b"),
        paths,
        np.arange(n) % 2,
        DigestColumn(rng.integers(0, 256, (n, 16), dtype=np.uint8)),
        codes("test" if i % 5 == 0 else "train" for i in range(n)),
        codes(f"patient {i}" for i in range(n)),
        (),
        numbers(np.arange(n)),
    )
    # pathlib interns names: the table of Python's interned strings is as large as the process's other names need
    kept = tracemalloc.take_snapshot().filter_traces(
        [tracemalloc.Filter(inclusive=False, filename_pattern="*pathlib*")]
    )
    tracemalloc.stop()
    assert dataset.paths[-1] == Path(f"/data/class-{(n - 1) % 100:03}/image-{n - 1:07}.jpg")
    assert 100 * sum(trace.size for trace in kept.traces) < 100 * 2**20
