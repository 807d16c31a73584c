"""The same search on workers of this machine and on as many of Dask: as many trials, and features recorded once."""

import json
import os
import random
import time
from pathlib import Path
from statistics import mean

import numpy as np
from fire import Outcome, by_fire
from hosts import Cluster
from searching import Study

from autotl.features.index import RECORD
from autotl.features.pool import FeaturePool

TRIALS_A_RUN = int(os.environ.get("AUTOTL_SOAK_TRIALS", "100"))
TURNS, LEAST = 2, 0.9
PARTS = ("--strategy", "fast_extraction")


def _run(folder: Path, devices: str) -> dict[str, float]:
    """What a search comes to."""
    folder.mkdir()
    study = Study(folder)
    cluster = None
    if devices == "dask:tcp":
        cluster = Cluster(folder / "hosts", 1, random.randrange(20000, 30000), [], study.environment, num_workers=4)
        devices = f"dask:{cluster.address}"
        time.sleep(20)  # it is there before the search
    try:
        process = study.search("--devices", devices, "--trials", str(TRIALS_A_RUN), parts=PARTS)
        output, _ = process.communicate(timeout=600)
    finally:
        if cluster:
            cluster.close()
    assert process.returncode == 0, output[-1500:]
    ended = sorted(t.datetime_complete for t in study.trials() if t.datetime_complete)
    result = json.loads((study.folder / "result.json").read_text())
    first = (ended[0] - min(t.datetime_start for t in study.trials() if t.datetime_start)).total_seconds()
    return {
        "seconds": result["seconds"],
        "a minute": 60 * (len(ended) - 1) / (ended[-1] - ended[0]).total_seconds(),
        "failed": result["trials"]["failed"],
        "members": len(list((study.folder / "model" / "members").iterdir())),
        "validation": result["validation"]["accuracy"],
        "seconds of the first": first,
        "rows recorded twice": _twice(Path(study.environment["AUTOTL_CACHE"])),
    }


def _twice(cache: Path) -> int:
    """Rows of features beyond one for each image."""
    tables = [np.fromfile(file, RECORD)["digest"] for file in (cache / "features").glob("*/index.bin")]
    assert tables, "no features were recorded"
    return sum(len(digests) - len(np.unique(digests, axis=0)) for digests in tables)


@by_fire
def four_dask_workers_against_four_local(folder: Path) -> Outcome:
    """In turn, twice; `dask:tcp`, once, is a scheduler and four Dask workers in processes. Needs the machine for
    itself."""
    runs: dict[str, list[dict[str, float]]] = {"cpu*4": [], "dask:local*4": [], "dask:tcp": []}
    for turn in range(TURNS):
        for number, (devices, found) in enumerate(runs.items()):
            if devices == "dask:tcp" and turn:
                continue
            found.append(_run(folder / f"{turn}-{number}", devices))
            print(f"  {devices}: {found[-1]}", flush=True)

    def share(devices: str, what: str) -> float:
        return mean(run[what] for run in runs[devices]) / mean(run[what] for run in runs["cpu*4"])

    every = [run for found in runs.values() for run in found]
    clean = all(not run["rows recorded twice"] and not run["failed"] and run["members"] for run in every)
    shares = {devices: (share(devices, "a minute"), share(devices, "seconds")) for devices in runs}
    told = [f"{devices} {minute:.2f} ({seconds:.2f} of the time)" for devices, (minute, seconds) in shares.items()]
    figure = f"trials a minute from the first of {TRIALS_A_RUN} to the last: {', '.join(told)}; "
    figure += "; ".join(f"{devices} {run}" for devices, found in runs.items() for run in found)
    held = clean and min(minute for minute, _ in shares.values()) >= LEAST
    return Outcome(figure, f"at least {LEAST} of the trials a minute of cpu*4", held)


@by_fire
def two_hosts_record_features_once(folder: Path) -> Outcome:
    """Two hosts that can read neither study nor images share a pool: no image is extracted twice."""
    study = Study(folder)
    hidden = [study.output, study.photos, Path(study.environment["AUTOTL_CACHE"])]
    for path in hidden:
        path.mkdir(exist_ok=True)
    cluster = Cluster(folder / "hosts", 2, random.randrange(20000, 30000), hidden, study.environment)
    try:
        pool = f"file://{folder}/pool"
        options = ("--devices", f"dask:{cluster.address}", "--trials", "8", "--pool", pool)
        process = study.search(*options, parts=(*PARTS, "--head", "ridge", "--joined", "1"))
        output, _ = process.communicate(timeout=600)
        states = study.states()
        here = [_recorded(cluster.processes[name].pid, hidden[-1]) for name in cluster.hosts]
    finally:
        cluster.close()
    rows = sum(found.num_rows for found in FeaturePool(pool).verify())
    used = {trial.user_attrs.get("device") for trial in study.trials()}
    figure = f"{dict(states)} on {len(used)} hosts, {rows} rows in the pool, {here} in the hosts' caches"
    held = process.returncode == 0 and rows == 60 and here == [[60], [60]] and len(used) == 2
    said = "" if held else output[-1500:]
    return Outcome(f"{figure} {said}", "60 images are extracted once, and both hosts have all of them", held)


def _recorded(host: int, cache: Path) -> list[int]:
    """Rows of each table in a host's cache, which that host alone can see."""
    return [len(np.fromfile(file, RECORD)) for file in Path(f"/proc/{host}/root{cache}/features").glob("*/index.bin")]
