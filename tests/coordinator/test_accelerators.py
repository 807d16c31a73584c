"""A whole search on a stand-in for a GPU, which is a CPU under another name, and CPU workers beside it."""

import optuna
import pytest
from optuna.trial import TrialState

from autotl.api import search
from autotl.devices import Slot
from autotl.study.storage import open_storage

pytestmark = pytest.mark.slow

SLOTS = [Slot("cuda:0", "cuda", "cpu", 1), Slot("cpu:0", "cpu", "cpu", 1), Slot("cpu:1", "cpu", "cpu", 1)]


def test_the_accelerator_records_and_fine_tunes_and_cpu_workers_fit_heads(photographs, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("autotl.coordinator.run.parse_devices", lambda text, *, force: SLOTS)
    found = search(
        str(photographs), output=tmp_path / "studies", cache=tmp_path / "cache", trials=16, engine="torch",
        backbones=[tiny("test_resnet").name], heads=["logistic_regression", "linear"],
    )  # fmt: skip
    trials = optuna.load_study(study_name="photographs", storage=open_storage(found.folder)).trials
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert len(trials) == 16
    devices = {}
    for trial in trials:
        devices.setdefault(trial.params["strategy"], set()).add(trial.user_attrs["device"])
        if trial.params["strategy"] != "fine_tuning":
            assert trial.user_attrs["extraction_seconds"] == 0.0
    assert devices["fine_tuning"] == {"cuda:0"}
    assert devices["fast_extraction"] <= {"cpu:0", "cpu:1"}
    assert found.test["accuracy"] > 0.5
