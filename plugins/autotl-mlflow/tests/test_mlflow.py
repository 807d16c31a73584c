"""A study and its trials are logged to a real MLflow server, once each, and the model can be loaded from it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import autotl_mlflow
import numpy as np
import optuna
import pytest
import skimage.data
import timm
import torch
from autotl_mlflow import autotl_search_finished, autotl_trial_finished, tracking
from mlflow import MlflowClient, pyfunc
from optuna.trial import FrozenTrial, TrialState
from PIL import Image
from safetensors.torch import save_file

import autotl
from autotl.model.image_model import ImageModel
from autotl.model.member import Member
from autotl.recipe import Recipe
from autotl.registry import load_registry
from autotl.strategies.base import Fitted, Result
from autotl.testing import Check, plugin_checks
from autotl.testing.searches import finished_search

pytestmark = pytest.mark.slow

RECIPE = Recipe("efficientnet_lite0", "fine_tuning", "linear", 7, {"unfrozen_blocks": 2, "lr": 1e-3}, {"dropout": 0.2})
CURVE = [{"epoch": e, "loss": 1 / e, "score": 0.5 + e / 10, "seconds": 2.0 * e} for e in (1, 2, 3)]


@plugin_checks
def test_the_plugin_passes_the_checks_of_the_kit(check: Check) -> None:
    check("mlflow")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server on this machine."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        f"{folder}/artifacts",
    ]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # seven more processes, for jobs of LLMs
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
    try:
        until = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < until, (folder / "log").read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


@pytest.fixture
def experiment(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Callable[[], list[Any]]:
    """`experiment()`: the runs of the test's own experiment."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)
    monkeypatch.setattr(tracking, "_retry_at", 0.0)
    client = MlflowClient(server)
    return lambda: list(client.search_runs([client.get_experiment_by_name(request.node.name).experiment_id]))


def study_of(*states: TrialState) -> optuna.Study:
    """A study with one trial in each of these states."""
    study = optuna.create_study(study_name="cells", direction="maximize")
    study.set_user_attr("choices", {"metric": "accuracy", "heads": ["linear"]})
    for state in states:
        trial = study.ask()
        trial.set_user_attr("recipe", RECIPE.to_dict())
        trial.set_user_attr("description", RECIPE.describe())
        trial.report(0.6, 5)
        trial.report(0.7, 10)
        if state == TrialState.COMPLETE:
            trial.set_user_attr("log_loss", 0.4)
            study.tell(trial, 0.8)
        else:
            trial.set_user_attr("cause", f"it was {state.name.lower()}")
            study.tell(trial, state=state)
    return study


def result_of(history: list[dict[str, float]]) -> Result:
    return Result(RECIPE, np.full((2, 2), 0.5), Fitted("last", None), history)


def finished(study: optuna.Study, number: int, history: list[dict[str, float]] = CURVE) -> FrozenTrial:
    """Call the hook for a trial, and return it."""
    trial = study.trials[number]
    autotl_trial_finished(study=study, trial=trial, result=result_of(history))
    return trial


def children(runs: list[Any]) -> dict[str, Any]:
    return {run.info.run_name: run for run in runs if "mlflow.parentRunId" in run.data.tags}


def parents(runs: list[Any]) -> list[Any]:
    return [run for run in runs if "mlflow.parentRunId" not in run.data.tags]


def text_of(run: Any, path: str) -> str:
    return Path(MlflowClient().download_artifacts(run.info.run_id, path)).read_text()


def test_a_trial_is_logged_with_recipe_scores_curve_and_artifacts(experiment: Callable[[], list[Any]]) -> None:
    study = study_of(TrialState.COMPLETE)
    trial = finished(study, 0)
    run = children(experiment())["trial 0"]
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "backbone": "efficientnet_lite0",
        "strategy": "fine_tuning",
        "head": "linear",
        "seed": "7",
        "fine_tuning.unfrozen_blocks": "2",
        "fine_tuning.lr": "0.001",
        "linear.dropout": "0.2",
    }
    assert (run.data.metrics["score"], run.data.metrics["log_loss"]) == (0.8, 0.4)
    losses = MlflowClient().get_metric_history(run.info.run_id, "epoch.loss")
    assert [(m.step, m.value) for m in losses] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    reported = MlflowClient().get_metric_history(run.info.run_id, "reported")
    assert [(m.step, m.value) for m in reported] == [(25, 0.6), (50, 0.7)]  # in percent of the trial's budget
    assert Recipe.from_dict(json.loads(text_of(run, "recipe.json"))) == RECIPE
    assert text_of(run, "curve.csv").splitlines()[:2] == ["epoch,loss,score,seconds", "1,1,0.6,2"]
    assert trial.duration is not None
    took = timedelta(milliseconds=run.info.end_time - run.info.start_time)
    assert abs(took - trial.duration) < timedelta(milliseconds=2)


def test_workers_that_log_at_once_create_one_run_of_the_study(experiment: Callable[[], list[Any]]) -> None:
    study = study_of(*[TrialState.COMPLETE] * 4)
    with ThreadPoolExecutor(4) as workers:
        list(workers.map(lambda number: finished(study, number), range(4)))
    (parent,) = parents(experiment())
    assert parent.info.run_name == "cells"
    assert {run.data.tags["mlflow.parentRunId"] for run in children(experiment()).values()} == {parent.info.run_id}
    assert len(experiment()) == 5


def test_the_end_of_a_search_logs_the_other_trials(experiment: Callable[[], list[Any]]) -> None:
    study = study_of(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.COMPLETE)
    finished(study, 0)
    autotl_search_finished(study=study, model=None, search=None)
    trials = children(experiment())
    statuses = {name: run.info.status for name, run in trials.items()}
    assert statuses == {"trial 0": "FINISHED", "trial 1": "KILLED", "trial 2": "FAILED", "trial 3": "FINISHED"}
    assert trials["trial 2"].data.tags["autotl.cause"] == "it was fail"
    (parent,) = parents(experiment())
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"metric": "accuracy", "heads": '["linear"]'}
    assert parent.data.metrics["score"] == 0.8
    assert {n: parent.data.metrics[f"trials.{n}"] for n in ("complete", "pruned", "fail")} == {
        "complete": 2,
        "pruned": 1,
        "fail": 1,
    }
    assert parent.data.tags["autotl.best_trial"] == "0"


def test_the_outcome_of_a_search_is_logged_with_its_images_and_its_report(
    experiment: Callable[[], list[Any]], tmp_path: Path
) -> None:
    record = finished_search(tmp_path / "example")
    assert record.dataset
    assert record.split
    assert record.result
    (tmp_path / "example" / "report.html").write_text("<p>the report</p>")
    (tmp_path / "example" / "leaderboard.csv").write_text("rank,trial\n")
    more = {"best": {"number": 3, "validation": 0.8}, "baseline": {"accuracy": 0.5, "n": 6}}
    search = autotl.FinishedSearch(
        record.folder,
        {**record.result, **more},
        "photos/",
        record.dataset,
        record.split,
        record.tested,
        record.validated,
        record.folder / "report.html",
    )
    autotl_search_finished(study=study_of(TrialState.COMPLETE), model=None, search=search)
    (parent,) = parents(experiment())
    scores = {name: parent.data.metrics[name] for name in ("test.accuracy", "baseline.accuracy", "validation")}
    assert scores == {"test.accuracy": 0.8, "baseline.accuracy": 0.5, "validation": 0.8}
    assert parent.data.tags["mlflow.note.content"].startswith("example: test accuracy 0.8000 on 6 images.")
    assert {a.path for a in MlflowClient().list_artifacts(parent.info.run_id)} == {"report.html", "leaderboard.csv"}
    (images,) = parent.inputs.dataset_inputs
    assert images.dataset.name == "photographs"
    assert json.loads(images.dataset.profile)["images"]["test"] == 6


def test_pruned_and_failed_trials_are_logged_when_they_end(experiment: Callable[[], list[Any]]) -> None:
    study = study_of(TrialState.PRUNED, TrialState.FAIL)
    autotl_mlflow.autotl_trial_pruned(study=study, trial=study.trials[0])
    autotl_mlflow.autotl_trial_failed(study=study, trial=study.trials[1])
    runs = children(experiment())
    assert [runs[f"trial {number}"].info.status for number in (0, 1)] == ["KILLED", "FAILED"]
    causes = [runs[f"trial {number}"].data.tags["autotl.cause"] for number in (0, 1)]
    assert causes == ["it was pruned", "it was fail"]


def test_a_resumed_study_continues_in_its_run_and_another_of_its_name_has_its_own(
    experiment: Callable[[], list[Any]],
) -> None:
    study = study_of(TrialState.COMPLETE)
    finished(study, 0)
    autotl_search_finished(study=study, model=None, search=None)
    study.tell(study.ask(), 0.9)
    autotl_search_finished(study=study, model=None, search=None)
    assert len(parents(experiment())) == 1
    assert sorted(children(experiment())) == ["trial 0", "trial 1"]
    finished(study_of(TrialState.COMPLETE), 0)
    assert len(parents(experiment())) == 2


@pytest.fixture
def model(tmp_path: Path) -> ImageModel:
    """A logistic regression on features of a tiny network."""
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.safetensors")
    backbone = load_registry().backbone(f"test_resnet@{tmp_path / 'weights.safetensors'}")
    with torch.inference_mode():
        rows = backbone.build()(torch.rand(20, 3, 160, 160) * torch.arange(20).view(-1, 1, 1, 1) % 2).numpy()
    logistic_regression = load_registry().head("logistic_regression")
    params = logistic_regression.defaults()
    head = logistic_regression.build(params, rows.shape[1], 2, 0).fit(rows, np.arange(20) % 2)
    recipe = Recipe(backbone.name, "fast_extraction", "logistic_regression", 0, {"levels": "last"}, params)
    member = Member(recipe, Fitted("last", head), backbone.digest, 2)
    versions = {"autotl": "0.1.0", "torch": torch.__version__}
    return ImageModel(("dark", "light"), [member], {backbone.digest: backbone}, about={"versions": versions})


def test_the_model_is_loaded_from_the_server_and_predicts(
    experiment: Callable[[], list[Any]], model: ImageModel, tmp_path: Path
) -> None:
    study = study_of(TrialState.COMPLETE)
    autotl_search_finished(study=study, model=model, search=None)
    (parent,) = parents(experiment())
    loaded = pyfunc.load_model(f"runs:/{parent.info.run_id}/model")
    paths = []
    for name in ("coffee", "chelsea"):
        Image.fromarray(getattr(skimage.data, name)()).save(tmp_path / f"{name}.png")
        paths.append(str(tmp_path / f"{name}.png"))
    table = loaded.predict(paths)
    np.testing.assert_allclose(table[["dark", "light"]].to_numpy(), model.predict_proba(paths), atol=1e-6)
    assert table["label"].tolist() == model.predict(paths).tolist()
    files = [Path(f) for f in _all_artifacts(parent.info.run_id, "model")]
    assert {f.suffix for f in files} <= {".safetensors", ".skops", ".json", ".md", ".txt", ".yaml", ""}  # "": MLmodel
    requirements = next(f for f in files if f.name == "requirements.txt")
    assert {"autotl==0.1.0", "autotl-mlflow"} <= set(text_of(parent, str(requirements)).split())


def _all_artifacts(run: str, path: str) -> list[str]:
    artifacts = MlflowClient().list_artifacts(run, path)
    return [f for a in artifacts for f in (_all_artifacts(run, a.path) if a.is_dir else [a.path])]


def test_a_folder_instead_of_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow requires this for a folder of plain files
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "mlruns"))
    monkeypatch.setattr(tracking, "_retry_at", 0.0)
    finished(study_of(TrialState.COMPLETE), 0)
    client = MlflowClient(str(tmp_path / "mlruns"))
    runs = list(client.search_runs([client.get_experiment_by_name("autotl").experiment_id]))
    assert {run.info.run_name for run in runs} == {"cells", "trial 0"}


def test_a_server_that_does_not_answer_is_tried_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setattr(tracking, "_retry_at", 0.0)
    study = study_of(TrialState.COMPLETE)
    began = time.monotonic()
    with pytest.raises(Exception, match=r"127\.0\.0\.1"):
        finished(study, 0)
    assert time.monotonic() - began < 15
    began = time.monotonic()
    finished(study, 0)  # not tried again
    assert time.monotonic() - began < 0.5


def test_without_an_address_the_plugin_does_not_import_mlflow(tmp_path: Path) -> None:
    script = (
        "import sys, optuna\nfrom autotl_mlflow import autotl_search_finished, autotl_trial_finished\n"
        "study = optuna.create_study(); study.tell(study.ask(), 1.0)\n"
        "autotl_trial_finished(study=study, trial=study.trials[0], result=None)\n"
        "autotl_search_finished(study=study, model=None, search=None)\n"
        "print('mlflow' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    assert done.stdout.strip() == "False"
    assert list(tmp_path.iterdir()) == []
