"""Searches on a Dask cluster of this machine whose hosts can't read the study, while its processes are killed."""

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from fire import Outcome, by_fire
from hosts import Cluster, wait_for
from searching import Output, Study, alive, children

from autotl.study.trials import params_of

HOSTS, TRIALS_BETWEEN, TRIAL_SECONDS = 2, 2, 4.0
REPEATS = int(os.environ.get("AUTOTL_SOAK_REPEATS", "5"))
"""Strikes of each sort, one after another during one search."""
TRIALS_A_RUN = 30 * (REPEATS + 1)
"""More than a search gets done between the strikes. After the last one trials take no time."""
GRACE = 10.0
"""Seconds after which no process may be left of what was killed."""


@dataclass(frozen=True)
class Strike:
    """What is done to a cluster while a search runs on it.

    Args:
        kills: the process that is killed: trial, worker, nanny, scheduler or coordinator; "" where the host is stopped.
        costs: trials that it may cost at most.
    """

    kills: str
    costs: int = 1

    @property
    def ends_search(self) -> bool:
        """Whether the same command is run again after it."""
        return self.kills in {"scheduler", "coordinator"}


class Siege:
    """A search on a cluster of its own, and what is done to it."""

    def __init__(self, folder: Path, strike: Strike):
        self.folder, self.strike = folder, strike
        self.study = Study(folder)
        self.no_more = folder / "no-more-strikes"
        pauses = {"AUTOTL_NOOP_SECONDS": str(TRIAL_SECONDS), "AUTOTL_NOOP_UNTIL": str(self.no_more)}
        self.study.environment |= pauses
        self.cluster = self._cluster()
        self.process, self.reader = self._search()
        self.told: list[int] = []
        self.output = ""
        self.orphans = self.num_strikes = 0

    def _cluster(self) -> Cluster:
        cache = Path(self.study.environment["AUTOTL_CACHE"])
        for path in (self.study.output, cache):
            path.mkdir(exist_ok=True)
        hidden, port = [self.study.output, self.study.photos, cache], random.randrange(20000, 30000)
        return Cluster(self.folder / "hosts", HOSTS, port, hidden, self.study.environment)

    def _search(self) -> tuple[subprocess.Popen[str], Output]:
        options = ("--devices", f"dask:{self.cluster.address}", "--trials", str(TRIALS_A_RUN))
        process = self.study.search(*options)
        return process, Output(process)

    def run(self) -> Outcome:
        """Strike, and let the search end."""
        try:
            while self.num_strikes < REPEATS and (host := self._await_busy_host()):
                self.num_strikes += 1
                self._strike(host)
            self.no_more.touch()
            self._await_end()
            return self._outcome()
        finally:
            self.cluster.close()

    def _await_busy_host(self) -> str:
        """The host of a trial that is half done, after some more trials are complete, and once all hosts have workers
        again; "" where the search has ended."""
        enough = self._num_complete() + TRIALS_BETWEEN
        while self.process.poll() is None:
            ready = self._num_complete() >= enough and all(map(self.cluster.trials, self.cluster.hosts))
            if ready and (host := self._busy_host()):
                return host
            time.sleep(0.05)
        return ""

    def _num_complete(self) -> int:
        try:
            return self.study.states()["COMPLETE"]
        except Exception:  # there is no study yet
            return 0

    def _busy_host(self) -> str:
        """Any host, while all of them are in the middle of a trial: which trial is where, a trial says at its end."""
        running = [trial for trial in self.study.trials() if trial.state.name == "RUNNING"]
        is_amid = len(running) == HOSTS and all(1 <= len(trial.intermediate_values) <= 5 for trial in running)
        return random.choice(self.cluster.hosts) if is_amid else ""

    def _strike(self, host: str) -> None:
        if not self.strike.kills:
            return self._stop(host)
        pid = self._victim(host)
        above = {"scheduler": [], "coordinator": [self.process.pid]}.get(self.strike.kills, [pid])
        family = [pid, *(below for one in above for below in children(one))]
        if self.strike.ends_search:
            family += [trial for name in self.cluster.hosts for trial in self.cluster.trials(name)]
        os.kill(pid, signal.SIGKILL)
        if self.strike.ends_search:
            self._await_end()
        wait_for(lambda: not any(map(alive, family)), GRACE)
        self.orphans += sum(map(alive, family))
        if self.strike.kills == "nanny":
            self.cluster.processes[host].wait()
            self.cluster.start_host(int(host.removeprefix("host")))
        elif self.strike.kills == "scheduler":
            self.cluster.close()
            self.cluster = self._cluster()
        if self.strike.ends_search:
            self.process, self.reader = self._search()

    def _victim(self, host: str) -> int:
        if self.strike.kills == "coordinator":
            return self.process.pid
        if self.strike.kills == "scheduler":
            return self.cluster.processes["scheduler"].pid
        pid = self.cluster.pid(host, self.strike.kills)
        assert pid is not None, f"there is no {self.strike.kills}"
        return pid

    def _stop(self, host: str) -> None:
        """A host stops for 30 s."""
        pids = [self.cluster.processes[host].pid, *self.cluster.family(host)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(30)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    def _await_end(self) -> None:
        self.output = self.reader.whole(900)
        events = [json.loads(line) for line in self.output.splitlines() if line.startswith("{")]
        self.told += [event["number"] for event in events if event["event"] == "trial_finished"]

    def _outcome(self) -> Outcome:
        trials, states = self.study.trials(), self.study.states()
        lost = {trial.number for trial in trials if trial.state.name == "FAIL"}
        drawn = {trial.number for trial in trials if params_of(trial)}  # nothing is there to try again of the others
        again = Counter(t.user_attrs.get("retry_of", t.user_attrs.get("resumes")) for t in trials)
        again.pop(None, None)
        # what a search that ended left running is beyond the number of trials that was asked for
        resumed = sum("resumes" in trial.user_attrs for trial in trials)
        over = sum(states[name] for name in ("COMPLETE", "PRUNED", "FAIL"))
        held = {
            "all strikes": self.num_strikes == REPEATS,
            "exit 0": self.process.returncode == 0,
            "no orphan": not self.orphans,
            "no trial too many lost": len(lost) <= self.strike.costs * REPEATS,
            "each tried again once": again == Counter(lost & drawn),
            "all trials are over": over == TRIALS_A_RUN + resumed == len(trials),
            "none told twice": len(self.told) == len(set(self.told)),
            "result.json agrees": self.study.agrees(),
        }
        broken = [promise for promise, kept in held.items() if not kept]
        said = f", NOT: {', '.join(broken)}: {self.output[-1500:]}" if broken else ""
        figure = (
            f"{self.num_strikes} strikes, {dict(states)} of {TRIALS_A_RUN} trials asked for, {len(lost)} lost, "
            f"{sum(again.values())} tried again, {self.orphans} orphans, exit {self.process.returncode}{said}"
        )
        target = f"each costs at most {self.strike.costs} trials, tried again once; nothing twice; no orphan; a model"
        return Outcome(figure, target, not broken)


@by_fire
def dask_trial_killed(folder: Path) -> Outcome:
    """`kill -9` of a trial's process on a host."""
    return Siege(folder, Strike("trial")).run()


@by_fire
def dask_worker_killed(folder: Path) -> Outcome:
    """`kill -9` of a Dask worker, which its nanny starts again."""
    return Siege(folder, Strike("worker")).run()


@by_fire
def dask_nanny_killed(folder: Path) -> Outcome:
    """`kill -9` of a nanny, and with it of its host; another host joins."""
    return Siege(folder, Strike("nanny")).run()


@by_fire
def dask_scheduler_killed(folder: Path) -> Outcome:
    """`kill -9` of the scheduler; the search ends, and the same command resumes on a new cluster."""
    return Siege(folder, Strike("scheduler", costs=HOSTS)).run()


@by_fire
def dask_coordinator_killed(folder: Path) -> Outcome:
    """`kill -9` of the coordinator; the same command resumes."""
    return Siege(folder, Strike("coordinator", costs=HOSTS)).run()


@by_fire
def dask_host_stopped(folder: Path) -> Outcome:
    """SIGSTOP of a host for 30 s."""
    return Siege(folder, Strike("")).run()
