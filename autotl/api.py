"""autotl from Python: `search`, `evaluate`, `replay` and `join`. The command line calls these."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from autotl.config import StudyConfig, find_model, find_study, study_config
from autotl.data.dataset import Finding, LabelledImage
from autotl.data.inputs import IN_MEMORY, as_labelled_images
from autotl.errors import AutotlError
from autotl.escaping import require_utf8
from autotl.events import Callback
from autotl.folders import expand_home
from autotl.search_result import SearchResult

if TYPE_CHECKING:
    from autotl.model.image_model import ImageModel
    from autotl.ui.progress import Progress

__all__ = ["SearchResult", "evaluate", "join", "replay", "search"]


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
    joined: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    cache_size: str | int | None = None,
    pool: str | None = None,
    storage: str | None = None,
    trial_timeout: str | float | None = None,
    max_latency: str | float | None = None,
    max_size: str | int | None = None,
    max_parameters: str | int | None = None,
    engine: str | None = None,
    offline: bool | None = None,
    download: Literal["never", "ask", "always"] | None = None,
    strict_images: bool | None = None,
    align: bool | None = None,
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
        joined: maximum number of backbones whose recorded features one head sees side by side (3); 1 joins none.
        cache: folder of recorded features (the user's cache folder).
        cache_size: maximum size of the cache: "20GB", "512MB" or bytes ("20GB").
        pool: where hosts share recorded features, `file:///FOLDER` or `s3://BUCKET/FOLDER` (nowhere).
        storage: a database for the study, `postgresql+psycopg://USER@HOST/DATABASE`, without its password, which comes
            from the environment variable AUTOTL_STORAGE or from .pgpass (a journal in the study's folder).
        trial_timeout: maximum time of a trial (none, and 1 h without a message of its worker).
        max_latency: most time for one image in the model's networks, without reading it: "20ms" or milliseconds (none).
        max_size: maximum size of the model's weights as saved: "50MB" or bytes (none).
        max_parameters: maximum number of parameters of the model's networks together: "10M" or a number (none).
        engine: inference engine of frozen backbones (the fastest that the device supports).
        offline: never download weights, as `download="never"` (False).
        download: whether weights may be downloaded: "never", "ask" or "always" (ask at a terminal; elsewhere, as in a
            script or a notebook, only for the backbones that are named).
        strict_images: raise an error for a file that can't be decoded instead of skipping it (False).
        align: measure early which backbones suit the images, and try those first; experimental (False).
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
        joined=joined,
        cache=cache,
        cache_size=cache_size,
        pool=pool,
        storage=storage,
        trial_timeout=trial_timeout,
        max_latency=max_latency,
        max_size=max_size,
        max_parameters=max_parameters,
        engine=engine,
        offline=offline,
        download=download,
        strict_images=strict_images,
        align=align,
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
    from autotl.coordinator.join import join_search, joined_config
    from autotl.ui.reporters import default_progress

    return join_search(joined_config(study, output, devices), progress or default_progress())


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
        `recorded` and `replayed` score on the images that the trial has predicted out of fold, the name of the
        `metric`, and the `recipe`.

    Raises:
        AutotlError: there is no such study or complete trial, or its images are missing or have changed.
    """
    from autotl.coordinator.replay import given_again, replay_trial

    folder = find_study(os.fspath(study), Path(output))
    return replay_trial(folder, number, **given_again(folder, data, test))


def evaluate(
    model: "ImageModel | str | os.PathLike[str]",
    data: str | os.PathLike[str] | Sequence[LabelledImage],
    *,
    subset: Literal["auto", "test", "all"] = "auto",
    device: str = "auto",
    include_trained: bool = False,
    csv: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Score a model on labelled images.

    Args:
        model: a model, its folder, or the name or folder of its study.
        data: a folder of class folders, a CSV manifest, the name of a dataset, or a list of LabelledImage.
        subset: "test" or "all" images of `data`; "auto" is the test subset where there is one, else all.
        device: "auto" (the first accelerator that works, else the CPU), "cpu", "mps", "cuda", "cuda:N" or "xpu". A
            loaded model stays on its own.
        include_trained: score images that trained or selected the model, too; they are left out otherwise.
        csv: a file to write what was predicted for each image to, the worst first.

    Returns:
        `scores`, with that of the metric that the search optimised, `per_class` (a dict for each class), `confusion`
        (rows: true class, columns: predicted class), `classes`, `subset`, the `skipped` files with their reasons, and
        `notes`: sentences on what was left out of `data`, on classes that only the images or only the model have, on
        scores that are undefined, and on images that the model was trained on.

    Raises:
        AutotlError: there is no such model, data or subset, no image is of a class of the model, or the model was
            trained on all of them.
    """
    from sklearn.metrics import confusion_matrix

    from autotl.data.loading import load_dataset
    from autotl.metrics import all_scores
    from autotl.model.evaluation_notes import on_trained_images, scores_of_classes, what_is_unknown
    from autotl.model.file_prediction import require_target
    from autotl.model.image_model import MAX_UNCOMPILED, ImageModel, load
    from autotl.model.prediction_table import write_predictions
    from autotl.model.training_images import known_images
    from autotl.registry import load_registry

    images = None if isinstance(data, str | os.PathLike) else as_labelled_images(data)
    location = os.fspath(data) if images is None else IN_MEMORY  # type: ignore[arg-type]
    registry = load_registry()
    folder: Path | None = None
    target = None if csv is None else require_target(expand_home(Path(csv)))
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
    asked = str(loaded.about.get("metric"))
    metric = registry.metrics.get(asked)
    if metric is None and "metric" in loaded.about:
        notes.append(f"The metric of the search, {asked!r}, is of a plugin that isn't installed.")
    scores = all_scores(labels, probabilities, metric)
    if target is not None:
        write_predictions(target, [p for p in paths if p not in skipped], labels, probabilities, loaded.classes)
    return {
        "subset": used,
        "scores": scores,
        "per_class": scores_of_classes(labels, probabilities, loaded.classes),
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
