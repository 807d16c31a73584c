"""The test images, predicted once by the model of a search: from what is recorded of them, and from their files."""

import shlex
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from autotl.clock import Deadline
from autotl.features.progress import ExtractionProgress
from autotl.model.image_model import ImageModel
from autotl.trial.recorded_test import MANY_IMAGES, frozen_outputs, recorded_probabilities
from autotl.trial.results import TestPredictions
from autotl.trial.state import WorkerState
from autotl.trial.tested_features import OutputRecorder
from autotl.workers.messages import NO_TIME_TO_TEST, Context, Log

__all__ = ["how_to_test_all", "predict_test_images"]

PROGRESS_INTERVAL = 32
"""Number of predicted images between two messages."""
STOP_SECONDS = 1.0
"""Remaining time in which test images are predicted no more: the scores are still to be written."""
MIN_TEST_SECONDS = 5.0
"""Seconds of predictions for a search whose time was up before them. After Ctrl-C there are none."""


def predict_test_images(
    state: WorkerState, model: ImageModel, deadline: Deadline, *, interrupted: bool
) -> TestPredictions | None:
    """Probabilities of the test images as far as there is time. None where there are no test images or where none was
    predicted.

    What is recorded of them takes no time. The networks of the other members predict them from their files, in random
    order, so that the first ones represent all of them. A file that has vanished since the search began, or can't be
    read any more, is skipped with a message.
    """
    total = len(state.context.split.test)
    if not total:
        return None
    order = np.random.default_rng(state.context.config.seed).permutation(total)
    recorded, missing = recorded_probabilities(state, model.members, model.about["refitted"])
    features, backbone = frozen_outputs(state, model.members, order)
    if not missing:
        return TestPredictions(order, recorded[order], features, backbone)
    if interrupted and deadline.remaining() < STOP_SECONDS:
        state.send(Log(NO_TIME_TO_TEST))
        return None
    part = replace(model, members=missing)  # compiles its own networks
    recorder = part.on_features = OutputRecorder(part)
    rows, predicted = _predict(state, part, order, deadline, interrupted=interrupted)
    if not len(rows):
        return None
    if features is None:
        paths = [state.context.dataset.paths[i] for i in state.context.split.test[rows]]
        features, backbone = recorder.outputs(paths), recorder.backbone
    else:
        features = features[: len(rows)] if (rows == order[: len(rows)]).all() else None
    share = sum(member.weight for member in missing)
    return TestPredictions(rows, recorded[rows] + share * predicted, features, backbone)


def _predict(
    state: WorkerState, model: ImageModel, order: np.ndarray, deadline: Deadline, *, interrupted: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The positions in the test subset of the images that there was time for, [n], and the model's probabilities,
    [n, num_classes]."""
    total = len(order)
    paths = [state.context.dataset.paths[i] for i in state.context.split.test[order]]
    row_of = dict(zip(paths, order.tolist(), strict=True))
    least = Deadline(0.0 if interrupted else MIN_TEST_SECONDS, deadline.clock)
    rows: list[int] = []
    probabilities: list[np.ndarray] = []
    skipped: set[Path] = set()

    def skip(path: Path, reason: str) -> None:
        skipped.add(path)
        state.send(Log(f"the test image {path} is skipped: {reason}"))

    began = time.monotonic()
    for path, row in model.stream(paths, skip, many=total > MANY_IMAGES, checked=True):
        rows.append(row_of[path])
        probabilities.append(row)
        if deadline.remaining() < STOP_SECONDS and least.passed() and len(rows) + len(skipped) < total:
            remedy = how_to_test_all(state.context, state.study_folder)
            state.send(Log(f"Tested on {len(rows):,} of {total:,} test images: the time was up. {remedy}"))
            break
        if len(rows) % PROGRESS_INTERVAL == 0:
            speed = len(rows) / (time.monotonic() - began)
            state.send(ExtractionProgress("", "", "", len(rows), total, speed))
    return np.array(rows, dtype=np.int64), np.stack(probabilities) if rows else np.empty((0, len(model.classes)))


def how_to_test_all(context: Context, folder: Path) -> str:
    """What to type to test the model on all test images. `folder` is the study's."""
    config, model = context.config, shlex.quote(str(folder / "model"))
    if config.test not in (None, "none") and Path(str(config.test)).exists():
        return (
            f"All of them: autotl evaluate {model} {shlex.quote(str(Path(str(config.test)).absolute()))} --subset all"
        )
    if "test" in context.dataset.subsets and Path(config.data).exists():
        return f"All of them: autotl evaluate {model} {shlex.quote(str(Path(config.data).absolute()))}"
    return "The same search command with a longer --time tests on all of them."
