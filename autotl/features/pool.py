"""Recorded features where many hosts can read them: immutable objects on a shared folder or an object store (fsspec).

An object holds the rows of one bucket that one process has extracted, and is named by its content:
`TABLE/BUCKET-DIGEST`. Nothing is appended or locked, and an object whose content doesn't have its digest (an upload
that was cut off) counts as absent, so that NFS and object stores are safe.
"""

import hashlib
import json
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotl.data.columns import DigestColumn
from autotl.data.digests import DIGEST_BYTES
from autotl.errors import AutotlError
from autotl.features.table import FeatureTable

__all__ = ["FeaturePool", "PooledObject"]

MAGIC = b"autotl features 1\n"
NAME_DIGITS = 40
OBJECT = re.compile(rf"/[0-9a-f]{{64}}/\d\d-[0-9a-f]{{{NAME_DIGITS}}}$")
"""What the path of an object ends with. Other files below the address are none of the pool's."""


@dataclass(frozen=True)
class PooledObject:
    """An object, as `autotl cache pool` lists it."""

    path: str
    num_bytes: int
    num_rows: int
    """0 where it is torn or damaged."""


class FeaturePool:
    """Objects below an address.

    Args:
        address: `file:///nfs/features`, `s3://bucket/features`, `gs://…`; credentials are those that fsspec finds.
        claim: whether this host may extract a bucket of a table, so that no other does until it is released. By
            default it may always.
        release: gives a claimed bucket back.

    Raises:
        AutotlError: no such file system, or its package isn't installed.
    """

    def __init__(
        self,
        address: str,
        claim: Callable[[str, int], bool] = lambda table, bucket: True,
        release: Callable[[str, int], None] = lambda table, bucket: None,
    ):
        self.address, self.claim, self.release = address, claim, release
        try:
            import fsspec

            self._system, self._root = fsspec.core.url_to_fs(address)
        except (ImportError, ValueError) as error:
            raise AutotlError(
                f"--pool {address}: {error}. Give file:///FOLDER, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER, after: "
                "pip install 'autotl[data]' s3fs"
            ) from error
        self._seen: set[str] = set()

    def require_readable(self) -> None:
        """Raises AutotlError where the address can't be read; it need not exist yet."""
        try:
            self._system.ls(self._root)
        except FileNotFoundError:
            pass
        except Exception as error:  # each file system has its own exceptions
            raise AutotlError(f"--pool {self.address} can't be read: {type(error).__name__}: {error}") from error

    def fetch(self, table: FeatureTable) -> int:
        """Add the rows of objects that this process hasn't read yet to a table; returns how many were new."""
        num_new = 0
        for path, _ in self._objects(table.folder.name):
            if path in self._seen:
                continue
            read = self._read(path)
            if read is None:
                continue  # torn: it may be whole the next time
            self._seen.add(path)
            digests, rows, shape, dtype = read
            if (shape, dtype) == (table.shape, table.dtype) and len(missing := table.missing(digests)):
                wanted = set(missing)
                chosen = [i for i, digest in enumerate(digests) if digest in wanted]
                num_new += table.append([digests[i] for i in chosen], rows[chosen])
        return num_new

    def publish(self, table: FeatureTable, bucket: int, digests: list[str]) -> None:
        """Put the rows of a bucket's images into the pool."""
        rows = table.read(digests)
        content = _packed(DigestColumn(digests), rows)
        name = f"{bucket:02}-{hashlib.sha256(content).hexdigest()[:NAME_DIGITS]}"
        folder = f"{self._root}/{table.folder.name}"
        path = f"{folder}/{name}"
        self._seen.add(path)
        try:
            self._system.makedirs(folder, exist_ok=True)
            self._system.pipe_file(path, content)  # one that is there was damaged, or it would have been fetched
        except Exception as error:  # each file system has its own exceptions
            raise AutotlError(f"--pool {self.address} can't be written: {type(error).__name__}: {error}") from error

    def verify(self, *, remove: bool = False) -> Iterator[PooledObject]:
        """Read every object. One that is torn or damaged has no rows; it is removed where `remove` is set."""
        for path, size in self._objects(None):
            read = self._read(path)
            if read is None and remove:
                with suppress(OSError):
                    self._system.rm_file(path)
            yield PooledObject(path, size, len(read[0]) if read else 0)

    def _objects(self, table: str | None) -> list[tuple[str, int]]:
        """Path and size of all objects, or of those of a table."""
        root = f"{self._root}/{table}" if table else self._root
        try:
            self._system.invalidate_cache()
            found = self._system.find(root, detail=True)
        except FileNotFoundError:
            return []
        except Exception as error:  # each file system has its own exceptions
            raise AutotlError(f"--pool {self.address} can't be read: {type(error).__name__}: {error}") from error
        return sorted((path, info["size"]) for path, info in found.items() if OBJECT.search(path))

    def _read(self, path: str) -> "tuple[DigestColumn, np.ndarray, tuple[int, ...], np.dtype[Any]] | None":
        """Digests and rows of an object; None where its content isn't the one that it is named by."""
        try:
            content = self._system.cat_file(path)
        except FileNotFoundError:
            return None
        except Exception as error:  # each file system has its own exceptions
            raise AutotlError(f"--pool {self.address} can't be read: {type(error).__name__}: {error}") from error
        name = path.rpartition("/")[2].partition("-")[2]
        if hashlib.sha256(content).hexdigest()[:NAME_DIGITS] != name or not content.startswith(MAGIC):
            return None
        return _unpacked(content)


def _packed(digests: DigestColumn, rows: np.ndarray) -> bytes:
    head = json.dumps({"n": len(digests), "shape": rows.shape[1:], "dtype": rows.dtype.str}).encode()
    return MAGIC + struct.pack("<I", len(head)) + head + digests.bytes.tobytes() + np.ascontiguousarray(rows).tobytes()


def _unpacked(content: bytes) -> "tuple[DigestColumn, np.ndarray, tuple[int, ...], np.dtype[Any]] | None":
    try:
        begin = len(MAGIC) + 4
        (size,) = struct.unpack("<I", content[len(MAGIC) : begin])
        head = json.loads(content[begin : begin + size])
        n, shape, dtype = int(head["n"]), tuple(map(int, head["shape"])), np.dtype(head["dtype"])
        if dtype.hasobject:
            return None
        begin += size
        digests = np.frombuffer(content, np.uint8, n * DIGEST_BYTES, begin).reshape(n, DIGEST_BYTES)
        rows = np.frombuffer(content, dtype, -1, begin + digests.nbytes).reshape(n, *shape)
    except (ValueError, KeyError, TypeError, RecursionError, struct.error):
        return None
    return DigestColumn(digests), rows, shape, dtype
