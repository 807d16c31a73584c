"""Replay: a recorded trial is trained again."""

import dataclasses
import math
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, TrialState

from autotl.backbones.weights import no_downloads
from autotl.config import StudyConfig, study_config
from autotl.data.dataset import LabelledImage, join_names
from autotl.data.inputs import IN_MEMORY, as_labelled_images
from autotl.errors import AutotlError, DataError
from autotl.escaping import escape

if TYPE_CHECKING:
    from autotl.devices import Slot
    from autotl.recipe import Recipe
    from autotl.study.space import Choices
    from autotl.trial.state import WorkerState

__all__ = ["given_again", "open_state", "replay_trial", "require_chosen"]


def replay_trial(
    folder: Path,
    number: int,
    *,
    data: str | None = None,
    test: str | None = None,
    images: Sequence[LabelledImage] | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train the recipe of a complete trial again, in this process.

    Args:
        folder: the study's folder.
        data: where the study's images are now; None where they were.
        test: where its separate test images are now; None where they were.
        images: the labelled images, where `data` is only a name for them.
        log: shows a line to the user.

    Returns:
        `recorded` and `replayed` score on the images that the trial has predicted out of fold, `metric`, and `recipe`.

    Raises:
        AutotlError: the study can't be read, it has no such complete trial, or its images are missing or have changed.
    """
    from autotl.coordinator.setup import kept_config
    from autotl.study.study import load_study

    config = kept_config(folder)
    trials = load_study(config.folder, config.seed).get_trials(deepcopy=False)
    trial = _complete_trial(trials, number, config.name)  # before the images are read, which may take minutes
    config = study_config(config, data=data, test=test)  # a place that was typed is trusted
    with no_downloads(when=config.forbids_downloads):
        return _replay(config, trial, images, log)


def _replay(
    config: StudyConfig, trial: FrozenTrial, images: Sequence[LabelledImage] | None, log: Callable[[str], None]
) -> dict[str, Any]:
    from autotl.engines.accelerator import deterministic
    from autotl.recipe import Recipe
    from autotl.study.study import TrialAttribute
    from autotl.trial.folds import fit_folds, predicted
    from autotl.trial.sampling import sampled

    state = open_state(config, images, log)
    recipe = Recipe.from_dict(trial.user_attrs[TrialAttribute.RECIPE])
    require_chosen(recipe, state.context.choices, trial.number, config.name)
    if sample := trial.user_attrs.get(TrialAttribute.SAMPLE):
        state = sampled(state, sample)
    with deterministic():
        folds = min(trial.user_attrs.get(TrialAttribute.FOLDS, 1), state.context.split.num_folds)
        fitted = fit_folds(state, recipe, math.inf, lambda fraction, score: None, folds=folds)
    score = state.registry.metric(config.metric)(*predicted(state, fitted.probabilities))
    return {"recorded": trial.value, "replayed": score, "metric": config.metric, "recipe": recipe.to_dict()}


def given_again(
    folder: Path,
    data: str | os.PathLike[str] | Sequence[LabelledImage] | None,
    test: str | os.PathLike[str] | None,
) -> dict[str, Any]:
    """`data`, `test` and `images` of a study whose images have moved, or were passed as a list and are passed again.

    Args:
        folder: the study's.

    Raises:
        AutotlError: the images were passed as a list, and aren't now.
    """
    from autotl.coordinator.setup import kept_config

    if data is None and kept_config(folder).data == IN_MEMORY:
        raise AutotlError(
            f"The images of study {folder.name!r} were passed from Python, and no file lists them. Pass them again: "
            "data=images"
        )
    listed = None if data is None or isinstance(data, str | os.PathLike) else as_labelled_images(data)
    location = IN_MEMORY if listed is not None else data
    return {
        "data": None if location is None else os.fspath(location),  # type: ignore[arg-type]
        "test": None if test is None else os.fspath(test),
        "images": listed,
    }


def open_state(
    config: StudyConfig, images: Sequence[LabelledImage] | None, log: Callable[[str], None]
) -> "WorkerState":
    """What a worker of a search that has ended would work with, in this process.

    Args:
        config: the study's.
        images: the labelled images, where `config.data` is only a name for them.

    Raises:
        AutotlError: the images are missing or have changed, or the study's folder can't be written.
    """
    import torch

    from autotl.clock import Deadline
    from autotl.coordinator.choose_backbones import DownloadPolicy
    from autotl.coordinator.setup import ImagesChanged, prepare
    from autotl.features.store import StoreUnavailable
    from autotl.registry import load_registry
    from autotl.trial.state import WorkerState
    from autotl.workers.messages import FromWorker, Log

    def show(message: FromWorker) -> None:
        if isinstance(message, Log):
            log(message.text)

    registry = load_registry(config.without_plugins, strict=config.strict_plugins)
    try:
        # the recipe's own backbone is downloaded when it is built, and no other
        policy = DownloadPolicy(config, confirm=lambda question: True)
        context = prepare(config, registry, _slots(config.devices), log, images, policy=policy)
    except ImagesChanged:
        raise AutotlError(
            f"The images in {config.data} are not those that study {config.name!r} began with. Give the place of "
            "those: --data FOLDER"
        ) from None
    except DataError as error:
        raise AutotlError(f"{error} Where the images of study {config.name!r} have moved: --data FOLDER") from error
    try:
        state = WorkerState.set_up(context, show, Deadline())
    except StoreUnavailable as error:
        raise AutotlError(
            f"{config.folder} can't be written: features are recorded there. Copy the study's folder to another place, "
            "and name the copy."
        ) from error
    torch.set_num_threads(context.slot.threads)
    return state


def _slots(devices: str) -> "list[Slot]":
    """The slots of `--devices`, the first on a device that works in this process. Where the search ran on a cluster, or
    on a GPU that this machine doesn't have: what there is."""
    from autotl.devices import parse_devices
    from autotl.model.device import resolve_device

    try:
        (first, *others), device = parse_devices(devices), resolve_device(devices)
    except AutotlError:
        (first, *others), device = parse_devices("auto"), resolve_device("auto")
        warnings.warn(
            f"The search ran on {devices}, which is not on this machine: {device} is used, and scores may differ.",
            stacklevel=2,
        )
    return [dataclasses.replace(first, device=device, device_type=device.split(":")[0]), *others]


def require_chosen(recipe: "Recipe", choices: "Choices", number: int, study: str) -> None:
    """Raise AutotlError where a recipe, which may be a stranger's, names what its study doesn't choose from."""
    for component, name, known in (
        ("backbone", recipe.backbone, choices.backbones),
        ("strategy", recipe.strategy, choices.strategies),
        ("head", recipe.head, choices.heads),
    ):
        if name not in known:
            raise AutotlError(
                f"Trial {number} of {study!r} was trained with the {component} {escape(name)[:100]!r}, and the study "
                f"chooses from {', '.join(known)} here. Install the plugin that has it."
            )


def _complete_trial(trials: list[FrozenTrial], number: int, study: str) -> FrozenTrial:
    complete = {trial.number: trial for trial in trials if trial.state == TrialState.COMPLETE}
    if number not in complete:
        numbers = join_names([str(n) for n in sorted(complete)], 10) or "none"
        raise AutotlError(
            f"Study {study!r} has no complete trial {number}. Complete trials: {numbers}. See leaderboard.csv there."
        )
    return complete[number]
