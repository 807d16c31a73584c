"""autotl from Python: `search`, `evaluate`, `replay` and `join`. The command line calls these."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from autotl.config import StudyConfig, find_model, find_study, study_config
from autotl.data.dataset import Finding, LabelledImage
from autotl.data.inputs import as_labelled_images
from autotl.errors import AutotlError
from autotl.escaping import require_utf8
from autotl.events import Callback

if TYPE_CHECKING:
    import optuna

    from autotl.model.image_model import ImageModel
    from autotl.ui.progress import Progress

__all__ = ["SearchResult", "evaluate", "join", "replay", "search"]

IN_MEMORY = "in-memory"
"""`StudyConfig.data` of a search whose labelled images were passed as a list."""


@dataclass(frozen=True)
class SearchResult:
    """What a search leaves. All paths are absolute.

    >>> result = SearchResult(Path("/studies/photos"), {"test": {"accuracy": 0.97, "n": 40}, "leaderboard": []})
    >>> result.test["accuracy"], str(result.model_path)
    (0.97, '/studies/photos/model')
    """

    folder: Path
    """The study's folder."""
    result: Mapping[str, Any]
    """What `result.json` holds, with `leaderboard`, the `members` of the model, and its path `model`."""

    @property
    def leaderboard(self) -> list[dict[str, Any]]:
        """The complete trials, best first, as rows of a table: `pandas.DataFrame(result.leaderboard)`.

        Each has `rank`, `trial`, `value`, `strategy`, `backbone`, `head`, `seconds`, `in_model`, `description`, and
        `recipe` as JSON.
        """
        return list(self.result["leaderboard"])

    @property
    def test(self) -> dict[str, float] | None:
        """Scores on the test images, and their number `n`; None where there are none."""
        scores: dict[str, float] | None = self.result["test"]
        return scores

    @property
    def model_path(self) -> Path:
        """The model's folder."""
        return self.folder / "model"

    @cached_property
    def model(self) -> "ImageModel":
        """The model, loaded on first use, on the first accelerator that works, else on the CPU."""
        from autotl.model.image_model import load

        return load(self.model_path)

    @cached_property
    def study(self) -> "optuna.Study":
        """The Optuna study, opened on first use."""
        from autotl.study.study import load_study

        return load_study(self.folder)

    @property
    def report(self) -> Path | None:
        """The file `report.html`; None where there is none."""
        file = self.folder / "report.html"
        return file if file.is_file() else None

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # neither the loaded model nor the open study


def search(
    data: StudyConfig | str | os.PathLike[str] | Sequence[LabelledImage],
    *,
    name: str | None = None,
    output: str | os.PathLike[str] | None = None,
    time: str | float | None = None,
    trials: int | None = None,
    devices: object = None,
    force: bool | None = None,
    backbones: str | Sequence[str] | None = None,
    strategies: str | Sequence[str] | None = None,
    heads: str | Sequence[str] | None = None,
    augmentations: str | Sequence[str] | None = None,
    losses: str | Sequence[str] | None = None,
    levels: str | Sequence[str] | None = None,
    metric: str | None = None,
    seed: int | None = None,
    test: str | None = None,
    ensemble: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    cache_size: str | int | None = None,
    pool: str | None = None,
    storage: str | None = None,
    trial_timeout: str | float | None = None,
    engine: str | None = None,
    offline: bool | None = None,
    download: Literal["never", "ask", "always"] | None = None,
    strict_images: bool | None = None,
    without_plugins: Sequence[str] | None = None,
    strict_plugins: bool | None = None,
    extend: bool = False,
    progress: "Progress | None" = None,
    callbacks: Sequence[Callback] = (),
) -> SearchResult:
    """Search for the best classifier of labelled images. The same `name` and `output` again resume a search.

    An argument that is None has the value of the study file or StudyConfig in `data`, else the default in parentheses.

    Args:
        data: a folder of class folders, a CSV manifest, the name of a dataset, a study file (`*.toml`), a StudyConfig,
            or a list of LabelledImage.
        name: name of the study (the last folder of `data`).
        output: folder of all studies; the search lies in `output/name` ("studies").
        time: time budget: "90s", "10m", "1h30m" or seconds ("10m" where `trials` is None too).
        trials: maximum number of trials (no limit).
        devices: where trials run, one worker each: "cpu", "cpu*2", "cuda:0,cuda:1", "cuda:0,cpu*4" ("auto": every GPU
            that works, and CPU workers beside it for heads on recorded features). Or a cluster that a plugin knows, by
            its address, "dask:tcp://host:8786", or by its client.
        force: start all workers that `devices` asks for, however few cores and memory there are.
        backbones: names of pretrained networks to search (those that need no download, and those of autotl's own list
            that are worth their download here).
        strategies: names of strategies to search (all).
        heads: names of heads to search (all).
        augmentations: names of augmentation policies to search (all).
        losses: names of losses to search (all).
        levels: names of feature levels to search (all).
        metric: validation score to optimise ("accuracy").
        seed: seed of the split and of each trial (0).
        test: location of test images, or "none" (the test subset of `data`, else 20 % of its images).
        ensemble: maximum number of trials that the model combines (8).
        cache: folder of recorded features (the user's cache folder).
        cache_size: maximum size of the cache: "20GB", "512MB" or bytes ("20GB").
        pool: where hosts share recorded features, `file:///FOLDER` or `s3://BUCKET/FOLDER` (nowhere).
        storage: a database for the study, `postgresql+psycopg://USER@HOST/DATABASE`, without its password, which comes
            from the environment variable AUTOTL_STORAGE or from .pgpass (a journal in the study's folder).
        trial_timeout: maximum time of a trial (none, and 1 h without a message of its worker).
        engine: inference engine of frozen backbones (the fastest that the device supports).
        offline: never download weights, as `download="never"` (False).
        download: whether weights may be downloaded: "never", "ask" or "always" (ask at a terminal; elsewhere, as in a
            script or a notebook, only for the backbones that are named).
        strict_images: raise an error for a file that can't be decoded instead of skipping it (False).
        without_plugins: names of plugins to leave out (none).
        strict_plugins: raise an error for a broken plugin instead of disabling it (False).
        extend: search with other choices in a new study, which takes over the fitting trials of study `name`.
        progress: the display; None shows a live table in a notebook and nothing elsewhere.
        callbacks: called with the events of the search; may stop it.

    Raises:
        AutotlError: a value, the images or a plugin is invalid; NoTrialSucceeded where no trial is complete.
        KeyboardInterrupt: Ctrl-C was pressed twice, or before a trial was complete.

    Trains networks for minutes, so the tests don't run this example:

    >>> result = search("photos/", time="10m", backbones=["resnet18"])  # doctest: +SKIP
    >>> result.test["accuracy"], result.leaderboard[0]["description"]  # doctest: +SKIP
    (0.97, 'resnet18 · fine_tuning (unfrozen_blocks 2) · linear')
    >>> result.model.predict(["new.jpg"])  # doctest: +SKIP
    array(['cat'], dtype='<U3')
    """
    from autotl.coordinator.run import run_search
    from autotl.ui.reporters import default_progress

    source: StudyConfig | str
    images: list[LabelledImage] | None = None
    if isinstance(data, StudyConfig):
        source = data
    elif isinstance(data, str | os.PathLike):
        source = os.fspath(data)
    else:
        source, images = IN_MEMORY, as_labelled_images(data)
    require_utf8(data=source, name=name, output=output, test=test, cache=cache)
    config = study_config(
        source,
        name=name,
        output=output,
        time=time,
        trials=trials,
        devices=None if devices is None else _devices_text(devices, without_plugins or ()),
        force=force,
        backbones=backbones,
        strategies=strategies,
        heads=heads,
        augmentations=augmentations,
        losses=losses,
        levels=levels,
        metric=metric,
        seed=seed,
        test=test,
        ensemble=ensemble,
        cache=cache,
        cache_size=cache_size,
        pool=pool,
        storage=storage,
        trial_timeout=trial_timeout,
        engine=engine,
        offline=offline,
        download=download,
        strict_images=strict_images,
        without_plugins=without_plugins,
        strict_plugins=strict_plugins,
    )
    studies = config.output.absolute()  # a callback may change the current folder
    result = run_search(
        config, progress or default_progress(), extend=extend, images=images, callbacks=tuple(callbacks)
    )
    return SearchResult(studies / result["study"], result)


def _devices_text(devices: object, without_plugins: Sequence[str]) -> str:
    """`devices` as `--devices` has it. A cluster's client is known to its plugin alone."""
    if isinstance(devices, str):
        return devices
    from autotl.coordinator.launching import devices_text
    from autotl.registry import load_registry

    return devices_text(devices, load_registry(without_plugins))


def join(
    study: StudyConfig | str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    devices: str | None = None,
    progress: "Progress | None" = None,
) -> int:
    """Add workers to a search that another process on this machine runs, until it ends.

    Args:
        study: the study's name or folder; or what was passed to `search` as `data`.
        output: folder of all studies ("studies").
        devices: where the workers run ("auto"), as in `search`. A StudyConfig has its own.
        progress: the display; None shows a live table in a notebook and nothing elsewhere.

    Returns:
        The number of workers.

    Raises:
        AutotlError: no search runs there.
    """
    from autotl.coordinator.join import join_search
    from autotl.ui.reporters import default_progress

    return join_search(_joined_config(study, output, devices), progress or default_progress())


def _joined_config(
    study: StudyConfig | str | os.PathLike[str], output: str | os.PathLike[str] | None, devices: str | None
) -> StudyConfig:
    if isinstance(study, StudyConfig):
        return study
    from autotl.coordinator.setup import kept_config

    try:
        folder = find_study(os.fspath(study), Path(output or "studies"))
    except AutotlError:  # not a study: the location of its data
        return study_config(os.fspath(study), output=output, devices=devices)
    return kept_config(folder).model_copy(update={"devices": devices or "auto"})


def replay(
    study: str | os.PathLike[str],
    number: int,
    *,
    output: str | os.PathLike[str] = "studies",
    data: str | os.PathLike[str] | Sequence[LabelledImage] | None = None,
    test: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Train a complete trial of a study again, from its recipe, in this process.

    Args:
        study: the study's name or folder.
        number: the trial's number.
        output: folder of all studies.
        data: the study's images, where they have moved since the search, or were passed to it as a list.
        test: its separate test images, where they have moved.

    Returns:
        `recorded` and `replayed` score on the validation images, the name of the `metric`, and the `recipe`.

    Raises:
        AutotlError: there is no such study or complete trial, or its images are missing or have changed.
    """
    from autotl.coordinator.replay import replay_trial
    from autotl.coordinator.setup import kept_config

    folder = find_study(os.fspath(study), Path(output))
    if data is None and kept_config(folder).data == IN_MEMORY:
        raise AutotlError(
            f"The images of study {folder.name!r} were passed from Python, and no file lists them. Pass them again: "
            "autotl.replay(…, data=images)"
        )
    images = None if data is None or isinstance(data, str | os.PathLike) else as_labelled_images(data)
    location = IN_MEMORY if images is not None else data
    return replay_trial(
        folder,
        number,
        data=None if location is None else os.fspath(location),  # type: ignore[arg-type]
        test=None if test is None else os.fspath(test),
        images=images,
    )


def evaluate(
    model: "ImageModel | str | os.PathLike[str]",
    data: str | os.PathLike[str] | Sequence[LabelledImage],
    *,
    subset: Literal["auto", "test", "all"] = "auto",
    device: str = "auto",
    include_trained: bool = False,
) -> dict[str, Any]:
    """Score a model on labelled images.

    Args:
        model: a model, its folder, or the name or folder of its study.
        data: a folder of class folders, a CSV manifest, the name of a dataset, or a list of LabelledImage.
        subset: "test" or "all" images of `data`; "auto" is the test subset where there is one, else all.
        device: "auto" (the first accelerator that works, else the CPU), "cpu", "mps", "cuda", "cuda:N" or "xpu". A
            loaded model stays on its own.
        include_trained: score images that trained or selected the model, too; they are left out otherwise.

    Returns:
        `scores`, with that of the metric that the search optimised, `per_class` (a dict for each class), `confusion`
        (rows: true class, columns: predicted class), `classes`, `subset`, the `skipped` files with their reasons, and
        `notes`: sentences on what was left out of `data`, on classes that only the images or only the model have, on
        scores that are undefined, and on images that the model was trained on.

    Raises:
        AutotlError: there is no such model, data or subset, no image is of a class of the model, or the model was
            trained on all of them.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    from autotl.data.loading import load_dataset
    from autotl.metrics import all_scores
    from autotl.model.evaluation_notes import on_trained_images, what_is_unknown
    from autotl.model.image_model import MAX_UNCOMPILED, ImageModel, load
    from autotl.model.training_images import known_images
    from autotl.registry import load_registry

    images = None if isinstance(data, str | os.PathLike) else as_labelled_images(data)
    location = os.fspath(data) if images is None else IN_MEMORY  # type: ignore[arg-type]
    registry = load_registry()
    folder: Path | None = None
    if isinstance(model, ImageModel):
        loaded = model
    else:
        folder = find_model(os.fspath(model))
        loaded = load(folder, device, registry)
    notes: list[str] = []
    used: str = subset

    def choose(images: list[LabelledImage]) -> list[LabelledImage]:
        nonlocal used
        test = [image for image in images if image.subset == "test"]
        used = ("test" if test else "all") if subset == "auto" else subset
        if used == "test" and not test:
            raise AutotlError(f"{location} has no test subset. Evaluate on all of it: --subset all")
        return test if used == "test" else images

    def leave_out(problem: Finding) -> None:
        notes.append(f"{problem.text} {problem.count:,} image{'s are' if problem.count != 1 else ' is'} left out.")

    dataset = load_dataset(
        location, registry.datasets, images=images, classes=loaded.classes, on_problem=leave_out, choose=choose
    )
    skipped = {s.path: s.reason for s in dataset.skipped}
    trained = known_images(loaded.trained_on, folder, dataset.digests, location, refuse_all=not include_trained)
    chosen = np.flatnonzero(include_trained | ~trained)
    paths = [dataset.paths[int(i)] for i in chosen]
    rows = loaded.stream(paths, skipped.__setitem__, many=len(paths) > MAX_UNCOMPILED, checked=True)
    probabilities = np.array([row for _, row in rows])
    if not len(probabilities):
        raise AutotlError(f"No image of {location} can be decoded any more.")
    labels = dataset.labels[chosen][[path not in skipped for path in paths]]
    every = np.arange(len(loaded.classes))
    columns = precision_recall_fscore_support(labels, probabilities.argmax(1), labels=every, zero_division=0)
    names = ("precision", "recall", "f1", "n")
    asked = str(loaded.about.get("metric"))
    metric = registry.metrics.get(asked)
    if metric is None and "metric" in loaded.about:
        notes.append(f"The metric of the search, {asked!r}, is of a plugin that isn't installed.")
    scores = all_scores(labels, probabilities, metric)
    return {
        "subset": used,
        "scores": scores,
        "per_class": [
            {"class": name, **{k: float(column[i]) for k, column in zip(names, columns, strict=True)}}
            for i, name in enumerate(loaded.classes)
        ],
        "confusion": confusion_matrix(labels, probabilities.argmax(1), labels=every).tolist(),
        "classes": list(loaded.classes),
        "skipped": [{"path": str(path), "reason": reason} for path, reason in skipped.items()],
        "notes": [
            *dataset.warnings,
            *notes,
            *on_trained_images(int(trained.sum()), len(trained), included=include_trained),
            *what_is_unknown(labels, loaded.classes, scores, metric),
        ],
    }
