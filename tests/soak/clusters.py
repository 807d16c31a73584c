"""Searches on a Dask cluster of this machine whose hosts can't read the study, while its processes are killed."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from fire import Outcome, by_fire
from hosts import Cluster, command_of, wait_for
from searching import Study, alive

TRIALS_A_RUN, HOSTS = 12, 2
REPEATS = int(os.environ.get("AUTOTL_SOAK_REPEATS", "5"))
"""Kills of each sort of process."""


def _cluster(folder: Path, study: Study) -> Cluster:
    for path in (study.output, Path(study.environment["AUTOTL_CACHE"])):
        path.mkdir(exist_ok=True)
    hidden = [study.output, study.photos, Path(study.environment["AUTOTL_CACHE"])]
    return Cluster(folder / "hosts", HOSTS, random.randrange(20000, 30000), hidden, study.environment)


def _run(folder: Path, strike: Callable[[Cluster, int], None], *, resumes: bool) -> tuple[bool, str]:
    """One search that is struck once; whether it held, and what happened."""
    folder.mkdir(parents=True, exist_ok=True)
    study = Study(folder)
    cluster = _cluster(folder, study)
    options = ("--devices", f"dask:{cluster.address}", "--trials", str(TRIALS_A_RUN))
    try:
        process = study.search(*options, seconds=2.0)
        begun = wait_for(lambda: _complete(study) >= 2, 600)
        family = [pid for name in cluster.processes for pid in cluster.family(name)]
        trials_then = [pid for pid in family if "autotl.trial.worker" in command_of(pid)]
        strike(cluster, process.pid)
        if resumes:
            process.wait(600)
            orphans = not wait_for(lambda: not any(alive(pid) for pid in trials_then), 10)
            if "scheduler" not in cluster.processes or cluster.processes["scheduler"].poll() is not None:
                cluster.close()
                cluster = _cluster(folder, study)
                options = ("--devices", f"dask:{cluster.address}", "--trials", str(TRIALS_A_RUN))
            process = study.search(*options, seconds=0.5)
        else:
            orphans = False
        output, _ = process.communicate(timeout=900)
        states = study.states()
        lost = [t for t in study.trials() if t.state.name == "FAIL"]
        retried = sum("retry_of" in t.user_attrs or "resumes" in t.user_attrs for t in study.trials())
        held = begun and process.returncode == 0 and not states["RUNNING"] and len(lost) <= HOSTS and not orphans
        held = held and study.agrees()
        said = "" if held else output[-300:]
        return held, f"{dict(states)}, {retried} tried again, orphans: {orphans}, exit {process.returncode} {said}"
    finally:
        cluster.close()


def _complete(study: Study) -> int:
    try:
        return study.states()["COMPLETE"]
    except Exception:  # there is no study yet
        return 0


def _kill(what: str) -> Callable[[Cluster, int], None]:
    def strike(cluster: Cluster, coordinator: int) -> None:
        if what == "coordinator":
            pid: int | None = coordinator
        elif what == "scheduler":
            pid = cluster.processes["scheduler"].pid
        else:
            pid = cluster.pid("host0", what)
        assert pid is not None, f"there is no {what}"
        os.kill(pid, signal.SIGKILL)

    return strike


def _partition(cluster: Cluster, coordinator: int) -> None:
    """A host stops for 30 s."""
    pids = [cluster.processes["host0"].pid, *cluster.family("host0")]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(30)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def _repeat(folder: Path, strike: Callable[[Cluster, int], None], *, resumes: bool = False) -> Outcome:
    runs = [_run(folder / str(number), strike, resumes=resumes) for number in range(REPEATS)]
    target = "each strike costs at most the trials that ran, retried; none RUNNING; no orphan after 10 s; a model"
    return Outcome("; ".join(text for _, text in runs), target, all(held for held, _ in runs))


@by_fire
def dask_trial_killed(folder: Path) -> Outcome:
    """`kill -9` of a trial's process on a host."""
    return _repeat(folder, _kill("trial"))


@by_fire
def dask_worker_killed(folder: Path) -> Outcome:
    """`kill -9` of a Dask worker."""
    return _repeat(folder, _kill("worker"))


@by_fire
def dask_nanny_killed(folder: Path) -> Outcome:
    """`kill -9` of a nanny, and with it of its host."""
    return _repeat(folder, _kill("nanny"))


@by_fire
def dask_scheduler_killed(folder: Path) -> Outcome:
    """`kill -9` of the scheduler; the search ends, and the same command resumes on a new one."""
    return _repeat(folder, _kill("scheduler"), resumes=True)


@by_fire
def dask_coordinator_killed(folder: Path) -> Outcome:
    """`kill -9` of the coordinator; the same command resumes."""
    return _repeat(folder, _kill("coordinator"), resumes=True)


@by_fire
def dask_host_stopped(folder: Path) -> Outcome:
    """SIGSTOP of a host for 30 s."""
    return _repeat(folder, _partition)
