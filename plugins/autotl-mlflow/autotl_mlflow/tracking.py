"""A study as a run of MLflow, its trials as runs inside it. Many workers log to one study at once."""

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
from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from autotl.model.image_model import ImageModel

__all__ = ["log_search", "log_trial"]

EXPERIMENT = "autotl"
"""Where MLFLOW_EXPERIMENT_NAME names none."""
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Unless the environment says otherwise. A search doesn't wait for minutes, as MLflow does, where a server is away."""
PAUSE = 60.0
"""Seconds without another try after a server didn't answer; what is missed is logged when the search is over."""
STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
LONGEST = 500
"""Characters of a tag or parameter."""

_silent_until = 0.0


def log_trial(study: optuna.Study, trial: FrozenTrial, history: list[dict[str, float]]) -> None:
    """Log a trial while the search goes on, unless the server was away a moment ago. Raises what MLflow raises."""
    global _silent_until
    if time.monotonic() < _silent_until:
        return
    try:
        with Tracking.of(study).alone() as tracking:
            tracking.log(trial, history)
    except Exception:
        _silent_until = time.monotonic() + PAUSE
        raise


def log_search(study: optuna.Study, model: "ImageModel | None") -> None:
    """Log what the workers didn't: pruned and failed trials, those that a server missed; then the model."""
    with Tracking.of(study).alone() as tracking:
        for trial in study.get_trials(deepcopy=False):
            if trial.state in STATUS:
                tracking.log(trial, [])
        tracking.finish(model)


@dataclass
class Tracking:
    """One study at one MLflow server or folder."""

    study: optuna.Study
    key: str
    """Of the study: its name and when it began. A study that is resumed has the same, another of its name hasn't."""

    @classmethod
    def of(cls, study: optuna.Study) -> "Tracking":
        began = min((t.datetime_start for t in study.get_trials(deepcopy=False) if t.datetime_start), default="never")
        return cls(study, hashlib.sha256(f"{study.study_name} {began}".encode()).hexdigest()[:16])

    @contextmanager
    def alone(self) -> Iterator["Tracking"]:
        """Workers log one after another, so that a study has one run and a trial has one."""
        place = hashlib.sha256(f"{os.environ['MLFLOW_TRACKING_URI']} {self.key}".encode()).hexdigest()[:16]
        with FileLock(Path(tempfile.gettempdir()) / f"autotl-mlflow-{place}.lock"):
            yield self

    @cached_property
    def client(self) -> "MlflowClient":
        for variable, value in SETTINGS.items():
            os.environ.setdefault(variable, value)
        from mlflow import MlflowClient

        return MlflowClient()

    @cached_property
    def experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = self.client.get_experiment_by_name(name)
        return found.experiment_id if found else self.client.create_experiment(name)

    @cached_property
    def run(self) -> str:
        """The study's own run."""
        for run in self._runs(f"tags.`autotl.study` = '{self.key}'"):
            return run.info.run_id
        first = min((t.datetime_start for t in self.study.get_trials(deepcopy=False) if t.datetime_start), default=None)
        tags = {"autotl.study": self.key, "mlflow.source.name": "autotl"}
        began = _milliseconds(first) if first else int(time.time() * 1000)
        created = self.client.create_run(self.experiment, began, tags, run_name=self.study.study_name)
        return created.info.run_id

    @cached_property
    def logged(self) -> set[int]:
        """Numbers of the trials that have their run already."""
        runs = self._runs(f"tags.`mlflow.parentRunId` = '{self.run}'")
        return {int(run.data.tags["autotl.trial"]) for run in runs if run.info.status != "RUNNING"}

    def log(self, trial: FrozenTrial, history: list[dict[str, float]]) -> None:
        """A finished trial as a run: recipe, scores, learning curve, artifacts. Once."""
        if trial.number in self.logged:
            return
        began, ended = (_milliseconds(t) if t else None for t in (trial.datetime_start, trial.datetime_complete))
        tags = {"mlflow.parentRunId": self.run, "mlflow.source.name": "autotl", "autotl.trial": str(trial.number)}
        words = {k: str(trial.user_attrs[k]) for k in ("description", "device", "cause") if k in trial.user_attrs}
        tags |= {f"autotl.{k}": v[:LONGEST] for k, v in words.items()} | {
            "mlflow.note.content": words.get("description", "")
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
        self.logged.add(trial.number)

    def finish(self, model: "ImageModel | None") -> None:
        """The study's run: its choices, its best score, and the model with all that MLflow needs to load it."""
        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000)
        trials = [t for t in self.study.get_trials(deepcopy=False) if t.state in STATUS]
        counts = {state: sum(t.state == state for t in trials) for state in STATUS}
        metrics = [Metric(f"trials.{s.name.lower()}", n, now, 0) for s, n in counts.items()]
        if counts[TrialState.COMPLETE]:
            metrics.append(Metric("score", self.study.best_value, now, 0))
            self.client.set_tag(self.run, "autotl.best_trial", str(self.study.best_trial.number))
        choices = self.study.user_attrs.get("choices", {})
        known = self.client.get_run(self.run).data.params  # a study that is resumed has them already
        params = [Param(k, _short(v)) for k, v in choices.items() if k not in known]
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


def save_model(model: "ImageModel", folder: Path) -> Path:
    """The model's folder inside a folder that `mlflow.pyfunc.load_model` reads. No pickle."""
    import mlflow.pyfunc

    saved = model.save(folder / "autotl")
    versions = model.about.get("versions", {})
    needed = [f"{name}=={version}" for name, version in versions.items()]
    mlflow.pyfunc.save_model(
        folder / "model",
        loader_module="autotl_mlflow.pyfunc",
        data_path=str(saved),
        pip_requirements=[*needed, *([] if "autotl-mlflow" in versions else ["autotl-mlflow"])],
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
    """Named by their owner, as in a study: `fine_tuning.unfrozen_blocks`."""
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
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _milliseconds(moment: Any) -> int:
    return int(moment.timestamp() * 1000)
