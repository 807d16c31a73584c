"""Small disks, and files from strangers."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from fire import Outcome, by_fire

from autotl.features.store import FeatureStore
from autotl.study.storage import open_storage

SIZE = 64 << 20
TRIALS = 4


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A tmpfs of 64 MiB at `folder`. Mounting it takes root."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def search(output: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """2,624 solar cells: 26 MB of features and 13 MB of a converted network, and a model of 14 MB."""
    parts = ["--backbone", "efficientnet_lite0", "--strategy", "fast_extraction", "--head", "logistic_regression"]
    places = ["--output", str(output), "--cache", str(cache)]
    command = [sys.executable, "-m", "autotl", "search", "elpv", *places, *parts, "--trials", str(TRIALS)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


def fill(disk: Path, leave: int) -> Path:
    """A file that leaves so many bytes free."""
    ballast = disk / "ballast"
    ballast.write_bytes(b"\0" * (SIZE - leave - (1 << 12)))
    return ballast


def one_error(process: subprocess.CompletedProcess[str]) -> str:
    """What the search said when it ended; "" where that isn't one clear error."""
    said = process.stdout + process.stderr
    errors = re.findall(r"^error: (.*)$", said, re.MULTILINE)
    clear = (
        len(errors) == 1
        and re.search(r"no room on the disk for .*: (it needs .* more, and )?.* free there", errors[0])
        and ("autotl cache clear" in errors[0] or "Free space there" in errors[0])
        and "Traceback" not in said
        and process.returncode == 1
    )
    return errors[0] if clear else ""


def torn(folder: Path) -> list[str]:
    """Files that a reader could take for whole and that aren't: half-written, or of lines and pages cut short."""
    bad = [str(path) for path in folder.rglob("*.partial")]
    for path in folder.rglob("*.json"):
        try:
            json.loads(path.read_text())
        except ValueError:
            bad.append(str(path))
    for journal in folder.rglob("journal.log"):
        content = journal.read_bytes()
        if content and not content.endswith(b"\n"):
            bad.append(str(journal))
        for line in content.splitlines():
            json.loads(line)
    return bad


def finished(study: Path) -> dict[str, int]:
    trials = optuna.load_study(study_name="elpv", storage=open_storage(study)).get_trials(deepcopy=False)
    return {s: sum(t.state.name == s for t in trials) for s in ("COMPLETE", "RUNNING")}


@by_fire
def a_small_disk_as_cache(folder: Path) -> Outcome:
    """Full in the middle of an extraction; then with room."""
    with small_disk(folder / "disk") as disk:
        ballast = fill(disk, leave=25_000_000)
        began = time.monotonic()
        error = one_error(search(folder / "studies", disk / "cache"))
        seconds = time.monotonic() - began
        rows = sum(table.num_rows for table in FeatureStore(disk / "cache" / "features").usage())
        damaged = sum(map(len, FeatureStore(disk / "cache" / "features").verify().values()))
        bad = torn(disk) + torn(folder / "studies")
        ballast.unlink()
        again = search(folder / "studies", disk / "cache")
        states = finished(folder / "studies" / "elpv")
    holds = bool(error) and not bad and not damaged and again.returncode == 0 and states["COMPLETE"] >= TRIALS
    return Outcome(
        f"ended after {seconds:.0f} s with {error!r}; {rows:,} rows recorded, {damaged} damaged, {len(bad)} torn files "
        f"{bad[:5] or ''}; with room: exit {again.returncode}, {states['COMPLETE']} trials complete, "
        f"{states['RUNNING']} running",
        "a clear error, no torn file, the search resumes when there is room",
        holds,
    )


@by_fire
def a_small_disk_for_the_study(folder: Path) -> Outcome:
    """With room for nothing, for the journal's beginning, for trials and no model; at last for all."""
    told, bad, complete = [], [], [0]
    with small_disk(folder / "disk") as disk:
        for leave in (20_000, 200_000, 1_500_000, 9_000_000):
            ballast = fill(disk, leave)
            error = one_error(search(disk / "studies", folder / "cache"))
            told.append(f"{leave / 1000:,.0f} kB: {error[:90] or 'NO CLEAR ERROR'}…")
            bad += torn(disk) + ([] if error else [f"unclear at {leave}"])
            ballast.unlink()
            if (disk / "studies" / "elpv" / "journal.log").exists():
                complete.append(finished(disk / "studies" / "elpv")["COMPLETE"])
        again = search(disk / "studies", folder / "cache")
        states = finished(disk / "studies" / "elpv")
        model = disk / "studies" / "elpv" / "model" / "model.json"
        holds = not bad and again.returncode == 0 and model.exists() and states["COMPLETE"] >= max(TRIALS, *complete)
        saved = "there" if model.exists() else "missing"
    return Outcome(
        f"with {'; '.join(told)} {len(bad)} torn files {bad[:5] or ''}; with room: exit {again.returncode}, "
        f"{states['COMPLETE']} trials complete, {states['RUNNING']} running, model {saved}",
        "a clear error, no torn file, the search resumes when there is room",
        holds and complete == sorted(complete),
    )


@by_fire
def files_from_strangers(folder: Path) -> Outcome:
    """The test suite's traps, counted."""
    tests = Path(__file__).resolve().parents[1]
    traps = (str(tests / "test_strangers.py"), str(tests / "model" / "test_hostile_models.py"))
    command = [sys.executable, "-m", "pytest", *traps, "-k", "hostile", "-p", "no:cacheprovider"]
    process = subprocess.run(
        [*command, "--basetemp", str(folder / "pytest")], capture_output=True, text=True, timeout=600
    )
    passed = re.search(r"(\d+) passed", process.stdout)
    number = int(passed[1]) if passed else 0
    return Outcome(
        f"{number} hostile model folders, study files, manifests and studies refused, exit {process.returncode}",
        "at least 25, each refused with its own message; nothing outside the folder is read or written",
        number >= 25 and process.returncode == 0,
    )
