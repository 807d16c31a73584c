"""Workers and coordinators that are killed, and a journal that is cut."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from fire import Outcome, by_fire
from searching import Study, alive, children

from autotl.study.storage import Journal
from autotl.study.study import open_study

KILLS, TICKETS = 20, 80


def workers(coordinator: int, study: Study) -> list[int]:
    """Its workers that have finished a trial: one that still starts has none to lose, and a device that loses three in
    a row is taken out of use, as it should be."""
    finished: dict[str, float] = {}
    for trial in study.trials():
        if trial.state.name == "COMPLETE" and trial.datetime_complete:
            slot = trial.user_attrs["device"]
            finished[slot] = max(finished.get(slot, 0.0), trial.datetime_complete.timestamp())
    found, booted = [], time.time() - float(Path("/proc/uptime").read_text().split()[0])
    for pid in children(coordinator):
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            ticks = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
        except OSError:
            continue
        program, _, slot = name.partition(" ")
        if program == "autotl" and finished.get(slot, 0.0) > booted + ticks / os.sysconf("SC_CLK_TCK"):
            found.append(pid)
    return found


@by_fire
def workers_killed_20_times(folder: Path) -> Outcome:
    """`kill -9` a random worker 20 times during a search of 80 trials with 2 workers."""
    study, rng, events = Study(folder), random.Random(0), []
    process = study.search("--devices", "cpu*2", "--trials", str(TICKETS), seconds=3.0)
    reader = threading.Thread(target=lambda: events.extend(map(_event, process.stdout)))
    reader.start()
    kills = 0
    while process.poll() is None and kills < KILLS:
        time.sleep(rng.uniform(0.5, 3))
        has_trials = any(event.get("event") == "trial_finished" for event in events)
        if has_trials and (running := workers(process.pid, study)):
            os.kill(rng.choice(running), signal.SIGKILL)
            kills += 1
    code = process.wait(600)
    reader.join()
    states, trials = study.states(), study.trials()
    lost = [trial for trial in trials if trial.state.name == "FAIL"]
    told = [event["number"] for event in events if event.get("event") == "trial_finished"]
    named = sum("killed by signal 9" in trial.user_attrs.get("cause", "") for trial in lost)
    over = sum(states[name] for name in ("COMPLETE", "PRUNED", "FAIL"))
    return Outcome(
        f"{kills} kills; {over} of {TICKETS} tickets over ({dict(states)}), {named} of {len(lost)} losses named, "
        f"{len(set(told))} trials told once of {len(told)}, result.json agrees: {study.agrees()}, exit {code}",
        "20 kills; 80 tickets over, none RUNNING, each loss named, none twice, result.json agrees",
        kills == KILLS and over == TICKETS == len(told) == len(set(told)) and not states["RUNNING"]
        and named == len(lost) and study.agrees() and code == 0,
    )  # fmt: skip


def _event(line: str) -> dict:
    return json.loads(line) if line.startswith("{") else {"event": "other", "text": line}


@by_fire
def coordinator_killed_10_times(folder: Path) -> Outcome:
    """`kill -9` the coordinator at 10 random moments, every second one after trials have ended; resume each time."""
    study, rng = Study(folder), random.Random(1)
    finished: dict[int, float | None] = {}
    orphans = lost = 0
    for round in range(10):
        process = study.search("--devices", "cpu*2", "--trials", "100", seconds=0.4)
        end = time.monotonic() + 120
        while round % 2 and len(_finished(study)) <= len(finished) and time.monotonic() < end:
            time.sleep(0.5)
        time.sleep(rng.uniform(2, 18) / (1 + round % 2))
        mine = children(process.pid)
        process.kill()
        process.wait()
        time.sleep(5)
        orphans += sum(map(alive, mine))
        if (study.folder / "journal.log").exists():
            now = _finished(study)
            lost += sum(now.get(number, "gone") != value for number, value in finished.items())
            finished = now
    process = study.search("--devices", "cpu*2", "--trials", "100")
    process.communicate(timeout=600)
    states = study.states()
    return Outcome(
        f"{orphans} orphans after 5 s, {lost} finished trials lost of {len(finished)}, last resume: exit "
        f"{process.returncode}, {dict(states)}, result.json agrees: {study.agrees()}",
        "no orphan after 5 s, every resume works, finished trials only grow",
        orphans == lost == process.returncode == states["RUNNING"] == 0 and len(finished) > 10 and study.agrees(),
    )


def _finished(study: Study) -> dict[int, float | None]:
    """The values of finished trials, by number."""
    if not (study.folder / "journal.log").exists():
        return {}
    return {t.number: t.value for t in study.trials() if t.state.name in ("COMPLETE", "PRUNED")}


@by_fire
def journal_cut_at_every_byte(folder: Path) -> Outcome:
    """The journal of a search cut at every byte of its last two lines; three of the cuts are resumed in full."""
    study = Study(folder)
    study.search("--devices", "cpu", "--trials", "6").communicate(timeout=300)
    whole = (study.folder / "journal.log").read_bytes()
    lines = whole.splitlines(keepends=True)
    last, before = len(lines[-1]), len(lines[-2])
    copy = folder / "copy" / "photos"
    good, cuts = 0, range(len(whole) - last - before, len(whole) + 1)
    for cut in cuts:
        copy.mkdir(parents=True)
        (copy / "journal.log").write_bytes(whole[:cut])
        torn = Journal(copy).repair()
        opened = open_study(copy, "photos", "maximize", 0)
        opened.tell(opened.ask(), 0.5)
        again = open_study(copy, "photos", "maximize", 0)
        kept = whole[: whole.rfind(b"\n", 0, cut) + 1]
        holds = (copy / "journal.log").read_bytes().startswith(kept) and again.trials[-1].value == 0.5
        good += holds and torn == (kept != whole[:cut])
        shutil.rmtree(copy.parent)
    resumed = []
    for cut in (len(whole) - 1, len(whole) - last, len(whole) - last - before // 2):
        (study.folder / "journal.log").write_bytes(whole[:cut])
        process = study.search("--devices", "cpu", "--trials", "8")
        process.communicate(timeout=300)
        resumed.append(process.returncode == 0 and study.agrees() and not study.states()["RUNNING"])
    return Outcome(
        f"{good} of {len(cuts)} cuts go on with all that was whole; {sum(resumed)} of 3 searches resumed",
        "every cut resumes, with at most the last operation lost",
        good == len(cuts) and all(resumed),
    )


@by_fire
def out_of_memory_at_64_32_and_16(folder: Path) -> Outcome:
    """A stand-in device without room for more than 8 rows: the test that counts what it was given."""
    test = Path(__file__).parents[1] / "engines" / "test_micro_batch.py"
    command = [sys.executable, "-m", "pytest", str(test), "-k", "64_32_and_16", "-p", "no:cacheprovider"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=test.parents[2])
    return Outcome(
        done.stdout.strip().splitlines()[-1],
        "the trial completes at micro-batch 8, its weights those of the whole batch of 64",
        done.returncode == 0,
    )
