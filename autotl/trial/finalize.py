"""The last job of a search: select the members, refit them, save the model, and predict the test images once."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from autotl.clock import Deadline
from autotl.errors import AutotlError
from autotl.features.progress import ExtractionProgress
from autotl.model.image_model import ImageModel
from autotl.model.member import Member
from autotl.trial.refit import refit
from autotl.trial.results import SearchResults, annotate_study
from autotl.trial.runner import release_memory
from autotl.trial.selection import SAVING_SECONDS, choose_members, kept_candidates
from autotl.trial.state import WorkerState
from autotl.workers.messages import NO_TIME_TO_TEST, Finalize, Log, ModelSaved

__all__ = ["finalize"]

MANY_IMAGES = 256
"""Number of test images from which compiling a network for an engine is worth its time."""
PROGRESS_INTERVAL = 32
"""Number of predicted images between two messages."""
STOP_SECONDS = 1.0
"""Remaining time in which an interrupted search stops to predict."""


def finalize(state: WorkerState, job: Finalize) -> dict[str, Any]:
    """Assemble, save and test the model. Sends ModelSaved before the test images are predicted.

    Returns:
        What `result.json` holds, with `leaderboard`, `members` and the path `model`.

    Raises:
        AutotlError: no complete trial has a fitted model.
    """
    import torch

    deadline = Deadline(math.inf if job.remaining is None else job.remaining, state.deadline.clock)
    results = SearchResults(state, job.facts)
    torch.set_num_threads(state.context.cores)  # the other workers are idle
    state.extractor.threads = state.context.cores
    candidates = kept_candidates(state)
    if not candidates:
        raise AutotlError(f"No complete trial has a fitted model in {state.context.folder / 'trials'}")
    members, prediction_seconds = choose_members(
        state, candidates, job.seconds_per_image, deadline.remaining() - SAVING_SECONDS
    )
    state.extractor.release_networks()  # the model builds its own; both together may not fit into memory
    refitted = []
    if job.refit:
        refitted = refit(state, members, deadline.remaining() - SAVING_SECONDS - prediction_seconds)
    release_memory()
    model = _assemble(state, members, job, refitted)
    folder = model.save(state.context.folder / "model")
    # a user who has pressed Ctrl-C may not wait for the test images
    state.send(ModelSaved(results.write(model, folder, None)))
    probabilities, tested = _predict_test_images(state, model, deadline, interrupted=job.interrupted)
    result = results.write(model, folder, probabilities, tested)
    annotate_study(state.study, result)
    state.registry.notify("autotl_search_finished", study=state.study, model=model)
    return result


def _assemble(state: WorkerState, members: list[Member], job: Finalize, refitted: list[int]) -> ImageModel:
    config = state.context.config
    return ImageModel(
        state.context.dataset.classes,
        members,
        {m.backbone_digest: state.registry.backbone(m.recipe.backbone) for m in members},
        registry=state.registry,
        device=state.context.slot.device,
        threads=state.context.cores,
        conversions=state.extractor.conversions,
        about={
            "study": config.name,
            "metric": config.metric,
            "versions": dict(job.facts.versions),
            "refitted": refitted,
        },
    )


def _predict_test_images(
    state: WorkerState, model: ImageModel, deadline: Deadline, *, interrupted: bool
) -> tuple[np.ndarray | None, list[int]]:
    """Probabilities of the test images, [n, num_classes], from their files, and the n positions in the test subset.

    A file that has vanished since the search began, or can't be read any more, is skipped with a message. The
    probabilities are None without test images, or if a search was interrupted and there is no time for all of them.
    """
    paths = [state.context.dataset.paths[i] for i in state.context.split.test]
    probabilities: list[np.ndarray] = []
    skipped: set[Path] = set()

    def skip(path: Path, reason: str) -> None:
        skipped.add(path)
        state.send(Log(f"the test image {path} is skipped: {reason}"))

    began = time.monotonic()
    for _, row in model.stream(paths, skip, many=len(paths) > MANY_IMAGES, checked=True):
        probabilities.append(row)
        if interrupted and deadline.remaining() < STOP_SECONDS:
            state.send(Log(NO_TIME_TO_TEST))
            return None, []
        if len(probabilities) % PROGRESS_INTERVAL == 0:
            speed = len(probabilities) / (time.monotonic() - began)
            state.send(ExtractionProgress("", "", "", len(probabilities), len(paths), speed))
    tested = [i for i, path in enumerate(paths) if path not in skipped]
    return (np.stack(probabilities) if probabilities else None), tested
