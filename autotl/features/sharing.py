"""How processes share the extraction of features: buckets of images are claimed one by one."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any

import numpy as np

from autotl.clock import Deadline
from autotl.errors import AutotlError
from autotl.features.table import FeatureTable

__all__ = ["Compute", "StoreTimeout", "extract_missing"]

Compute = Callable[[Iterator[str]], Iterator[tuple[list[str], np.ndarray]]]
"""Image digests to batches of (digests, rows [n, *shape]); every digest must come back."""


class StoreTimeout(AutotlError):
    """The time was up before all rows were recorded. What was recorded stays."""


def extract_missing(
    recorded: FeatureTable,
    digests: Sequence[str],
    compute: Compute,
    deadline: Deadline | None = None,
    poll: float = 0.05,
) -> int:
    """See to it that every image has its row, and return how many this process computed.

    Processes that want the same rows share the work: each claims a bucket of images whenever it has computed what it
    claimed before, and appends it batch by batch; nothing is computed twice. When all that is missing is claimed by
    others it waits, and takes over what a process that died leaves.

    Args:
        compute: takes what it needs for its next batch at a time: what it hasn't taken others may.
        deadline: raises StoreTimeout once it has passed; what was recorded stays.
        poll: seconds between looks at what others do.
    """
    deadline = deadline or Deadline()
    computed = 0
    while missing := recorded.missing(digests):
        with closing(BucketClaims(recorded, missing)) as claims:
            with closing(_generator(compute(iter(claims)))) as batches:
                for names, rows in batches:
                    computed += recorded.append(names, rows)
                    claims.done(names)
                    _in_time(deadline, recorded, digests)
            if left_out := claims.held():
                raise RuntimeError(f"no rows came back for {len(left_out)} of the images it took: {left_out[0]}")
        if recorded.missing(missing):
            _in_time(deadline, recorded, digests)
            time.sleep(max(0.0, min(poll, deadline.remaining())))
    return computed


class BucketClaims:
    """The missing images of one bucket after another: each is claimed when its turn comes, and held until all its
    rows are recorded. Buckets that others hold are passed over."""

    def __init__(self, recorded: FeatureTable, missing: list[str]):
        self._recorded = recorded
        self._buckets: dict[int, list[str]] = {}
        for digest in missing:
            self._buckets.setdefault(recorded.bucket(digest), []).append(digest)
        self._held: dict[int, tuple[ExitStack, set[str]]] = {}

    def __iter__(self) -> Iterator[str]:
        start = os.getpid()  # not where the others start
        for bucket in sorted(self._buckets, key=lambda b: (b - start) % self._recorded.n_buckets):
            claim = ExitStack()
            if claim.enter_context(self._recorded.claim(bucket)):
                mine = self._recorded.missing(self._buckets[bucket])  # others may have been here
                self._held[bucket] = claim, set(mine)
                self._release(bucket)
                yield from mine
            else:
                claim.close()

    def done(self, digests: Sequence[str]) -> None:
        """These have their rows."""
        for bucket in {self._recorded.bucket(digest) for digest in digests} & self._held.keys():
            self._held[bucket][1].difference_update(digests)
            self._release(bucket)

    def _release(self, bucket: int) -> None:
        claim, waiting = self._held[bucket]
        if not waiting:
            claim.close()
            del self._held[bucket]

    def held(self) -> list[str]:
        """Images that were taken and have no row yet."""
        return [digest for _, waiting in self._held.values() for digest in waiting]

    def close(self) -> None:
        for claim, _ in self._held.values():
            claim.close()


def _generator(batches: Iterator[tuple[list[str], np.ndarray]]) -> Any:
    """A generator that closes what it iterates over: decoding threads end with us, also when we fail."""
    yield from batches


def _in_time(deadline: Deadline, recorded: FeatureTable, digests: Sequence[str]) -> None:
    if deadline.passed() and (missing := recorded.missing(digests)):
        raise StoreTimeout(
            f"the time was up with {len(missing):,} of {len(digests):,} images to be recorded; what is recorded stays"
        )
