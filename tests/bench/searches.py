"""Whole searches, as a user types them, each with caches of its own that begin empty: `bench.py --searches`.

The naive side is the page of Optuna + timm that studies/README.md tells of. It takes 40 minutes, so it isn't run here.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rows import Ground, Row

__all__ = ["SEARCHES"]


def _search(ground: Ground, time: str) -> dict[str, Any]:
    """What result.json holds."""
    with ground.scratch() as folder:
        command = [sys.executable, "-m", "autotl", "search", "elpv", "--time", time, "--name", "bench"]
        subprocess.run(
            [*command, "--output", str(folder / "studies"), "--cache", str(folder / "cache")],
            check=True,
            stdout=sys.stderr,
        )
        return json.loads(Path(folder / "studies" / "bench" / "result.json").read_text())


def _accuracy(time: str, result: dict[str, Any], least: float) -> Row:
    accuracy = result["test"]["accuracy"]
    work = f"autotl search elpv --time {time}, test accuracy"
    return Row(work, None, accuracy, "share", None, f"≥ {least}", accuracy >= least)


def search_60s(ground: Ground) -> list[Row]:
    """A minute, caches cold."""
    return [_accuracy("60s", _search(ground, "60s"), 0.86)]


def search_5m(ground: Ground) -> list[Row]:
    """`make demo`: trials that finished (a pruned one has), and what they are worth."""
    result = _search(ground, "5m")
    finished = sum(n for state, n in result["trials"].items() if state in ("complete", "pruned"))
    work = "autotl search elpv --time 5m, finished trials"
    trials = Row(work, None, finished, "trials", None, "≥ 150", finished >= 150)
    return [trials, _accuracy("5m", result, 0.875)]


def search_15m(ground: Ground) -> list[Row]:
    """Past the published fine-tuned VGG-19's 0.884."""
    return [_accuracy("15m", _search(ground, "15m"), 0.89)]


SEARCHES = {"search-60s": search_60s, "search-5m": search_5m, "search-15m": search_15m}
