"""Many workers on one journal."""

import time
from pathlib import Path

from fire import Outcome, by_fire
from searching import Study


@by_fire
def eight_workers_50_trials_each(folder: Path) -> Outcome:
    """Eight workers and 400 no-op trials on one journal."""
    study = Study(folder)
    began = time.monotonic()
    process = study.search("--devices", "cpu*8", "--trials", "400", "--json")
    process.communicate(timeout=600)
    seconds = time.monotonic() - began
    numbers = [trial.number for trial in study.trials()]
    states = study.states()
    finished = states["COMPLETE"] + states["PRUNED"]
    without_gaps = numbers == list(range(len(numbers)))
    gaps = "without gaps" if without_gaps else "with gaps"
    return Outcome(
        f"{finished} finished of {len(numbers)}, numbers {gaps}, {seconds:.0f} s, exit {process.returncode}",
        "400 finished, numbers without gaps, under 60 s",
        finished == len(numbers) == 400 and without_gaps and seconds < 60 and process.returncode == 0,
    )
