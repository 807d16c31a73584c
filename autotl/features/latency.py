"""How long a frozen backbone takes for an image, measured once on each device, engine and processor."""

import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import median

import numpy as np

from autotl.atomic_io import read_sealed, write_sealed
from autotl.engines.base import Compiled
from autotl.engines.recorded import RecordedEngine
from autotl.features.extractor import BackboneFeatures
from autotl.features.sharing import StoreTimeout

__all__ = ["MEASURED", "Latency", "latency_of", "measure"]

MEASURED = "the networks' passes with one worker's threads, without reading the file"
"""What a latency holds, as a text for the user."""
BATCH = 8
"""Images of the batch that is timed beside single ones."""
MAX_CALLS, MAX_SECONDS = 9, 0.5
"""Calls that are timed, and seconds after which no further one is."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds that a network takes for an image: the median of some calls."""

    milliseconds: float
    """One image at a time."""
    batch_milliseconds: float
    """In batches of BATCH images."""


def latency_of(features: BackboneFeatures) -> Latency | None:
    """The backbone's latency, from the file of an earlier measurement, else measured now.

    None where a worker only reads what another device records and nothing was measured there yet, and where the time
    doesn't suffice to compile the network.
    """
    extractor = features.extractor
    if not isinstance(features.engine, RecordedEngine):
        try:
            features.check_engine("train")  # an engine that is replaced doesn't count
        except StoreTimeout:
            return None
    # on a CPU each worker has its own number of threads; readers look for what the accelerator's worker has measured
    threads = extractor.threads if features.engine_key()["device_type"] == "cpu" else 0
    file = features.kept_file("latency", features.engine_key() | {"threads": threads, "on": _processor()}, "json")
    if kept := _read(file):
        return kept
    if isinstance(features.engine, RecordedEngine):
        return None
    try:
        latency = measure(features.compiled(None), features.backbone.preprocessing.size)
    except StoreTimeout:
        return None
    if kept := _read(file):  # another worker was faster: all trials of a search state the same latency
        return kept
    if file:
        with suppress(OSError):  # the next process measures it again
            write_sealed(file, asdict(latency))
    return latency


def _read(file: Path | None) -> Latency | None:
    """The measurement in a file; None where there is none, or it is damaged."""
    with suppress(OSError, ValueError, TypeError):
        return Latency(**read_sealed(file)) if file and file.exists() else None
    return None


def measure(compiled: Compiled, size: int, clock: Callable[[], float] = time.perf_counter) -> Latency:
    """Time a compiled network on grey images, after one call that isn't timed."""

    def milliseconds(count: int) -> float:
        images = np.full((count, size, size, 3), 128, np.uint8)
        compiled(images)
        seconds: list[float] = []
        while not seconds or (len(seconds) < MAX_CALLS and sum(seconds) < MAX_SECONDS):
            began = clock()
            compiled(images)
            seconds.append(clock() - began)
        return round(1000 * median(seconds) / count, 4)

    return Latency(milliseconds(1), milliseconds(BATCH))


@cache
def _processor() -> str:
    """Which machine a measurement is of: a cache may lie on a disk that several share."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return f"{platform.node()} {line.partition(':')[2].strip()}"
    return f"{platform.node()} {platform.machine()} {platform.processor()}"
