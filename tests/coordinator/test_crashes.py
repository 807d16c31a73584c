"""Whole searches whose workers can't start, hang, or meet device errors."""

import sys

import optuna
import pytest
from optuna.trial import TrialState

from autotl.api import search
from autotl.devices import Slot
from autotl.errors import NoTrialSucceeded
from autotl.study.storage import open_storage

pytestmark = pytest.mark.slow


def test_a_python_that_cannot_start_ends_the_search_with_its_last_line(cells, tmp_path, monkeypatch):
    false = tmp_path / "python"
    false.write_text("#!/bin/sh\necho 'no such interpreter' >&2\nexit 3\n")
    false.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(false))
    with pytest.raises(NoTrialSucceeded, match=r"cpu:0 is disabled: .*exit code 3\): no such interpreter"):
        search(str(cells), output=tmp_path / "studies", trials=1, backbones=["efficientnet_lite0"], devices="cpu")


FAULTS = """
import os, time
from pathlib import Path
import autotl
from autotl.heads.base import Head

def first_time(name):
    mark = Path(os.environ["AUTOTL_TEST_MARKS"]) / name
    seen = mark.exists()
    mark.touch()
    return not seen

class Faulty(Head):
    type = "estimator"
    def __init__(self, name): self.name = name
    def suggest(self, space): return {"C": space.float("C", 0.1, 1.0)}
    def defaults(self): return {"C": 0.5}
    def build(self, params, num_features, num_classes, seed):
        from sklearn.linear_model import LogisticRegression
        with open(Path(os.environ["AUTOTL_TEST_MARKS"]) / "seen", "a") as file:
            print(self.name, os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"], file=file)
        if self.name == "hangs" and first_time(self.name):
            time.sleep(60)
        if self.name == "device_error" and first_time(self.name):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        time.sleep(0.15)  # in each fold, or the sibling has used up all tickets while this one hangs
        return LogisticRegression(C=params["C"])

@autotl.hookimpl
def autotl_register_heads(register):
    register(Faulty("hangs"))
    register(Faulty("device_error"))
"""


def test_stand_in_gpus_are_told_apart_and_hanging_workers_and_device_errors_are_replaced(
    cells, small, tmp_path, install_plugin, monkeypatch
):
    slots = [
        Slot("cuda:0", "cuda", "cpu", 1, {"CUDA_VISIBLE_DEVICES": "MIG-a", "OMP_NUM_THREADS": "1"}),
        Slot("cuda:0#2", "cuda", "cpu", 2, {"CUDA_VISIBLE_DEVICES": "MIG-a", "OMP_NUM_THREADS": "2"}),
    ]
    monkeypatch.setattr("autotl.coordinator.run.parse_devices", lambda text, *, force: slots)
    monkeypatch.setattr("autotl.coordinator.supervisor.LEAST_SILENCE", 8.0)
    monkeypatch.setenv("AUTOTL_TEST_MARKS", str(tmp_path))
    install_plugin("hanging", FAULTS)
    found = search(
        str(cells), output=tmp_path / "studies", trials=14, trial_timeout="8s", test="none",
        **small | {"heads": ["hangs", "device_error"]},
    )  # fmt: skip
    trials = optuna.load_study(study_name="cells", storage=open_storage(found.folder)).trials
    causes = sorted(t.user_attrs["cause"] for t in trials if t.state == TrialState.FAIL)
    assert causes == [
        "RuntimeError: CUDA error: an illegal memory access was encountered",
        "it sent no sign of life for 8 s, and was killed",
    ]
    again = [t for t in trials if "retry_of" in t.user_attrs]
    assert len(again) == 2
    assert {t.state for t in again} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert all(t.params == trials[t.user_attrs["retry_of"]].params for t in again)
    counts = found.result["trials"]
    assert (counts["failed"], counts["complete"] + counts["pruned"]) == (2, 12)
    seen = [line.split() for line in (tmp_path / "seen").read_text().splitlines()]
    assert {tuple(rest) for _, _, *rest in seen} == {("MIG-a", "1"), ("MIG-a", "2")}
    for name in ("hangs", "device_error"):
        first = next(i for i, line in enumerate(seen) if line[0] == name)
        assert seen[first][1] not in [pid for _, pid, *_ in seen[first + 1 :]]
