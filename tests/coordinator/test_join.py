"""A study goes on in more processes, or with other choices, without losing what it has."""

import json
import signal
import subprocess
import sys
import time

import optuna
import pytest

from autotl.api import join, search
from autotl.errors import AutotlError
from autotl.study.storage import open_storage

pytestmark = pytest.mark.slow

QUICK = {"backbones": ["efficientnet_lite0"], "strategies": ["fast_extraction"], "devices": "cpu", "test": "none"}


def trials(folder):
    return optuna.load_study(study_name=folder.name, storage=open_storage(folder)).trials


def test_without_a_search_there_is_none_to_join(cells, tmp_path):
    with pytest.raises(AutotlError, match="there is none to join: start it without --join"):
        join("cells", output=tmp_path, devices="cpu")
    assert not (tmp_path / "cells").exists()


@pytest.fixture
def running(cells, until, tmp_path):
    """The command of a search, and its process of 60 seconds, which has finished a trial."""
    command = [
        sys.executable, "-m", "autotl", "search", str(cells), "--output", str(tmp_path), "--devices", "cpu",
        "--backbone", "efficientnet_lite0", "--strategy", "fast_extraction", "--test", "none",
    ]  # fmt: skip
    first = subprocess.Popen([*command, "--time", "60s"], stdout=subprocess.DEVNULL)
    until(lambda: list(tmp_path.glob("cells/trials/*/member.json")), 60)
    return command, first


def test_workers_that_join_take_tickets_and_end_with_the_search(running, tmp_path):
    command, first = running
    second = subprocess.run([*command, "--join"], capture_output=True, text=True, timeout=120)
    assert second.returncode == 0, second.stderr
    assert "joined the search" in second.stdout
    assert first.wait(90) == 0
    devices = {trial.user_attrs.get("device", "") for trial in trials(tmp_path / "cells")}
    assert "cpu:0" in devices
    assert any(name.startswith("cpu:0@") for name in devices)


def test_ctrl_c_takes_joined_workers_out_and_the_search_goes_on(running, until, tmp_path):
    command, first = running
    second = subprocess.Popen([*command, "--join"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    theirs = "cpu:0@"
    until(lambda: any(theirs in trial.user_attrs.get("device", "") for trial in trials(tmp_path / "cells")), 60)
    assert first.poll() is None
    began = time.monotonic()
    second.send_signal(signal.SIGINT)
    output, _ = second.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert second.returncode in (0, 130), output
    assert "Traceback" not in output
    assert first.poll() is None
    n_before = len(trials(tmp_path / "cells"))
    assert first.wait(90) == 0
    after = trials(tmp_path / "cells")
    assert len(after) > n_before
    states = {trial.state for trial in after}
    assert not states & {optuna.trial.TrialState.RUNNING, optuna.trial.TrialState.FAIL}
    assert "left the search, which goes on" in output


def _number_before(taken) -> int:
    return int(taken.user_attrs["taken_from"].rpartition("/")[2])


def test_an_extension_takes_over_what_fits_and_leaves_the_old_study_alone(cells, tmp_path):
    old = search(str(cells), output=tmp_path, trials=4, heads=["logistic_regression", "linear"], **QUICK)
    before = trials(old.folder)
    asked = {**QUICK, "heads": ["logistic_regression", "lda"]}
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


def test_what_is_not_there_cannot_be_extended(cells, tmp_path, registry):
    with pytest.raises(AutotlError, match=r"no study 'cells' .* to extend"):
        search(str(cells), output=tmp_path, trials=1, extend=True, **QUICK)
