"""The trials and the outcome of a search are written where TensorBoard reads them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
from autotl_tensorboard import autotl_search_finished, autotl_trial_finished
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import autotl
from autotl.recipe import Recipe
from autotl.report.held_out import HeldOut
from autotl.strategies.base import Fitted, Result
from autotl.testing import Check, plugin_checks
from autotl.testing.searches import finished_search

pytestmark = pytest.mark.slow

RECIPE = Recipe("efficientnet_lite0", "fine_tuning", "linear", 7, {"unfrozen_blocks": 2}, {"norm": "batch"})
CURVE = [{"epoch": e, "loss": 1 / e, "score": 0.5 + e / 10} for e in (1, 2, 3)]


@plugin_checks
def test_the_plugin_passes_the_checks_of_the_kit(check: Check) -> None:
    check("tensorboard")


@pytest.fixture
def study() -> optuna.Study:
    study = optuna.create_study(study_name="cells", direction="maximize")
    trial = study.ask()
    trial.set_user_attr("log_loss", 0.4)
    trial.set_user_attr("description", "a text")
    study.tell(trial, 0.8)
    return study


def written(folder: Path, run: str) -> EventAccumulator:
    (found,) = folder.glob(f"cells-*/{run}")
    return EventAccumulator(str(found)).Reload()


def test_a_trial_has_its_curve_its_scores_and_its_recipe(
    study: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTL_TENSORBOARD", str(tmp_path))
    result = Result(RECIPE, np.full((2, 2), 0.5), Fitted("last", None), CURVE)
    autotl_trial_finished(study=study, trial=study.trials[0], result=result)
    events = written(tmp_path, "trial-00000")
    assert [(e.step, round(e.value, 4)) for e in events.Scalars("epoch/loss")] == [(1, 1.0), (2, 0.5), (3, 0.3333)]
    assert [round(events.Scalars(name)[0].value, 4) for name in ("score", "log_loss")] == [0.8, 0.4]
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert all(text in content for text in (b"fine_tuning.unfrozen_blocks", b"linear.norm", b"efficientnet_lite0"))


def test_the_outcome_has_scores_confusions_and_a_map_of_the_test_images(
    study: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTL_TENSORBOARD", str(tmp_path / "runs"))
    record = finished_search(tmp_path / "example")
    assert record.dataset
    assert record.split
    assert record.result
    assert record.tested
    tested = HeldOut(record.tested.images, record.tested.probabilities, np.eye(6, 8, dtype=np.float32), "digest")
    more = {"best": {"number": 3, "validation": 0.75}, "baseline": {"accuracy": 0.5, "log_loss": None, "n": 6}}
    search = autotl.FinishedSearch(
        record.folder, {**record.result, **more}, "photos/", record.dataset, record.split, tested, None, None
    )
    autotl_search_finished(study=study, search=search)
    events = written(tmp_path / "runs", "outcome")
    scores = {name: round(events.Scalars(name)[0].value, 4) for name in events.Tags()["scalars"]}
    assert scores == {"test/accuracy": 0.8, "test/n": 6, "baseline/accuracy": 0.5, "baseline/n": 6, "validation": 0.75}
    assert events.Tags()["images"] == ["test/confusion"]
    (table,) = (tmp_path / "runs").rglob("metadata.tsv")
    rows = [line.split("\t") for line in table.read_text().splitlines()]
    assert rows[0] == ["label", "predicted"]
    assert [row[0] for row in rows[1:]] == [record.dataset.classes[i] for i in record.dataset.labels[tested.images]]


def test_without_the_variable_nothing_is_imported_or_written(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom autotl_tensorboard import autotl_search_finished, autotl_trial_finished\n"
        "autotl_trial_finished(study=None, trial=None, result=None)\n"
        "autotl_search_finished(study=None, search=None)\n"
        "print({'torch', 'tensorboard'} & set(sys.modules))"
    )
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": ""}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    assert done.stdout.strip() == "set()"
    assert list(tmp_path.iterdir()) == []
