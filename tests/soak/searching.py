"""Searches in processes of their own, on small real images; with the no-op strategy where nothing else is said."""

import json
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import noop
import numpy as np
import optuna
from PIL import Image
from skimage import data

from autotl.study.storage import open_storage

__all__ = ["NOOP", "Output", "Study", "alive", "children"]

NOOP = ("--strategy", "noop", "--head", "prior")


class Study:
    """A study in `folder`, of 60 patches of two photographs, that searches are started on."""

    def __init__(self, folder: Path):
        self.photos, self.output = folder / "photos", folder / "studies"
        self.folder = self.output / "photos"
        self.environment = {**noop.install(folder / "site"), "AUTOTL_CACHE": str(folder / "cache")}
        for name in ("chelsea", "coffee"):
            (self.photos / name).mkdir(parents=True)
            photograph, rng = getattr(data, name)(), np.random.default_rng(0)
            for i in range(30):
                top, left = (rng.integers(side - 64) for side in photograph.shape[:2])
                Image.fromarray(photograph[top : top + 64, left : left + 64]).save(self.photos / name / f"{i:02}.png")

    def search(self, *options: str, seconds: float = 0.0, parts: tuple[str, ...] = NOOP) -> subprocess.Popen[str]:
        """`autotl search --json`, with no-op trials that take so many seconds each."""
        command = [sys.executable, "-m", "autotl", "search", str(self.photos), "--output", str(self.output), "--json"]
        return subprocess.Popen(
            [*command, *parts, "--backbone", "efficientnet_lite0", "--test", "none", *options],
            env={**self.environment, "AUTOTL_NOOP_SECONDS": str(seconds)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        study = optuna.load_study(study_name="photos", storage=open_storage(self.folder))
        return study.get_trials(deepcopy=False)

    def states(self) -> Counter[str]:
        return Counter(trial.state.name for trial in self.trials())

    def agrees(self) -> bool:
        """Whether result.json counts what the journal holds."""
        states = self.states()
        counted = {"complete": states["COMPLETE"], "pruned": states["PRUNED"], "failed": states["FAIL"]}
        return json.loads((self.folder / "result.json").read_text())["trials"] == counted


class Output(threading.Thread):
    """Reads what a search prints while it runs: a search whose pipe is full would wait for a reader."""

    def __init__(self, process: subprocess.Popen[str]):
        super().__init__(daemon=True)
        self.process, self._lines = process, []
        self.start()

    def run(self) -> None:
        self._lines.extend(self.process.stdout)

    def whole(self, timeout: float) -> str:
        """All of it, once the search has ended."""
        self.process.wait(timeout)
        self.join(timeout)
        return "".join(self._lines)


def children(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    parents = {}
    for page in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(page.parent.name)] = int(page.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
