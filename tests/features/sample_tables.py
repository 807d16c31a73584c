"""Tables of made-up rows, for tests of the feature store. Child processes import this module too."""

import hashlib
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np

from autotl.features.store import FeatureStore
from autotl.features.table import FeatureTable

SHAPE = (2, 24)
SPEC = {"backbone": "lite0", "view": "none"}
CHILD = """
import itertools, os, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from sample_tables import *
from autotl.features.sharing import extract_missing
table = open_table(Path(sys.argv[1]))
"""


def digests_of(n: int, start: int = 0) -> list[str]:
    """`n` image digests."""
    return [hashlib.blake2b(str(i).encode(), digest_size=16).hexdigest() for i in range(start, start + n)]


def rows_of(digests: list[str]) -> np.ndarray:
    """The row that each image must have."""
    drawn = [np.random.default_rng(int(d, 16)).standard_normal(SHAPE) for d in digests]
    return np.array(drawn, np.float16).reshape(-1, *SHAPE)


def open_table(root: Path, **store) -> FeatureTable:
    return FeatureStore(root, **store).open(SPEC, SHAPE, "float16")


def child(root: Path, code: str) -> subprocess.Popen:
    """A process that runs `code` with the table of `root` as `table`."""
    command = [sys.executable, "-c", CHILD + code, str(root), str(Path(__file__).parent)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


class Computing:
    """Computes rows, and records the batches that it took."""

    def __init__(self, batch: int = 32):
        self.calls: list[list[str]] = []
        self.batch = batch

    def __call__(self, digests):
        while chunk := list(itertools.islice(digests, self.batch)):
            self.calls.append(chunk)
            yield chunk, rows_of(chunk)


def damage(table: FeatureTable, row: int) -> None:
    """Overwrite some bytes of a row on disk."""
    with (table.folder / "rows.bin").open("r+b") as file:
        file.seek(row * table.row_bytes + 5)
        file.write(b"\xaa\x55\xaa")
