"""A disk that is full ends the search with one error, and the same command continues it; a cache that goes away costs a
warning."""

import json
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import timm
from safetensors.torch import save

from autotl.api import search
from autotl.atomic_io import DiskFull
from autotl.features.store import FeatureStore
from autotl.study.storage import Journal, open_storage
from autotl.ui.progress import Progress

sys.path.insert(0, str(Path(__file__).parents[1]))
from local_hub import LocalHub, local_hub  # noqa: F401  # a fixture

pytestmark = pytest.mark.slow

resource = pytest.importorskip("resource", reason="a limit on the size of files stands in for a full disk")

PARTS = {"strategies": ["fast_extraction"], "heads": ["logistic_regression"], "engine": "torch", "devices": "cpu"}

REMOVES = """
import os, shutil
import autotl
from autotl.heads.base import Head

class Removes(Head):
    name, type = "removes", "estimator"
    def suggest(self, space): return {"C": space.float("C", 0.1, 1.0)}
    def build(self, params, num_features, num_classes, seed):
        from sklearn.linear_model import LogisticRegression
        features = os.environ["AUTOTL_TEST_FEATURES"]
        if os.path.isdir(features):
            shutil.rmtree(features)
            open(features, "w").close()
        return LogisticRegression(C=params["C"])

@autotl.hookimpl
def autotl_register_heads(register):
    register(Removes())
"""


class Recorder(Progress):
    """Keeps the log lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def backbone(tiny) -> str:
    return tiny("test_resnet").name


def command(cells: Path, backbone: str, folder: Path, limit: int | None) -> "subprocess.CompletedProcess[str]":
    """A search whose files may not grow past `limit` bytes."""
    places = ["--output", str(folder), "--cache", str(folder / "cache")]
    parts = ["--backbone", backbone, "--strategy", "fast_extraction", "--head", "logistic_regression"]
    parts += ["--engine", "torch", "--devices", "cpu"]
    return subprocess.run(
        [sys.executable, "-m", "autotl", "search", str(cells), *places, *parts, "--trials", "2"],
        capture_output=True,
        text=True,
        preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None,
    )


def test_a_full_disk_ends_the_search_and_the_same_command_goes_on(cells: Path, backbone: str, tmp_path: Path) -> None:
    ended = command(cells, backbone, tmp_path, 60_000)
    assert ended.returncode == 1
    (error,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert f"no room on the disk for {tmp_path / 'cache' / 'features'}: it needs " in error
    assert "autotl cache clear" in error
    assert "run the same command again" in error
    assert "Traceback" not in ended.stderr + ended.stdout
    assert not list(tmp_path.rglob("*.partial"))
    assert not any(FeatureStore(tmp_path / "cache" / "features").verify().values())

    went_on = command(cells, backbone, tmp_path, None)
    assert went_on.returncode == 0, went_on.stderr
    study = optuna.load_study(study_name="cells", storage=open_storage(tmp_path / "cells"))
    assert "RUNNING" not in {trial.state.name for trial in study.trials}
    assert json.loads((tmp_path / "cells" / "result.json").read_text())["trials"]["complete"] == 2


def test_an_append_that_fails_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    study = optuna.create_study(study_name="a", storage=open_storage(tmp_path))
    study.enqueue_trial({"x": 1.0})
    journal = tmp_path / "journal.log"
    before, limits = journal.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))  # a part of the line finds room
    try:
        with pytest.raises(DiskFull, match=r"journal\.log: it needs [\d,.]+ (bytes|kB) more"):
            study.set_user_attr("long", "x" * 500)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert journal.read_bytes() == before
    study.set_user_attr("short", 1)
    assert optuna.load_study(study_name="a", storage=open_storage(tmp_path)).user_attrs == {"short": 1}
    assert not Journal(tmp_path).repair()


def test_a_cache_that_cannot_be_written_costs_a_warning(cells: Path, backbone: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    heard = Recorder()
    found = search(
        str(cells), progress=heard, output=tmp_path / "studies", cache=tmp_path / "file" / "cache", trials=2,
        backbones=[backbone], **{**PARTS, "devices": "cpu*2"},
    )  # fmt: skip
    assert sum(found.result["trials"].values()) == 2  # one may have pruned the other
    assert not found.result["trials"]["failed"]
    warnings = [line for line in heard.lines if line.startswith("warning: The feature store")]
    assert len(warnings) == 1  # not one from each worker
    assert "keeps its features in its own folder" in warnings[0]
    assert not (found.folder / "cache").exists()


def test_a_cache_that_vanishes_in_the_middle_costs_a_warning(
    cells, backbone, tmp_path, install_plugin, monkeypatch
) -> None:
    install_plugin("removes", REMOVES)
    features = tmp_path / "cache" / "features"
    monkeypatch.setenv("AUTOTL_TEST_FEATURES", str(features))
    heard = Recorder()
    found = search(
        str(cells), progress=heard, output=tmp_path / "studies", cache=tmp_path / "cache", trials=3,
        backbones=[backbone], **{**PARTS, "heads": ["removes"]},
    )  # fmt: skip
    assert features.is_file()
    trials = found.result["trials"]
    assert (trials["failed"], sum(trials.values())) == (0, 3)
    assert [line for line in heard.lines if "keeps its features in its own folder" in line]
    assert (found.folder / "model" / "model.json").exists()


def test_a_disk_without_room_for_weights_is_an_error_that_says_where_they_go(
    cells: Path,
    tmp_path: Path,
    local_hub: LocalHub,  # noqa: F811
) -> None:
    weights = save(timm.create_model("test_vit").state_dict())
    local_hub.add("timm/test_vit.r160_in1k", weights)
    asked = PARTS | {"backbones": ["test_vit.r160_in1k"], "output": tmp_path, "trials": 1, "test": "none"}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        with pytest.raises(DiskFull) as full:
            search(str(cells), **asked)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert f"no room on the disk for {local_hub.cache}" in str(full.value)
    assert "use another disk with the environment variable HF_HOME" in str(full.value)
    went_on = search(str(cells), **asked)
    assert went_on.result["trials"]["complete"] == 1
    assert local_hub.downloads("timm/test_vit.r160_in1k")[-1] == "bytes=300000-"
