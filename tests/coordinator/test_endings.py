"""Whole searches that are ended from outside: by Ctrl-C twice, by SIGTERM, and by SIGKILL. Ctrl-C once is what
`test_join.py` ends its searches with."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

import autotl
from autotl.study.study import load_study

pytestmark = pytest.mark.slow


@pytest.fixture
def started(patient_flags):
    """`started(data, output)`: the process of a search of five minutes."""

    def start(data, output):
        command = [sys.executable, "-m", "autotl", "search", str(data), "--time", "5m", "--output", str(output)]
        return subprocess.Popen([*command, *patient_flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    return start


def test_ctrl_c_twice_ends_at_once_and_loses_nothing_that_is_finished(cells, started, until, tmp_path):
    process = started(cells, tmp_path)
    until(lambda: list(tmp_path.glob("cells/trials/*/member.json")), 60)
    workers = _children(process.pid)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 10)
    assert any(t.state == TrialState.COMPLETE for t in load_study(tmp_path / "cells").trials)


def test_a_killed_coordinator_leaves_no_process_and_a_study_that_resumes_and_sigterm_ends_it_with_a_model(
    cells, started, until, tmp_path
):
    process = started(cells, tmp_path)
    until(lambda: list(tmp_path.glob("cells/trials/*/member.json")), 60)
    workers = _children(process.pid)
    process.kill()
    process.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 10)
    before = _num_complete(tmp_path / "cells")
    process = started(cells, tmp_path)
    until(lambda: _num_complete(tmp_path / "cells") > before, 60)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert TrialState.RUNNING not in [t.state for t in load_study(tmp_path / "cells").trials]
    result = json.loads((tmp_path / "cells" / "result.json").read_text())
    assert result["trials"]["complete"] > before
    assert autotl.load(tmp_path / "cells" / "model").classes == ("defective", "functional")


def _num_complete(folder: Path) -> int:
    return sum(trial.state == TrialState.COMPLETE for trial in load_study(folder).trials)


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    assert found
    return found
