"""What searches are worth on the development sets, paired: this checkout against another revision of itself, or against
a results file that was kept. `make bench-accuracy`, or `python tests/bench/accuracy.py --budget 60s --against REV`.

Each set is split anew for each seed: a quarter of its images to test on, stratified, near-duplicates on one side. Both
sides search the same images one after the other, in alternating order, and share nothing: each has a cache of its own,
in which features are recorded once across splits. Its first search in a set, which records them, isn't counted (--cold
counts it and empties the cache before each search).

Every search is a row of the results file, which is written at once: the same command goes on where it was ended.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_report import plot, tables
from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
SETS = {
    "hymenoptera": "hymenoptera",
    "sign-digits": "sign-digits",
    "cifar10-mini": "cifar10-mini",
    "dtd-10": "dtd-10",
    "magnetic-tile": "magnetic-tile",
    "clothing": "clothing",
    "elpv": None,
    "flowers-128": "flowers-128",
}
"""The development sets: their folders in --data, None for a dataset that a plugin registers under its name."""
TEST_FOLDS = 4
OVERTIME = 900.0
"""Seconds after its budget in which a search is ended."""


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    unknown = sorted(set(options.sets) - set(SETS))
    if unknown:
        print(f"There is no set {', '.join(unknown)}. There are: {', '.join(SETS)}")
        return 2
    options.work.mkdir(parents=True, exist_ok=True)
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    frozen = json.loads(Path(options.against).read_text()) if str(options.against).endswith(".json") else []
    here = _revision(ROOT)
    with _checkouts(None if frozen else options.against) as checkouts:
        revisions = {_revision(checkout): checkout for checkout in checkouts}
        for name in options.sets or SETS:
            for seed in range(options.splits):
                manifest = _manifest(name, seed, options)
                for revision, checkout in list(revisions.items())[:: -1 if seed % 2 else 1]:
                    key = {"set": name, "seed": seed, "budget": options.budget, "revision": revision}
                    if any(key.items() <= row.items() for row in rows):
                        continue
                    cache = options.work / "cache" / f"{revision}-{name}"
                    if options.cold:
                        shutil.rmtree(cache, ignore_errors=True)
                    elif not cache.exists():
                        print(f"{name}: {revision} records features", file=sys.stderr, flush=True)
                        _search(checkout, manifest, seed, cache, options)
                    row = key | _search(checkout, manifest, seed, cache, options)
                    print(f"{name} split {seed}: {revision} {_in_short(row)}", file=sys.stderr, flush=True)
                    rows.append(row)
                    options.out.write_text(json.dumps(rows, indent=1) + "\n")
    before = frozen[0]["revision"] if frozen else next((name for name in revisions if name != here), None)
    rows += frozen
    chosen = [row for row in rows if row["budget"] == options.budget and row["revision"] in (here, before)]
    console = Console(width=150)
    for table in tables(chosen, here, before):
        console.print(table)
    options.out.with_suffix(".svg").write_text(plot(chosen, here, before))
    return 1 if any("error" in row for row in chosen) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("accuracy.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sets", nargs="*", default=[], metavar="SET", help=f"By default all: {', '.join(SETS)}.")
    parser.add_argument("--splits", type=int, default=5, help="Seeded splits of each set.")
    parser.add_argument("--budget", default="60s", help="--time of each search.")
    parser.add_argument("--against", help="A revision (of git) or a results file (.json). By default nothing.")
    parser.add_argument("--cold", action="store_true", help="Empty caches before each search.")
    parser.add_argument("--devices", default="auto", help="As of autotl search.")
    parser.add_argument("--data", type=Path, default=DATA, help="The folder of the development sets.")
    parser.add_argument("--out", type=Path, default=Path("bench-accuracy.json"), help="The results file.")
    parser.add_argument(
        "--work", type=Path, default=Path("bench-accuracy"), help="A folder for caches, manifests and studies."
    )
    return parser


@contextmanager
def _checkouts(against: str | None) -> Iterator[list[Path]]:
    """This checkout and, for the time of the run, a worktree of another revision."""
    if against is None:
        yield [ROOT]
        return
    with tempfile.TemporaryDirectory(prefix="autotl-revision-") as folder:
        place = Path(folder) / "checkout"
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", place, against], check=True)
        try:
            yield [ROOT, place]
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", place], check=False)


def _revision(checkout: Path) -> str:
    """The commit, and whether files differ from it."""
    git = ["git", "-C", str(checkout)]
    commit = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], check=True, capture_output=True, text=True)
    changes = subprocess.run(
        [*git, "status", "--porcelain", "--", "autotl"], check=True, capture_output=True, text=True
    )
    return commit.stdout.strip() + ("+" if changes.stdout.strip() else "")


def _manifest(name: str, seed: int, options: argparse.Namespace) -> Path:
    """The split of a set as a manifest, written once: both sides read the same. The images are copied beside it,
    since older revisions take no paths from elsewhere."""
    file: Path = options.work / "manifests" / f"{name}-{seed}.csv"
    if file.exists():
        return file.absolute()
    from sklearn.model_selection import StratifiedGroupKFold

    from autotl.data.loading import load_dataset
    from autotl.registry import load_registry

    folder = SETS[name]
    dataset = load_dataset(str(options.data / folder) if folder else name, load_registry().datasets)
    units = dataset.lookalikes or range(len(dataset))
    splitter = StratifiedGroupKFold(TEST_FOLDS, shuffle=True, random_state=seed)
    _, test = next(splitter.split(dataset.labels, dataset.labels, units))
    tested = set(test.tolist())
    copies = file.parent / name
    copies.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as page:
        writer = csv.writer(page)
        writer.writerow(["path", "label", "split"])
        for i, (path, label) in enumerate(zip(dataset.paths, dataset.labels, strict=True)):
            copy = copies / f"{i}{path.suffix}"
            if not copy.exists():
                shutil.copyfile(path, copy)
            writer.writerow([f"{name}/{copy.name}", dataset.classes[label], "test" if i in tested else "train"])
    return file.absolute()


def _search(checkout: Path, manifest: Path, seed: int, cache: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run one search in a process with the code of a checkout; what a row holds of it."""
    with tempfile.TemporaryDirectory(prefix="autotl-study-") as output:
        command = [sys.executable, "-m", "autotl", "search", str(manifest), "--time", options.budget, "--name", "bench"]
        command += ["--seed", str(seed), "--output", output, "--cache", str(cache.absolute())]
        command += ["--devices", options.devices]
        began, started = time.monotonic(), datetime.now()
        # plugins are of the checkout, too: those of another revision speak another language
        places = [checkout, *sorted((checkout / "plugins").glob("autotl-*"))]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
        try:
            done = subprocess.run(
                command, cwd=checkout, env=environment, capture_output=True, text=True, check=False,
                timeout=_seconds(options.budget) + OVERTIME,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"error": f"not done {OVERTIME:.0f} s after its time"}
        seconds, folder = time.monotonic() - began, Path(output) / "bench"
        if done.returncode or not (folder / "result.json").exists():
            return {"error": f"exit {done.returncode}: {(done.stdout + done.stderr).strip()[-300:]}"}
        result = json.loads((folder / "result.json").read_text())
        predicted, total = (result["test"] or {}).get("n", 0), result["images"]["test"]
        if predicted < total:
            return {"error": f"there was time to predict {predicted} of {total} test images"}
        return _row(result, seconds) | {"curve": _curve(folder, started)}


def _row(result: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    test, chosen = result["test"] or {}, result.get("validation") or {}  # older revisions have none
    return {
        **{name: test.get(name) for name in ("accuracy", "balanced_accuracy", "log_loss", "n")},
        "chosen": chosen.get("accuracy", result["best"]["validation"]),
        "seconds": round(seconds, 1),
        "trials": result["trials"],
    }


def _curve(folder: Path, started: datetime) -> list[tuple[float, float]]:
    """Seconds from the start of the search, and the best score of a trial that was complete by then."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    [summary] = storage.get_all_studies()
    trials = storage.get_all_trials(summary._study_id, states=(optuna.trial.TrialState.COMPLETE,))
    curve: list[tuple[float, float]] = []
    for trial in sorted(trials, key=lambda trial: trial.datetime_complete or started):
        if trial.value is not None and trial.datetime_complete and (not curve or trial.value > curve[-1][1]):
            curve.append((round((trial.datetime_complete - started).total_seconds(), 1), round(trial.value, 4)))
    return curve


def _seconds(budget: str) -> float:
    from autotl.config import StudyConfig

    return float(StudyConfig(data="x", time=budget).time or 0)


def _in_short(row: Mapping[str, Any]) -> str:
    if "error" in row:
        return str(row["error"])
    first = row["curve"][0][0] if row["curve"] else float("nan")
    scores = f"accuracy {row['accuracy']:.3f}, log loss {row['log_loss']:.3f}, chosen {row['chosen']:.3f}"
    return f"{scores}, {np.sum(list(row['trials'].values()))} trials, first after {first:.0f} s"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
