"""How much sooner a search that measures alignment reaches the final score of one that doesn't, paired:
`python tests/bench/warm_start.py --data FOLDER --work FOLDER --out FILE --time 60s SET…`.

Each pair searches the same images with the same seed, one after the other in alternating order, each with an empty
cache. The score is the best one of a complete trial on all images, of those that compare with scores out of fold. A
time counts from the command, and a score that isn't reached counts as infinite. Every search is written to the file at
once: the same command goes on where it was ended.
"""

import argparse
import csv
import json
import math
import shutil
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from autotl.study.study import load_study

SIDES = {"plain": "--no-align", "aligned": "--align"}


def search(name: str, side: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """What a search found: its complete trials as (seconds after the command, score, what it is of, recipe), and its
    test accuracy."""
    folder = options.work / f"{name}-{seed}-{side}"
    shutil.rmtree(folder, ignore_errors=True)
    data = name if name == "elpv" else str(options.data / name)
    command = [sys.executable, "-m", "autotl", "search", data, "--time", options.time, "--seed", str(seed), "--quiet"]
    command += ["--name", side, "--output", str(folder), "--cache", str(folder / "cache"), SIDES[side]]
    began, clock = datetime.now(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - clock
    ended = {
        trial.number: (trial.datetime_complete - began).total_seconds()
        for trial in load_study(folder / side).trials
        if trial.datetime_complete is not None
    }
    with (folder / side / "leaderboard.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["scored_on"] != "a sample"]
    trials = [
        [ended[int(row["trial"])], float(row["comparable"]), row["scored_on"], row["description"]] for row in rows
    ]
    result = json.loads((folder / side / "result.json").read_text())
    was_measured = (folder / side / "alignment.json").exists()
    shutil.rmtree(folder / "cache")
    return {
        "set": name,
        "seed": seed,
        "side": side,
        "time": options.time,
        "wall": wall,
        "trials": sorted(trials),
        "measured": was_measured,
        "test": (result["test"] or {}).get("accuracy"),
    }


def reached(plain: dict[str, Any], aligned: dict[str, Any]) -> tuple[float, float]:
    """Seconds until the final score of the plain search, in each."""
    final = max(score for _, score, *_ in plain["trials"])
    first = [
        min((seconds for seconds, score, *_ in row["trials"] if score >= final), default=math.inf)
        for row in (plain, aligned)
    ]
    return first[0], first[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--time", default="60s")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    ratios = []
    for number, name in enumerate(options.sets):
        pair = {}
        for side in list(SIDES)[:: 1 if number % 2 else -1]:
            key = {"set": name, "seed": options.seed, "side": side, "time": options.time}
            found = next((row for row in rows if key.items() <= row.items()), None)
            if found is None:
                found = search(name, side, options.seed, options)
                rows.append(found)
                options.out.write_text(json.dumps(rows))
            pair[side] = found
        plain, aligned = reached(pair["plain"], pair["aligned"])
        ratios.append(aligned / plain)
        best = [max(score for _, score, *_ in pair[side]["trials"]) for side in SIDES]
        print(
            f"{name:14} measured {pair['aligned']['measured']}: {plain:.1f} s plain, {aligned:.1f} s aligned, ratio "
            f"{ratios[-1]:.2f}; final {best[0]:.4f} and {best[1]:.4f}, test {pair['plain']['test']} and "
            f"{pair['aligned']['test']}, trials {len(pair['plain']['trials'])} and {len(pair['aligned']['trials'])}",
            flush=True,
        )
    print(f"median ratio {np.median(ratios):.2f}")


if __name__ == "__main__":
    main()
