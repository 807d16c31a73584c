"""A study goes on in more processes, or with other choices, without losing what it has."""

import json
import signal
import subprocess
import sys
import time

import optuna
import pytest
from optuna.trial import TrialState

import autotl
from autotl.api import join, search
from autotl.errors import AutotlError
from autotl.study.storage import open_storage

pytestmark = pytest.mark.slow


def trials(folder):
    return optuna.load_study(study_name=folder.name, storage=open_storage(folder)).trials


def test_without_a_search_there_is_none_to_join(cells, tmp_path):
    with pytest.raises(AutotlError, match="there is none to join: start it without --join"):
        join("cells", output=tmp_path, devices="cpu")
    assert not (tmp_path / "cells").exists()


@pytest.fixture
def running(cells, small_flags, until, tmp_path):
    """The command of a search, and its process, which has finished a trial and searches on for five minutes."""
    places = [str(cells), "--output", str(tmp_path), "--test", "none"]
    command = [sys.executable, "-m", "autotl", "search", *places, *small_flags]
    first = subprocess.Popen([*command, "--time", "5m"], stdout=subprocess.DEVNULL)
    try:
        until(lambda: list(tmp_path.glob("cells/trials/*/member.json")), 60)
        yield command, first
    finally:
        first.kill()


@pytest.fixture
def joined(running, until, tmp_path):
    """Of a second process with `--join` whose worker has completed a trial: that process, and the first."""
    command, first = running
    second = subprocess.Popen([*command, "--join"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until(lambda: any(is_complete and "@" in device for device, is_complete in devices(tmp_path / "cells")), 90)
        yield second, first
    finally:
        second.kill()


def devices(folder):
    return [(trial.user_attrs.get("device", ""), trial.state == TrialState.COMPLETE) for trial in trials(folder)]


def test_workers_that_join_take_tickets_and_end_with_the_search_and_ctrl_c_leaves_a_model(joined, tmp_path):
    second, first = joined
    assert second.poll() is None
    first.send_signal(signal.SIGINT)
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 0, output
    assert "joined the search" in output
    assert first.wait(60) == 0
    assert autotl.load(tmp_path / "cells" / "model", device="cpu").classes == ("defective", "functional")
    used = {device for device, _ in devices(tmp_path / "cells")}
    assert "cpu:0" in used
    assert any(name.startswith("cpu:0@") for name in used)


def test_ctrl_c_takes_joined_workers_out_and_the_search_goes_on(joined, until, tmp_path):
    second, first = joined
    assert first.poll() is None
    began = time.monotonic()
    second.send_signal(signal.SIGINT)
    output, _ = second.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert second.returncode in (0, 130), output
    assert "Traceback" not in output
    n_before = len(trials(tmp_path / "cells"))
    until(lambda: len(trials(tmp_path / "cells")) > n_before + 1, 30)
    assert first.poll() is None
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == 0
    states = {trial.state for trial in trials(tmp_path / "cells")}
    assert not states & {TrialState.RUNNING, TrialState.FAIL}
    assert "left the search, which goes on" in output


def _number_before(taken) -> int:
    return int(taken.user_attrs["taken_from"].rpartition("/")[2])


def test_an_extension_takes_over_what_fits_and_leaves_the_old_study_alone(cells, small, tmp_path):
    old = search(str(cells), output=tmp_path, trials=4, test="none", **small)
    before = trials(old.folder)
    asked = small | {"test": "none", "heads": ["logistic_regression", "lda"]}
    with pytest.raises(AutotlError, match="add --extend"):
        search(str(cells), output=tmp_path, trials=5, **asked)
    assert json.loads((old.folder / "study.json").read_text())["heads"] == ["logistic_regression", "linear"]
    new = search(str(cells), output=tmp_path, trials=5, extend=True, **asked)
    assert new.folder == tmp_path / "cells-2"
    fitting = [t for t in trials(old.folder) if t.params["fast_extraction.head"] == "logistic_regression"]
    taken = [t for t in trials(new.folder) if "taken_from" in t.user_attrs]
    assert 0 < len(taken) == len(fitting) < 4
    assert [t.params for t in taken] == [t.params for t in fitting]
    assert [t.value for t in taken] == [t.value for t in fitting]
    assert len(trials(new.folder)) == 5
    assert (new.folder / "split.json").read_bytes() == (old.folder / "split.json").read_bytes()
    kept = [t for t in taken if (old.folder / "trials" / f"{_number_before(t):05}").exists()]
    assert kept  # of each kind the best
    for trial in kept:
        page = new.folder / "trials" / f"{trial.number:05}" / "member.json"
        assert json.loads(page.read_text())["trial"] == trial.number
    assert trials(old.folder) == before


def test_what_is_not_there_cannot_be_extended(cells, small, tmp_path):
    with pytest.raises(AutotlError, match=r"no study 'cells' .* to extend"):
        search(str(cells), output=tmp_path, trials=1, extend=True, **small)
