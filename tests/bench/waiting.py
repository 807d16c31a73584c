"""What threads that wait for each other cost on cores that other processes use, too."""

import os
import statistics
import subprocess
import sys

from rows import Ground, Row, at_least, work

from autotl.hardware import brief_waits

IMAGES, PASSES, PAIRS = 8, 6, 3
NETWORK = f"""
import time, torch
from autotl.registry import load_registry
torch.set_num_threads(2)
backbone = load_registry().backbone({{name!r}})
network, size = backbone.build(pretrained=False), backbone.preprocessing.size
images = torch.randn({IMAGES}, 3, size, size)
with torch.inference_mode():
    network(images)
    began = time.perf_counter()
    for _ in range({PASSES}):
        network(images)
print({IMAGES * PASSES} / (time.perf_counter() - began))
"""
LOOP = "while True: pass"


@work
def busy_cores(ground: Ground) -> list[Row]:
    """Passes of a network with two threads, on idle cores and beside a busy process for each core, by turns with
    OpenMP's own waiting (naive) and with the variables that autotl sets."""
    return [_row(ground, "idle cores", 0, 0.9), _row(ground, "cores that others use", os.cpu_count() or 2, 1.0)]


def _row(ground: Ground, where: str, busy: int, least: float) -> Row:
    others = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(busy)]
    plain = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    code, speeds = NETWORK.format(name=ground.backbone.name), {"naive": [], "autotl": []}  # type: ignore[var-annotated]
    try:
        for _ in range(PAIRS):
            for side, more in (("naive", {}), ("autotl", brief_waits(plain))):
                done = subprocess.run(
                    [sys.executable, "-c", code], env=plain | more, capture_output=True, text=True, check=True
                )
                speeds[side].append(float(done.stdout))
    finally:
        for other in others:
            other.kill()
            other.wait()
    naive, ours = map(statistics.median, speeds.values())
    return at_least(f"passes of a network with two threads, {where}", naive, ours, "images/s", least)
