"""A whole search, on real images with a real backbone: what it leaves, and whether it keeps its time. How searches are
ended and what they survive is in `test_endings.py` and `test_faults.py`, on a tiny backbone."""

import csv
import json
import subprocess
import sys
import time

import numpy as np
import optuna
import pytest

import autotl
from autotl.api import replay, search
from autotl.errors import AutotlError

pytestmark = pytest.mark.slow

QUICK = {"backbones": ["efficientnet_lite0"], "heads": ["logistic_regression", "linear"], "devices": "cpu*2"}


@pytest.fixture(scope="module")
def found(cells, tmp_path_factory):
    """One search with every strategy, for the tests that look at what it left."""
    return search(str(cells), output=tmp_path_factory.mktemp("studies"), trials=8, **QUICK)


def test_every_strategy_takes_part(found):
    with (found.folder / "leaderboard.csv").open() as file:
        strategies = {row["strategy"] for row in csv.DictReader(file)}
    assert strategies == {"fast_extraction", "extract_augment", "fine_tuning"}


def test_result_json_holds_what_is_promised(found):
    result = json.loads((found.folder / "result.json").read_text())
    assert set(result) == {
        "study", "metric", "classes", "images", "trials", "best", "refitted", "test", "baseline", "seconds", "versions",
        "validation", "intervals", "remedy", "limits", "latency", "tried", "never_tried", "costs", "frontier",
        "gain", "alignment",
    }  # fmt: skip
    assert result["images"] == {"train": 76, "validation": 20, "test": 24, "skipped": 0}
    assert sum(result["trials"].values()) == 8
    assert set(result["test"]) == {"accuracy", "balanced_accuracy", "macro_f1", "log_loss", "n"}
    assert result["baseline"]["accuracy"] == 0.5
    assert {"torch", "timm", "optuna", "autotl", "autotl-efficientnet-lite"} <= set(result["versions"])


def test_the_model_beats_the_majority_on_images_it_never_saw(found):
    assert found.result["test"]["accuracy"] >= 0.7


def test_the_folder_holds_no_pickle(found):
    kinds = {path.suffix for path in (found.folder / "model").rglob("*") if path.is_file()}
    assert kinds <= {".json", ".safetensors", ".skops", ".digests", ".md"}


def test_the_saved_model_predicts_the_classes(found, cells):
    model = autotl.load(found.folder / "model")
    paths = [*sorted((cells / "defective").iterdir())[:5], *sorted((cells / "functional").iterdir())[:5]]
    probabilities = model.predict_proba(paths)
    assert probabilities.shape == (10, 2)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-9)
    assert set(model.predict(paths)) == {"defective", "functional"}


def test_trials_carry_readable_attributes(found):
    for trial in found.study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)):
        assert trial.user_attrs["recipe"]["seed"] >= 0
        assert trial.user_attrs["description"].startswith("efficientnet_lite0 · ")
        assert 0 <= trial.user_attrs["balanced_accuracy"] <= 1


def test_a_fine_tuned_trial_leaves_its_learning_curve_as_an_artifact(found):
    from optuna.artifacts import get_all_artifact_meta

    names = {meta.filename for meta in get_all_artifact_meta(found.study)}
    assert names >= {"confusion-test.svg", "score-over-time.svg", "score-and-cost.svg"}
    trial = next(t for t in found.study.trials if t.params.get("strategy") == "fine_tuning" and t.value is not None)
    curves = get_all_artifact_meta(trial, storage=found.study._storage)
    assert (curves[0].filename, curves[0].mimetype) == ("score.svg", "image/svg+xml")
    assert found.study.metric_names == ["accuracy"]


@pytest.mark.parametrize("strategy", ["fast_extraction", "extract_augment", "fine_tuning"])
def test_a_replay_gives_the_same_score(found, strategy):
    trials = found.study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    number = next(t.number for t in trials if t.params["strategy"] == strategy)
    again = replay(found.folder, number)
    assert again["replayed"] == again["recorded"]


def test_the_same_name_resumes(cells, small, tmp_path):
    first = search(str(cells), output=tmp_path, trials=2, **small)
    again = search(str(cells), output=tmp_path, trials=4, **small)
    assert sum(first.result["trials"].values()) == 2
    assert sum(again.result["trials"].values()) == 4
    assert [t.number for t in again.study.trials] == [0, 1, 2, 3]


def test_a_search_ends_within_its_time(cells, patient, tmp_path):
    began = time.monotonic()
    found = search(str(cells), output=tmp_path / "studies", time=30, **patient)
    assert time.monotonic() - began < 40
    assert found.result["test"]["n"] == 24


def test_a_second_search_on_the_same_study_is_refused(cells, tmp_path):
    from filelock import FileLock

    (tmp_path / "cells").mkdir()
    with FileLock(tmp_path / "cells" / ".lock"), pytest.raises(AutotlError, match=r"runs in .* already"):
        search(str(cells), output=tmp_path, trials=1, **QUICK)


@pytest.fixture(scope="module")
def without_test_images(cells, tmp_path_factory):
    """A search in a process of its own, without test images: its folder, and two lines with the heavy modules that it
    has imported when its worker starts, and at its end."""
    output = tmp_path_factory.mktemp("studies")
    code = (
        "import sys; from autotl.api import search; from autotl.workers import local; "
        "watch = local.LocalLauncher._watch; heavy = {'optuna', 'scipy', 'sklearn', 'sqlalchemy', 'torch'}; "
        "local.LocalLauncher._watch = lambda self: (print(heavy & set(sys.modules)), watch(self)); "
        f"search({str(cells)!r}, output={str(output)!r}, trials=1, backbones=['efficientnet_lite0'], "
        "strategies=['fast_extraction'], heads=['logistic_regression'], devices='cpu', engine='torch', test='none'); "
        "print({'sqlalchemy', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return output / "cells", done.stdout.split("\n")


def test_the_coordinator_imports_no_torch(without_test_images):
    _, imported = without_test_images
    assert imported[-2] == "set()"


def test_the_workers_start_before_the_coordinator_imports_what_they_do_not_need(without_test_images):
    _, imported = without_test_images
    assert imported[0] == "set()"


def test_without_test_images_there_is_no_test_score(without_test_images):
    folder, _ = without_test_images
    result = json.loads((folder / "result.json").read_text())
    assert result["test"] is None
    assert result["images"]["test"] == 0
