"""A study as a run of MLflow, and its trials as runs inside of it. Several workers may log to one study at once."""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from autotl.locks import FileLock

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from autotl.events import FinishedSearch
    from autotl.model.image_model import ImageModel

__all__ = ["log_search", "log_trial"]

EXPERIMENT = "autotl"
"""Name of the experiment unless MLFLOW_EXPERIMENT_NAME is set."""
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Defaults of environment variables. With MLflow's own defaults a search would wait minutes for an absent server."""
RETRY_SECONDS = 60.0
"""Seconds until the next attempt after a server did not answer. Trials missed meanwhile are logged after the search."""
STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
MAX_LENGTH = 500
"""Maximum number of characters of a tag or parameter."""

_retry_at = 0.0


def log_trial(study: optuna.Study, trial: FrozenTrial, history: list[dict[str, float]]) -> None:
    """Log a trial during the search, unless the server did not answer a moment ago. Raises the errors of MLflow."""
    global _retry_at
    if time.monotonic() < _retry_at:
        return
    try:
        with Tracking.of(study).locked() as tracking:
            if not tracking.is_logged(trial.number):
                tracking.log(trial, history)
    except Exception:
        _retry_at = time.monotonic() + RETRY_SECONDS
        raise


def log_search(study: optuna.Study, model: "ImageModel | None", search: "FinishedSearch | None" = None) -> None:
    """Log the trials that were missed during the search, its outcome, and the model."""
    with Tracking.of(study).locked() as tracking:
        logged = tracking.logged()
        for trial in study.get_trials(deepcopy=False):
            if trial.state in STATUS and trial.number not in logged:
                tracking.log(trial, [])
        if search is not None:
            tracking.log_outcome(search)
        tracking.finish(model)


@dataclass
class Tracking:
    """One study at one MLflow server or folder."""

    study: optuna.Study
    key: str
    """Hash of the study's name and start time, so that another study of the same name has another key."""

    @classmethod
    def of(cls, study: optuna.Study) -> "Tracking":
        began = min((t.datetime_start for t in study.get_trials(deepcopy=False) if t.datetime_start), default="never")
        return cls(study, hashlib.sha256(f"{study.study_name} {began}".encode()).hexdigest()[:16])

    @contextmanager
    def locked(self) -> Iterator["Tracking"]:
        """Hold a file lock, so that workers log one after another: a study and each trial get one run only."""
        digest = hashlib.sha256(f"{os.environ['MLFLOW_TRACKING_URI']} {self.key}".encode()).hexdigest()[:16]
        with FileLock(Path(tempfile.gettempdir()) / f"autotl-mlflow-{digest}.lock"):
            yield self

    @cached_property
    def client(self) -> "MlflowClient":
        for variable, value in SETTINGS.items():
            os.environ.setdefault(variable, value)
        from mlflow import MlflowClient

        return MlflowClient()

    @cached_property
    def experiment(self) -> str:
        """Id of the experiment, which is created if it doesn't exist."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        experiment = self.client.get_experiment_by_name(name)
        return experiment.experiment_id if experiment else self.client.create_experiment(name)

    @cached_property
    def run(self) -> str:
        """Id of the study's run, which is created if it doesn't exist."""
        for run in self._runs(f"tags.`autotl.study` = '{self.key}'"):
            return run.info.run_id
        first = min((t.datetime_start for t in self.study.get_trials(deepcopy=False) if t.datetime_start), default=None)
        tags = {"autotl.study": self.key, "mlflow.source.name": "autotl"}
        began = _milliseconds(first) if first else int(time.time() * 1000)
        created = self.client.create_run(self.experiment, began, tags, run_name=self.study.study_name)
        return created.info.run_id

    def is_logged(self, number: int) -> bool:
        """Whether a trial is logged already. Asks for this one alone: a server takes seconds to list thousands."""
        return any(self._logged(f" and tags.`autotl.trial` = '{number}'"))

    def logged(self) -> set[int]:
        """Numbers of the trials that are logged already."""
        return {int(run.data.tags["autotl.trial"]) for run in self._logged()}

    def _logged(self, condition: str = "") -> Iterator[Any]:
        runs = self._runs(f"tags.`mlflow.parentRunId` = '{self.run}'{condition}")
        return (run for run in runs if run.info.status != "RUNNING")

    def log(self, trial: FrozenTrial, history: list[dict[str, float]]) -> None:
        """Create the run of a finished trial, with recipe, scores, learning curve and artifacts."""
        began, ended = (_milliseconds(t) if t else None for t in (trial.datetime_start, trial.datetime_complete))
        tags = {"mlflow.parentRunId": self.run, "mlflow.source.name": "autotl", "autotl.trial": str(trial.number)}
        texts = {k: str(trial.user_attrs[k]) for k in ("description", "device", "cause") if k in trial.user_attrs}
        tags |= {f"autotl.{k}": v[:MAX_LENGTH] for k, v in texts.items()} | {
            "mlflow.note.content": texts.get("description", "")
        }
        run = self.client.create_run(self.experiment, began, tags, run_name=f"trial {trial.number}")
        recipe = trial.user_attrs.get("recipe")
        self.client.log_batch(
            run.info.run_id, metrics=list(_metrics(trial, history, ended)), params=list(_params(recipe or {}))
        )
        if recipe:
            self.client.log_text(run.info.run_id, json.dumps(recipe, indent=2), "recipe.json")
        if history:
            self.client.log_text(run.info.run_id, _table(history), "curve.csv")
        self.client.set_terminated(run.info.run_id, STATUS[trial.state], ended)

    def log_outcome(self, search: "FinishedSearch") -> None:
        """Log the scores on the test images and the baseline's, the images, leaderboard, report and a description."""
        from mlflow.entities import Dataset, DatasetInput, Metric

        now, result = int(time.time() * 1000), search.result
        scores = [(f"{kind}.{name}", v) for kind in ("test", "baseline") for name, v in (result[kind] or {}).items()]
        if result["best"]["validation"] is not None:
            scores.append(("validation", result["best"]["validation"]))
        metrics = [Metric(name, float(value), now, 0) for name, value in scores if value is not None]
        self.client.log_batch(self.run, metrics=[*metrics, Metric("seconds", result["seconds"], now, 0)])
        digest = hashlib.sha256("".join(sorted(search.dataset.digests)).encode()).hexdigest()[:16]
        profile = json.dumps({"images": result["images"], "classes": list(search.dataset.classes)[:200]})
        source = json.dumps({"uri": str(search.data)})
        images = Dataset(_short(search.dataset.name), digest, "local", source, profile=profile)
        self.client.log_inputs(self.run, [DatasetInput(images)])
        for file in (search.folder / "leaderboard.csv", search.folder / "result.json", search.report):
            if file is not None and file.is_file():
                self.client.log_artifact(self.run, str(file))
        self.client.set_tag(self.run, "mlflow.note.content", _description(search))

    def finish(self, model: "ImageModel | None") -> None:
        """Complete the study's run: its choices, its best score, and the model in the form that MLflow loads."""
        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000)
        trials = [t for t in self.study.get_trials(deepcopy=False) if t.state in STATUS]
        counts = {state: sum(t.state == state for t in trials) for state in STATUS}
        metrics = [Metric(f"trials.{s.name.lower()}", n, now, 0) for s, n in counts.items()]
        if counts[TrialState.COMPLETE]:
            metrics.append(Metric("score", self.study.best_value, now, 0))
            self.client.set_tag(self.run, "autotl.best_trial", str(self.study.best_trial.number))
        choices = self.study.user_attrs.get("choices", {})
        logged = self.client.get_run(self.run).data.params  # MLflow refuses to change a parameter of a resumed study
        params = [Param(k, _short(v)) for k, v in choices.items() if k not in logged]
        self.client.log_batch(self.run, metrics=metrics, params=params)
        if model is not None:
            with tempfile.TemporaryDirectory(prefix="autotl-mlflow-") as folder:
                self.client.log_artifacts(self.run, str(save_model(model, Path(folder))), "model")
        self.client.set_terminated(self.run, "FINISHED" if counts[TrialState.COMPLETE] else "FAILED", now)

    def _runs(self, condition: str) -> Iterator[Any]:
        token = None
        while True:
            page = self.client.search_runs([self.experiment], condition, page_token=token)
            yield from page
            token = page.token
            if not token:
                return


def _description(search: "FinishedSearch") -> str:
    """What MLflow shows above a run, in Markdown."""
    from autotl.escaping import escape_markdown

    result = search.result
    score = "no test images"
    if test := result["test"]:
        name = result["metric"] if test.get(result["metric"]) is not None else "accuracy"
        score = f"test {name} {test[name]:.4f} on {test['n']} images"
    lines = [f"{result['study']}: {score}.", *(f"trial {m['trial']}: {m['description']}" for m in result["members"])]
    return "\n\n".join(map(escape_markdown, lines))


def save_model(model: "ImageModel", folder: Path) -> Path:
    """Write the model's folder inside of a folder that `mlflow.pyfunc.load_model` reads. No pickle."""
    import mlflow.pyfunc

    saved = model.save(folder / "autotl")
    versions = model.about.get("versions", {})
    requirements = [f"{name}=={version}" for name, version in versions.items()]
    mlflow.pyfunc.save_model(
        folder / "model",
        loader_module="autotl_mlflow.pyfunc",
        data_path=str(saved),
        pip_requirements=[*requirements, *([] if "autotl-mlflow" in versions else ["autotl-mlflow"])],
    )
    return folder / "model"


def _metrics(trial: FrozenTrial, history: list[dict[str, float]], ended: int | None) -> Iterator[Any]:
    from mlflow.entities import Metric

    moment = ended or int(time.time() * 1000)
    if trial.value is not None and trial.state == TrialState.COMPLETE:
        yield Metric("score", trial.value, moment, 0)
    for name, value in trial.user_attrs.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield Metric(name, value, moment, 0)
    for percent, value in ((5 * step, value) for step, value in sorted(trial.intermediate_values.items())):
        yield Metric("reported", value, moment, percent)
    for row in history:
        for name in row.keys() - {"epoch"}:
            yield Metric(f"epoch.{name}", row[name], moment, int(row["epoch"]))


def _params(recipe: dict[str, Any]) -> Iterator[Any]:
    """Parameters of the recipe, prefixed as in a study: `fine_tuning.unfrozen_blocks`."""
    from mlflow.entities import Param

    for name, value in recipe.items():
        if isinstance(value, dict):
            owner = recipe[name.removesuffix("_params")]
            yield from (Param(f"{owner}.{k}", _short(v)) for k, v in value.items())
        else:
            yield Param(name, _short(value))


def _table(history: list[dict[str, float]]) -> str:
    names = list(history[0])
    rows: Iterable[str] = (",".join(f"{epoch[name]:.6g}" for name in names) for epoch in history)
    return "\n".join([",".join(names), *rows]) + "\n"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 1]}…"


def _milliseconds(moment: Any) -> int:
    return int(moment.timestamp() * 1000)
