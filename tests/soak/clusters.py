"""Searches on a Dask cluster of this machine whose hosts can't read the study, while its processes are killed."""

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fire import Outcome, by_fire
from hosts import Cluster, wait_for
from searching import Study, alive, children

TRIALS_A_RUN, HOSTS = 12, 2
REPEATS = int(os.environ.get("AUTOTL_SOAK_REPEATS", "5"))
"""Kills of each sort of process."""


def _cluster(folder: Path, study: Study) -> Cluster:
    for path in (study.output, Path(study.environment["AUTOTL_CACHE"])):
        path.mkdir(exist_ok=True)
    hidden = [study.output, study.photos, Path(study.environment["AUTOTL_CACHE"])]
    return Cluster(folder / "hosts", HOSTS, random.randrange(20000, 30000), hidden, study.environment)


@dataclass(frozen=True)
class Strike:
    """What is done to a cluster while a search runs on it.

    Args:
        run: strikes, given the cluster and the process id of the coordinator.
        costs: trials that it may cost at most.
        ends_search: the same command is run again, as often as it takes.
    """

    run: Callable[[Cluster, int], None]
    costs: int = 1
    ends_search: bool = False


def _run(folder: Path, strike: Strike) -> tuple[bool, str]:
    """One search that is struck once; whether it held, and what happened."""
    folder.mkdir(parents=True, exist_ok=True)
    study = Study(folder)
    cluster = _cluster(folder, study)
    try:
        process = study.search(*_options(cluster), seconds=2.0)
        wait_for(lambda: process.poll() is not None or _complete(study) >= 2, 600)
        begun = process.poll() is None and all(map(cluster.trials, cluster.hosts))
        if not begun:
            process.kill()
            return False, f"the search has not begun: {process.communicate()[0][-1500:]}"
        mine = [pid for name in cluster.hosts for pid in cluster.trials(name)] + children(process.pid)
        strike.run(cluster, process.pid)
        orphans, events = 0, []
        if strike.ends_search:
            output, _ = process.communicate(timeout=600)
            events = _finished(output)
            wait_for(lambda: not any(map(alive, mine)), 10)
            orphans = sum(map(alive, mine))
            if not alive(cluster.processes["scheduler"].pid):
                cluster.close()
                cluster = _cluster(folder, study)
            process = study.search(*_options(cluster), seconds=0.5)
        output, _ = process.communicate(timeout=900)
        events += _finished(output)
        return _verdict(study, strike, process.returncode, orphans, events, output)
    finally:
        cluster.close()


def _options(cluster: Cluster) -> tuple[str, ...]:
    return "--devices", f"dask:{cluster.address}", "--trials", str(TRIALS_A_RUN)


def _finished(output: str) -> list[int]:
    """The numbers of the trials that a search told its user, in order."""
    events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return [event["number"] for event in events if event["event"] == "trial_finished"]


def _verdict(study: Study, strike: Strike, code: int, orphans: int, told: list[int], output: str) -> tuple[bool, str]:
    trials, states = study.trials(), study.states()
    lost = {trial.number for trial in trials if trial.state.name == "FAIL"}
    again = Counter(t.user_attrs.get("retry_of", t.user_attrs.get("resumes")) for t in trials)
    again.pop(None, None)
    # what a search that ended left running is beyond the number of trials that was asked for
    resumed = sum("resumes" in trial.user_attrs for trial in trials)
    held = {
        "exit 0": code == 0,
        "no orphan": not orphans,
        "no trial too many lost": len(lost) <= strike.costs,
        "each tried again once": again == Counter(lost),
        "all trials are over": sum(states[name] for name in ("COMPLETE", "PRUNED", "FAIL")) == TRIALS_A_RUN + resumed,
        "none twice": len(told) == len(set(told)),
        "result.json agrees": study.agrees(),
    }
    broken = [promise for promise, kept in held.items() if not kept]
    said = f", NOT: {', '.join(broken)}: {output[-1500:]}" if broken else ""
    return not broken, f"{dict(states)}, {sum(again.values())} tried again, {orphans} orphans, exit {code}{said}"


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


def _stop_a_host(cluster: Cluster, coordinator: int) -> None:
    """A host stops for 30 s."""
    pids = [cluster.processes["host0"].pid, *cluster.family("host0")]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(30)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def _repeat(folder: Path, strike: Strike) -> Outcome:
    runs = []
    for number in range(REPEATS):
        runs.append(_run(folder / str(number), strike))
        print(f"  {number}: {runs[-1]}", flush=True)
    target = f"each costs at most {strike.costs} trials, tried again once; nothing twice; no orphan after 10 s; a model"
    return Outcome("; ".join(text for _, text in runs), target, all(held for held, _ in runs))


@by_fire
def dask_trial_killed(folder: Path) -> Outcome:
    """`kill -9` of a trial's process on a host."""
    return _repeat(folder, Strike(_kill("trial")))


@by_fire
def dask_worker_killed(folder: Path) -> Outcome:
    """`kill -9` of a Dask worker."""
    return _repeat(folder, Strike(_kill("worker")))


@by_fire
def dask_nanny_killed(folder: Path) -> Outcome:
    """`kill -9` of a nanny, and with it of its host."""
    return _repeat(folder, Strike(_kill("nanny")))


@by_fire
def dask_scheduler_killed(folder: Path) -> Outcome:
    """`kill -9` of the scheduler; the search ends, and the same command resumes on a new one."""
    return _repeat(folder, Strike(_kill("scheduler"), costs=HOSTS, ends_search=True))


@by_fire
def dask_coordinator_killed(folder: Path) -> Outcome:
    """`kill -9` of the coordinator; the same command resumes."""
    return _repeat(folder, Strike(_kill("coordinator"), costs=HOSTS, ends_search=True))


@by_fire
def dask_host_stopped(folder: Path) -> Outcome:
    """SIGSTOP of a host for 30 s."""
    return _repeat(folder, Strike(_stop_a_host))
