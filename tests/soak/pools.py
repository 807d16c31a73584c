"""Two hosts that share features through a pool, while their uploads are killed."""

import fcntl
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from fire import Outcome, by_fire

from autotl.features.pool import FeaturePool
from autotl.features.sharing import extract_missing
from autotl.features.store import FeatureStore

SHAPE, IMAGES_A_KILL, KILLS, CHUNKS = (2048,), 640, int(os.environ.get("AUTOTL_SOAK_KILLS", "200")), 8


def _digests(first: int) -> list[str]:
    return [hashlib.blake2b(str(i).encode(), digest_size=16).hexdigest() for i in range(first, first + IMAGES_A_KILL)]


def _rows(digests: list[str]) -> np.ndarray:
    drawn = [np.random.default_rng(int(d[:8], 16)).integers(0, 1000, SHAPE) for d in digests]
    return np.array(drawn, np.float16)


class _Claims:
    """Stands in for the coordinator: a bucket is its holder's until that releases it or dies."""

    def __init__(self, folder: Path):
        self.folder, self.held = folder, {}
        folder.mkdir(exist_ok=True)

    def claim(self, table: str, bucket: int) -> bool:
        file = os.open(self.folder / f"{table[:16]}-{bucket}", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return False
        self.held[table, bucket] = file
        return True

    def release(self, table: str, bucket: int) -> None:
        os.close(self.held.pop((table, bucket)))


def _host(folder: Path, name: str, first: int) -> None:
    """Extract and upload all images of a round; in a process of its own."""
    claims = _Claims(folder / "claims")
    pool = FeaturePool(f"file://{folder}/pool", claims.claim, claims.release)
    pool._system.pipe_file = _slow_upload
    table = FeatureStore(folder / name).open({"round": 0}, SHAPE, "float16")
    log = os.open(folder / "extracted", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def compute(claimed: Iterator[str]) -> Iterator[tuple[list[str], np.ndarray]]:
        while chunk := list(itertools.islice(claimed, 10)):
            yield chunk, _rows(chunk)
            os.write(log, b"".join(f"{os.getpid()} {digest}\n".encode() for digest in chunk))

    extract_missing(table, _digests(first), compute, start=random.randrange(16), pool=pool)


def _slow_upload(path: str, content: bytes) -> None:
    """As a slow network does it: a reader sees the object grow."""
    with Path(path).open("wb", buffering=0) as file:
        for part in np.array_split(np.frombuffer(content, np.uint8), CHUNKS):
            file.write(part.tobytes())
            time.sleep(0.0005)


def _start(folder: Path, name: str, first: int) -> int:
    pid = os.fork()
    if not pid:
        code = 1
        try:
            random.seed(os.getpid())
            _host(folder, name, first)
            code = 0
        finally:
            os._exit(code)
    return pid


@by_fire
def pool_uploads_killed_200_times(folder: Path) -> Outcome:
    """Two hosts with a cache of their own; one of them is killed at a random moment, and starts again."""
    rng, torn, killed = random.Random(0), 0, set()
    began = time.monotonic()
    os.waitpid(_start(folder, "c", 0), 0)
    life = (time.monotonic() - began) / 2  # two share the work
    shutil.rmtree(folder / "pool")
    (folder / "extracted").unlink()
    for kill in range(KILLS):
        first = kill * IMAGES_A_KILL
        pids = {name: _start(folder, name, first) for name in ("a", "b")}
        victim = rng.choice("ab")
        time.sleep(rng.uniform(0.0, life))
        os.kill(pids[victim], signal.SIGKILL)
        _, status = os.waitpid(pids[victim], 0)
        if os.WIFSIGNALED(status):
            killed.add(pids[victim])
        torn += sum(not found.num_rows for found in FeaturePool(f"file://{folder}/pool").verify())
        pids[victim] = _start(folder, victim, first)
        for pid in pids.values():
            _, status = os.waitpid(pid, 0)
            assert status == 0, f"a host failed after kill {kill}: {status}"
    wrong = 0
    for name in ("a", "b"):
        table = FeatureStore(folder / name).open({"round": 0}, SHAPE, "float16")
        for kill in range(KILLS):
            digests = _digests(kill * IMAGES_A_KILL)
            wrong += len(table.missing(digests)) + int((table.read(digests) != _rows(digests)).any(axis=1).sum())
    # what a host had extracted and not uploaded when it was killed is lost to the other one
    by = [line.split() for line in (folder / "extracted").read_text().splitlines()]
    living = [digest for pid, digest in by if int(pid) not in killed]
    twice = len(living) - len(set(living))
    pool = FeaturePool(f"file://{folder}/pool")
    left = sum(not found.num_rows for found in pool.verify(remove=True))
    clean = all(found.num_rows for found in pool.verify())
    figure = {
        "killed at work": len(killed), "torn objects seen": torn, "torn at the end": left, "wrong rows": wrong,
        "images": KILLS * IMAGES_A_KILL, "extracted twice by living hosts": twice,
        "extracted again after a kill": len(by) - KILLS * IMAGES_A_KILL, "clean after verify": clean,
    }  # fmt: skip
    target = "no torn object read, none left after verify, nothing extracted twice but what a killed host kept back"
    return Outcome(json.dumps(figure), target, not wrong and not twice and clean and not left)
