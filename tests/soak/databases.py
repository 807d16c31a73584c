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
from postgres import Server, binaries

TRIALS, SECRET = 12, "s3cret"


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
        options = ("--devices", "cpu*2", "--trials", str(TRIALS))
        process = study.search(*options, seconds=3.0)
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
        said, model = "could not be reached" in output, (study.folder / "model" / "model.json").exists()
        figure = f"exit {process.returncode} {waited:.0f} s after the stop, said so: {said}, a model: {model}"
        held = process.returncode == 0 and said == stop and model
        if stop:
            server.start()
            running = True
            output += Output(study.search(*options)).whole(600)
        states = study.states()
        lost = sum("resumes" in trial.user_attrs or "retry_of" in trial.user_attrs for trial in study.trials())
        over = states["COMPLETE"] + states["PRUNED"]
        shown = SECRET in output or any(
            SECRET.encode() in f.read_bytes() for f in study.folder.rglob("*") if f.is_file()
        )
        held = held and states["FAIL"] == lost <= (2 if stop else 0) and not states["RUNNING"] and not shown
        held = held and over == TRIALS and study.agrees()
        figure += f"; in the end {dict(states)}, {lost} tried again, the password was shown: {shown}"
        target = "the model of what is complete, and the same command resumes" if stop else "no trial is lost"
        return Outcome(figure + ("" if held else f": {output[-1500:]}"), f"waits; {target}", held)
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
