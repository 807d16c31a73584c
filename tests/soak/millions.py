"""Data sets of a million images: what a process needs to hold one, and to read a large Parquet file."""

import ctypes
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fire import Outcome, by_fire
from PIL import Image

from autotl.data.columns import DigestColumn, PathColumn, codes, numbers
from autotl.data.dataset import ImageDataset
from autotl.workers.codec import decode, encode

ROWS = int(os.environ.get("AUTOTL_SOAK_ROWS", "1_000_000"))
PARQUET_ROWS = int(os.environ.get("AUTOTL_SOAK_PARQUET_ROWS", "100_000"))
MEBIBYTES, SECONDS, FLAT_MEBIBYTES = 150, 3.0, 100


def _memory(kind: str = "VmRSS") -> float:
    """MiB of this process, after what was freed has been returned to the system."""
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/status").read_text().split(f"{kind}:")[1].split()[0]) / 1024


def _peak() -> float:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def _write(file: Path) -> None:
    rng = np.random.default_rng(0)
    paths = (Path(f"/data/images/class-{i % 1000:04}/image-{i:07}.jpg") for i in range(ROWS))
    dataset = ImageDataset(
        "million",
        tuple(f"class {i}" for i in range(1000)),
        PathColumn(paths),
        np.arange(ROWS) % 1000,
        DigestColumn(rng.integers(0, 256, (ROWS, 16), dtype=np.uint8)),
        codes("train" if i % 5 else "test" for i in range(ROWS)),
        codes("" for _ in range(ROWS)),
        (),
        numbers(np.arange(ROWS)),
    )
    file.write_bytes(encode(dataset))


def _open(file: Path) -> dict[str, float]:
    """What a worker pays for the data set that its Setup brings."""
    before, began = _memory(), time.process_time()
    dataset = decode(file.read_bytes(), {"ImageDataset": ImageDataset})
    seconds = time.process_time() - began
    assert len(dataset) == ROWS
    assert dataset.paths[ROWS - 1].name == f"image-{ROWS - 1:07}.jpg"
    after = _memory()
    return {"cpu_seconds": seconds, "process": after, "of it the data set": after - before, "peak": _peak()}


def _write_parquet(file: Path, rows: int) -> None:
    rng = np.random.default_rng(0)
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.string())])
    with pq.ParquetWriter(file, schema) as writer:
        for begin in range(0, rows, 1000):
            images = []
            for i in range(begin, min(begin + 1000, rows)):
                buffer = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "png", compress_level=0)
                images.append({"bytes": buffer.getvalue(), "path": f"{i}.png"})
            labels = [f"class {i % 10}" for i in range(begin, begin + len(images))]
            writer.write_table(pa.table({"image": images, "label": labels}, schema=schema))


def _stream(file: Path) -> dict[str, float]:
    """List the rows, and read the bytes of each image in order."""
    from autotl.data.containers import ParquetSource
    from autotl.data.members import read_image

    before = _memory("RssAnon")  # without the pages of the file, which is mapped
    listed = ParquetSource().images(str(file))
    after, size = _memory("RssAnon"), 0
    reached: list[float] = []
    for number, image in enumerate(listed, 1):
        size += len(read_image(image.path))
        if number % max(1, len(listed) // 4) == 0:
            reached.append(_memory("RssAnon"))
    return {
        "rows": len(listed), "MiB read": size / 2**20, "before": before, "listed": after,
        "growth while reading": max(reached) - after, "of it in the last half": reached[-1] - reached[1],
        "cpu_seconds": time.process_time(),
    }  # fmt: skip


def _in_a_process(function: str, *arguments: object) -> dict[str, float]:
    code = f"import json, sys; from pathlib import Path; import millions; print(json.dumps(millions.{function}))"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path[1:]])}
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


@by_fire
def a_million_rows(folder: Path) -> Outcome:
    """A worker opens a data set of a million images."""
    _in_a_process("_write(Path(sys.argv[1]))", folder / "dataset.json")
    found = _in_a_process("_open(Path(sys.argv[1]))", folder / "dataset.json")
    figure = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
    target = f"at most {MEBIBYTES} MiB for the process after malloc_trim, {SECONDS:.0f} s of CPU to open"
    return Outcome(figure, target, found["process"] <= MEBIBYTES and found["cpu_seconds"] <= SECONDS)


@by_fire
def parquet_of_100000_rows(folder: Path) -> Outcome:
    """A process reads all images of a Parquet file."""
    _in_a_process(f"_write_parquet(Path(sys.argv[1]), {PARQUET_ROWS})", folder / "images.parquet")
    found = _in_a_process("_stream(Path(sys.argv[1]))", folder / "images.parquet")
    figure = ", ".join(f"{name} {value:.1f}" for name, value in found.items())
    target = f"memory grows by at most {FLAT_MEBIBYTES} MiB while the rows are read, by at most 10 in the last half"
    held = found["growth while reading"] <= FLAT_MEBIBYTES and found["of it in the last half"] <= 10
    return Outcome(figure, target, held)
