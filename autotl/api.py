"""autotl from Python: search, replay, evaluate, and a scikit-learn classifier. The command line calls these."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from autotl.config import StudyConfig, study_config
from autotl.errors import AutotlError

if TYPE_CHECKING:
    from autotl.model.image_model import ImageModel
    from autotl.ui.progress import Progress

__all__ = ["ImageClassifier", "SearchResult", "evaluate", "join", "replay", "search"]


@dataclass(frozen=True)
class SearchResult:
    """What a search leaves: `result` is result.json with the leaderboard."""

    result: dict[str, Any]
    folder: Path

    @property
    def model_path(self) -> Path:
        return self.folder / "model"

    def model(self) -> "ImageModel":
        from autotl.model.image_model import load

        return load(self.model_path)


def search(
    data: StudyConfig | str | os.PathLike[str],
    *,
    progress: "Progress | None" = None,
    extend: bool = False,
    **overrides: Any,
) -> SearchResult:
    """Search for the best classifier of labelled images.

    Args:
        data: a folder of class folders, a CSV manifest, the name of a data set, a study file, or a StudyConfig.
        progress: shown what happens; without one, nothing is shown.
        extend: search with other choices than the study of that name, in a new one that takes over what fits.
        overrides: any key of a study file: `time="10m"`, `trials=50`, `backbones=["resnet18"]`, …

    Raises:
        AutotlError: what can be mended, in words. NoTrialSucceeded where no trial did.
    """
    from autotl.coordinator.run import run_search
    from autotl.ui.reporters import default_progress

    config = study_config(data if isinstance(data, StudyConfig) else os.fspath(data), **overrides)
    result = run_search(config, progress or default_progress(), extend)
    return SearchResult(result, config.output / result["study"])


def join(data: StudyConfig | str | os.PathLike[str], *, progress: "Progress | None" = None, **overrides: Any) -> int:
    """Add workers, one for each of `devices`, to the search that another process runs on this study here, until it
    ends. Takes what `search` takes; returns how many workers there were. Raises AutotlError where no search runs."""
    from autotl.coordinator.join import join_search
    from autotl.ui.reporters import default_progress

    config = study_config(data if isinstance(data, StudyConfig) else os.fspath(data), **overrides)
    return join_search(config, progress or default_progress())


def replay(folder: Path, number: int) -> dict[str, Any]:
    """Train a study's trial again, from its recipe: its recorded and its new validation score."""
    from autotl.coordinator.replay import replay_trial

    return replay_trial(folder, number)


def evaluate(
    model_path: Path, data: str, subset: Literal["auto", "test", "all"] = "auto", device: str = "cpu"
) -> dict[str, Any]:
    """Score a model on labelled images: `scores`, `per_class` rows, `confusion` (rows: true, columns: predicted).

    `subset` "auto" takes the data's test subset where it has one, all of it where it hasn't. `device` is torch's.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    from autotl.data.loading import load_dataset
    from autotl.metrics import all_scores
    from autotl.model.image_model import load
    from autotl.registry import load_registry

    registry = load_registry()
    model = load(model_path, device, registry)
    dataset = load_dataset(data, registry.datasets, classes=model.classes)
    if subset == "auto":
        subset = "test" if "test" in dataset.subsets else "all"
    chosen = [i for i in range(len(dataset)) if subset == "all" or dataset.subsets[i] == "test"]
    if not chosen:
        raise AutotlError(f"{data} has no test subset. Evaluate on all of it: --subset all")
    rows = [row for _, row in model.stream([dataset.paths[i] for i in chosen], many=len(chosen) > 256, checked=True)]
    probabilities, labels = np.stack(rows), dataset.labels[chosen]
    every = np.arange(len(model.classes))
    table = precision_recall_fscore_support(labels, probabilities.argmax(1), labels=every, zero_division=0)
    names = ("precision", "recall", "f1", "n")
    return {
        "subset": subset,
        "scores": all_scores(labels, probabilities),
        "per_class": [
            {"class": name, **{k: float(column[i]) for k, column in zip(names, table, strict=True)}}
            for i, name in enumerate(model.classes)
        ],
        "confusion": confusion_matrix(labels, probabilities.argmax(1), labels=every).tolist(),
        "classes": list(model.classes),
        "skipped": [{"path": str(s.path), "reason": s.reason} for s in dataset.skipped],
    }


class ImageClassifier:
    """A search behind scikit-learn's `fit`, `predict`, `predict_proba` and `score`.

    Args:
        **config: any key of a study file but `data`: `time="5m"`, `backbones=["resnet18"]`, …

    After `fit`: `classes_`, `model_` (an ImageModel), `result_` (what result.json holds), `folder_`.

    >>> classifier = ImageClassifier(time="2m")  # doctest: +SKIP
    >>> classifier.fit(paths, labels).predict(["new.jpg"])  # doctest: +SKIP
    """

    def __init__(self, **config: Any):
        if "data" in config:
            raise TypeError("data is what fit() takes")
        self.config = config

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return dict(self.config)

    def set_params(self, **params: Any) -> "ImageClassifier":
        self.config.update(params)
        return self

    def fit(self, images: Sequence[Any], labels: Sequence[Any]) -> "ImageClassifier":
        """Search on labelled images: paths, PIL images or arrays [height, width, 3]; labels of any one type.

        All images are searched on (a subset of them to choose by); none is held out for a test unless `test` says so.
        """
        names = np.asarray(labels)
        if len(images) != len(names):
            raise AutotlError(f"There are {len(images)} images and {len(names)} labels: one label for each image.")
        with tempfile.TemporaryDirectory(prefix="autotl-") as scratch:
            manifest = _manifest(images, names, Path(scratch))
            config = {"name": "classifier", "output": self.config.get("output") or tempfile.mkdtemp(prefix="autotl-")}
            found = search(str(manifest), **{"test": "none", **self.config, **config})
        self.folder_, self.result_, self.model_ = found.folder, found.result, found.model()
        by_name = {str(name): name for name in np.unique(names)}
        self.classes_ = np.array([by_name[name] for name in self.model_.classes])
        return self

    def predict(self, images: Sequence[Any]) -> np.ndarray:
        """The most probable label of each image, [n]."""
        return self.classes_[self.predict_proba(images).argmax(1)]

    def predict_proba(self, images: Sequence[Any]) -> np.ndarray:
        """Probabilities [n, num_classes], columns in the order of `classes_`."""
        if not hasattr(self, "model_"):
            raise AutotlError("This ImageClassifier hasn't been fitted: call fit(images, labels) first.")
        return self.model_.predict_proba(images)

    def score(self, images: Sequence[Any], labels: Sequence[Any]) -> float:
        """Accuracy."""
        return float((self.predict(images) == np.asarray(labels)).mean())


def _manifest(images: Sequence[Any], labels: np.ndarray, folder: Path) -> Path:
    """Images in memory as files, and a manifest of all; files that are on disk are linked to, by copies."""
    import csv
    import shutil

    from autotl.data.decoding import to_rgb

    path = folder / "images.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            if isinstance(image, str | os.PathLike):
                name = f"{i:08}{Path(image).suffix}"
                shutil.copyfile(image, folder / name)
            else:
                name = f"{i:08}.png"
                to_rgb(image).save(folder / name)
            writer.writerow([name, label])
    return path
