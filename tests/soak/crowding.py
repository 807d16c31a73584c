"""Many workers on one journal, and many trials in one worker."""

import os
import statistics
import time
from pathlib import Path

from fire import Outcome, by_fire
from searching import Study, children


@by_fire
def eight_workers_50_trials_each(folder: Path) -> Outcome:
    """Eight workers and 400 no-op trials on one journal."""
    study = Study(folder)
    began = time.monotonic()
    process = study.search("--devices", "cpu*8", "--trials", "400")
    process.communicate(timeout=600)
    seconds = time.monotonic() - began
    numbers = [trial.number for trial in study.trials()]
    states = study.states()
    finished = states["COMPLETE"] + states["PRUNED"]
    without_gaps = numbers == list(range(len(numbers)))
    gaps = "without gaps" if without_gaps else "with gaps"
    return Outcome(
        f"{finished} finished, {states['WAITING']} queued beyond them, numbers {gaps}, {seconds:.0f} s, "
        f"exit {process.returncode}",
        "400 finished, numbers without gaps, under 60 s",
        finished == 400 == len(numbers) - states["WAITING"]
        and without_gaps
        and seconds < 60
        and process.returncode == 0,
    )


@by_fire
def memory_of_a_worker_over_200_trials(folder: Path) -> Outcome:
    """Real heads on recorded features, one worker: its resident memory after the 20th trial, and at its end."""
    study, resident, pids = Study(folder), [], set()
    heads = ("linear", "mlp", "logistic_regression", "rbf_svm")
    parts = ("--strategy", "fast_extraction", *(word for head in heads for word in ("--head", head)))
    process = study.search("--devices", "cpu", "--trials", "200", parts=parts)
    for line in process.stdout:
        if line.startswith('{"event": "trial_finished"'):
            pid = next(p for p in children(process.pid) if Path(f"/proc/{p}/comm").read_text() == "autotl cpu:0\n")
            pids.add(pid)
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            resident.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
    process.wait(60)
    early, late = statistics.median(resident[15:25]), statistics.median(resident[-10:])
    return Outcome(
        f"{len(resident)} trials in {len(pids)} process: {early:.0f} MiB after 20, {late:.0f} MiB at the end, "
        f"{late / early - 1:+.1%}",
        "grows by less than 10 % after the first 20",
        len(resident) == 200 and len(pids) == 1 and late < 1.1 * early,
    )
