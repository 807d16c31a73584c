"""A search whose study is in PostgreSQL, while the server is stopped."""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from fire import Outcome, by_fire
from hosts import wait_for
from searching import Output, Study

sys.path.insert(0, str(Path(__file__).parents[1] / "study"))
from postgres import PASSWORD, Server, binaries

TRIALS = 12


def _search(folder: Path, stop: bool) -> Outcome:
    found = binaries()
    if found is None:
        return Outcome("PostgreSQL isn't installed", "a server", False)
    place = Path(tempfile.mkdtemp(prefix="autotl-pg-", dir="/tmp"))  # the path of a socket is short
    place.chmod(0o755)
    server = Server(found, place / "server")
    running = True
    try:
        study = Study(folder)
        study.environment["AUTOTL_STORAGE"] = os.environ["AUTOTL_STORAGE"] = server.whole_url
        process = study.search("--devices", "cpu*2", "--trials", str(TRIALS), seconds=3.0)
        reader = Output(process)
        wait_for(lambda: process.poll() is not None or _complete(study) >= 2, 600)
        if process.poll() is not None:
            return Outcome(f"the search ended: {reader.whole(60)[-500:]}", "a search that runs", False)
        server.stop()
        running, stopped = False, time.monotonic()
        if not stop:
            time.sleep(20)
            server.start()
            running = True
        output = reader.whole(900)
        waited = time.monotonic() - stopped
        shown = PASSWORD in output or any(
            PASSWORD.encode() in file.read_bytes() for file in study.folder.rglob("*") if file.is_file()
        )
        if stop:
            held = process.returncode == 1 and "could not be reached" in output and not shown
            last = output.strip().splitlines()[-1][:200]
            return Outcome(
                f"exit {process.returncode} {waited:.0f} s after the stop: {last}", "waits, then says so", held
            )
        states = study.states()
        held = process.returncode == 0 and states["COMPLETE"] + states["PRUNED"] == TRIALS
        held = held and not states["FAIL"] and not states["RUNNING"] and study.agrees() and not shown
        said = "" if held else output[-300:]
        return Outcome(
            f"{dict(states)}, exit {process.returncode} {said}", f"{TRIALS} trials, none failed, a model", held
        )
    finally:
        os.environ.pop("AUTOTL_STORAGE", None)
        if running:
            server.stop()
        shutil.rmtree(place, ignore_errors=True)


def _complete(study: Study) -> int:
    try:
        return study.states()["COMPLETE"]
    except Exception:  # there is no study yet
        return 0


@by_fire
def postgresql_stopped_for_20_seconds(folder: Path) -> Outcome:
    """The server is killed in the middle of a search, and started 20 s later."""
    return _search(folder, stop=False)


@by_fire
def postgresql_stopped_for_good(folder: Path) -> Outcome:
    """The server is killed in the middle of a search."""
    return _search(folder, stop=True)
