"""How processes share the extraction of features: each claims one bucket of images after another."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any

import numpy as np

from autotl.clock import Deadline
from autotl.data.columns import DigestColumn
from autotl.errors import AutotlError
from autotl.features.pool import FeaturePool
from autotl.features.table import FeatureTable

__all__ = ["Compute", "StoreTimeout", "extract_missing"]

POOL_POLL = 1.0
"""Seconds between looks into a pool for what other hosts extract."""
Compute = Callable[[Iterator[str]], Iterator[tuple[list[str], np.ndarray]]]
"""Image digests to batches of (digests, rows [n, *shape]). Every digest that was taken must come back in a batch."""


class StoreTimeout(AutotlError):
    """The deadline passed before all images were extracted. What was recorded stays."""


def extract_missing(
    table: FeatureTable,
    digests: Sequence[str],
    compute: Compute,
    deadline: Deadline | None = None,
    poll: float = 0.05,
    start: int = 0,
    pool: FeaturePool | None = None,
) -> int:
    """Extract all images that the table doesn't hold yet; return how many this process extracted.

    Processes that need the same images share the work. Each claims a bucket of images when it has extracted its last
    one, and appends it batch by batch; no image is extracted twice. When other processes hold all that is missing, this
    one waits, and takes over the buckets of a process that dies.

    Args:
        compute: must take digests from its iterator one batch at a time: another process may claim those not taken.
        deadline: when to stop.
        poll: seconds between looks at the progress of other processes.
        start: the bucket to begin with; another for each process that shares the work. It decides which images are in
            a batch together, and a feature's last bits depend on that: it must be the same in a repeated search.
        pool: where other hosts' rows are fetched before they are extracted here, and where complete buckets go.

    Raises:
        StoreTimeout: the deadline has passed. What was recorded stays.
    """
    deadline = deadline or Deadline()
    num_extracted = 0
    while missing := table.missing(digests):
        if pool and pool.fetch(table):
            continue
        with closing(BucketClaims(table, missing, start, pool)) as claims:
            with closing(_close_with(compute(iter(claims)))) as batches:
                for names, rows in batches:
                    num_extracted += table.append(names, rows)
                    claims.done(names)
                    _raise_if_passed(deadline, table, digests)
            if pending := claims.pending():
                raise RuntimeError(f"no rows were returned for {len(pending)} of the images taken: {pending[0]}")
        if table.missing(missing):
            _raise_if_passed(deadline, table, digests)
            deadline.clock.sleep(max(0.0, min(POOL_POLL if pool else poll, deadline.remaining())))
    return num_extracted


class BucketClaims:
    """Iterates over the missing images, bucket by bucket. A bucket is claimed when its turn comes, and held until all
    its images are recorded. Buckets that another process holds are skipped."""

    def __init__(self, table: FeatureTable, missing: DigestColumn, start: int = 0, pool: FeaturePool | None = None):
        self._table, self._start, self._pool = table, start, pool
        of = missing.bytes[:, -1] % table.num_buckets
        self._buckets = {int(bucket): missing.take(of == bucket) for bucket in np.unique(of)}
        self._claims: dict[int, tuple[ExitStack, set[str]]] = {}  # the lock and the images not recorded yet
        self._extracted: dict[int, list[str]] = {}

    def __iter__(self) -> Iterator[str]:
        for bucket in sorted(self._buckets, key=lambda b: (b - self._start) % self._table.num_buckets):
            claim = ExitStack()
            if claim.enter_context(self._table.claim(bucket)) and self._may_extract(bucket, claim):
                digests = self._table.missing(self._buckets[bucket])  # another process may have recorded some
                self._claims[bucket] = claim, set(digests)
                self._extracted[bucket] = list(digests)
                self._release_if_done(bucket)
                yield from digests
            else:
                claim.close()

    def _may_extract(self, bucket: int, claim: ExitStack) -> bool:
        """Whether no other host extracts the bucket until `claim` is closed; what others have recorded is here then."""
        if self._pool is None:
            return True
        if may := self._pool.claim(self._table.folder.name, bucket):
            claim.callback(self._pool.release, self._table.folder.name, bucket)
        self._pool.fetch(self._table)
        return may

    def done(self, digests: Sequence[str]) -> None:
        """Note that these images are recorded, and release the buckets that are complete."""
        for bucket in {self._table.bucket(digest) for digest in digests} & self._claims.keys():
            self._claims[bucket][1].difference_update(digests)
            self._release_if_done(bucket)

    def _release_if_done(self, bucket: int) -> None:
        claim, pending = self._claims[bucket]
        if not pending:
            extracted = self._extracted.pop(bucket, [])
            if self._pool and extracted:
                self._pool.publish(self._table, bucket, extracted)
            claim.close()
            del self._claims[bucket]

    def pending(self) -> list[str]:
        """Images that were taken and aren't recorded yet."""
        return [digest for _, pending in self._claims.values() for digest in pending]

    def close(self) -> None:
        """Release all buckets."""
        for claim, _ in self._claims.values():
            claim.close()


def _close_with(batches: Iterator[tuple[list[str], np.ndarray]]) -> Any:
    """A generator over `batches` whose `close` also closes `batches`, so that its threads end when an error occurs."""
    yield from batches


def _raise_if_passed(deadline: Deadline, table: FeatureTable, digests: Sequence[str]) -> None:
    if deadline.passed() and (missing := table.missing(digests)):
        raise StoreTimeout(
            f"the time was up with {len(missing):,} of {len(digests):,} images not extracted; what is recorded stays"
        )
