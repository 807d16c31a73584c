"""autotl from Python: search, replay, evaluate, and a scikit-learn classifier. The command line calls these."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from autotl.config import StudyConfig, study_config
from autotl.errors import AutotlError

if TYPE_CHECKING:
    from autotl.model.model import ImageModel
    from autotl.search.progress import Progress

__all__ = ["ImageClassifier", "SearchResult", "evaluate", "replay", "search"]


@dataclass(frozen=True)
class SearchResult:
    """What a search leaves: `result` is result.json with the leaderboard."""

    result: dict[str, Any]
    folder: Path

    @property
    def model_path(self) -> Path:
        return self.folder / "model"

    def model(self) -> "ImageModel":
        from autotl.model.model import load

        return load(self.model_path)


def search(
    data: StudyConfig | str | os.PathLike[str], *, progress: "Progress | None" = None, **overrides: Any
) -> SearchResult:
    """Search for the best classifier of labelled images.

    Args:
        data: a folder of class folders, a CSV manifest, the name of a data set, a study file, or a StudyConfig.
        progress: shown what happens; without one, nothing is shown.
        overrides: any key of a study file: `time="10m"`, `trials=50`, `backbones=["resnet18"]`, …

    Raises:
        AutotlError: what can be mended, in words. NoTrialSucceeded where no trial did.
    """
    from autotl.search.run import run_search
    from autotl.search.terminal import QuietProgress

    config = study_config(data if isinstance(data, StudyConfig) else os.fspath(data), **overrides)
    return SearchResult(run_search(config, progress or QuietProgress()), config.folder)


def replay(folder: Path, number: int) -> dict[str, Any]:
    """Train a study's trial again, from its recipe: its recorded and its new validation score."""
    from autotl.search.replay import replay_trial

    return replay_trial(folder, number)


def evaluate(
    model_path: Path, data: str, part: Literal["auto", "test", "all"] = "auto", device: str = "cpu"
) -> dict[str, Any]:
    """Score a model on labelled images: `scores`, `per_class` rows, `confusion` (rows: true, columns: predicted).

    `part` "auto" takes the data's test part where it has one, all of it where it hasn't. `device` is torch's.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    from autotl.data.load import load_dataset
    from autotl.metrics import all_scores
    from autotl.model.model import load
    from autotl.registry import load_registry

    registry = load_registry()
    model = load(model_path, device, registry)
    dataset = load_dataset(data, registry.datasets, classes=model.classes)
    if part == "auto":
        part = "test" if "test" in dataset.parts else "all"
    chosen = [i for i in range(len(dataset)) if part == "all" or dataset.parts[i] == "test"]
    if not chosen:
        raise AutotlError(f"{data} has no test part. Evaluate on all of it: --part all")
    rows = [row for _, row in model.stream([dataset.paths[i] for i in chosen], many=len(chosen) > 256)]
    probabilities, labels = np.stack(rows), dataset.labels[chosen]
    every = np.arange(len(model.classes))
    table = precision_recall_fscore_support(labels, probabilities.argmax(1), labels=every, zero_division=0)
    names = ("precision", "recall", "f1", "n")
    return {
        "part": part,
        "scores": all_scores(labels, probabilities),
        "per_class": [
            {"class": name, **{k: float(column[i]) for k, column in zip(names, table, strict=True)}}
            for i, name in enumerate(model.classes)
        ],
        "confusion": confusion_matrix(labels, probabilities.argmax(1), labels=every).tolist(),
        "classes": list(model.classes),
        "skipped": [{"path": str(s.path), "reason": s.reason} for s in dataset.skipped],
    }
