"""The last job of a search: select the members, refit them, save the model, and predict the test images once."""

import copy
import math
import shlex
import time
from pathlib import Path
from typing import Any

import numpy as np

from autotl.clock import Deadline
from autotl.errors import AutotlError
from autotl.features.progress import ExtractionProgress
from autotl.model.card import add_results
from autotl.model.doubt import Doubt
from autotl.model.image_model import ImageModel
from autotl.model.member import Member
from autotl.report.write import report_seconds
from autotl.trial.doubts import measure_doubt
from autotl.trial.refit import EarlierModel, refit
from autotl.trial.report import report
from autotl.trial.results import SearchResults, TestPredictions, annotate_study
from autotl.trial.runner import release_memory
from autotl.trial.selection import SAVING_SECONDS, choose_members, kept_candidates
from autotl.trial.state import WorkerState
from autotl.trial.tested_features import OutputRecorder
from autotl.workers.messages import NO_TIME_TO_TEST, Context, Finalize, Log, ModelSaved

__all__ = ["finalize"]

MANY_IMAGES = 256
"""Number of test images from which compiling a network for an engine is worth its time."""
PROGRESS_INTERVAL = 32
"""Number of predicted images between two messages."""
STOP_SECONDS = 1.0
"""Remaining time in which test images are predicted no more: the scores are still to be written."""
MIN_REPORT_SECONDS = 1.0
"""Seconds for the report of a search whose time is up. After Ctrl-C it has only what needs no time."""
MIN_TEST_SECONDS = 5.0
"""Seconds of predictions for a search whose time was up before them. After Ctrl-C there are none."""


def finalize(state: WorkerState, job: Finalize) -> dict[str, Any]:
    """Assemble, save and test the model. Sends ModelSaved before members are refitted, before the test images
    are predicted, and before plugins are notified: whatever takes too long there, the model is complete.

    Returns:
        What `result.json` holds, with `leaderboard`, `members`, and the paths `model` and `report`.

    Raises:
        AutotlError: no complete trial has a fitted model.
    """
    import torch

    deadline = Deadline(math.inf if job.remaining is None else job.remaining, state.deadline.clock)
    results = SearchResults(state, job.facts)
    torch.set_num_threads(state.context.cores)  # the other workers are idle
    state.extractor.threads = state.context.cores
    if state.link:
        state.link.fetch("trials", "model", "artifacts")
    candidates = kept_candidates(state)
    if not candidates:
        within = f" within {state.context.config.limits.describe()}" if state.context.config.limits else ""
        raise AutotlError(f"No complete trial has a fitted model{within} in {state.context.folder / 'trials'}")
    earlier = EarlierModel.of(state)
    reserved = SAVING_SECONDS + report_seconds(state.context.config.time)
    members, prediction_seconds = choose_members(
        state, candidates, job.seconds_per_image, deadline.remaining() - reserved, earlier.folders
    )
    out_of_fold = {candidate.number: candidate.out_of_fold for candidate in candidates}
    held_out = np.sum([member.weight * out_of_fold[member.trial] for member in members], axis=0)
    results.selected(held_out)
    chosen = [copy.copy(member) for member in members]
    limits = state.context.config.limits
    # a head that keeps its training images grows with them, so what an earlier search has fitted may be too large
    fitted_on_all = sorted(c.number for c in candidates if c.fitted_on_all and c.number in {m.trial for m in members})
    partly = [member for member in members if member.trial not in fitted_on_all]
    refitted = [*fitted_on_all, *(earlier.reuse(state, partly) if limits.megabytes is None else [])]
    others = [member for member in members if member.trial not in refitted]
    doubt = measure_doubt(state, members, held_out)
    state.extractor.release_networks()  # the model builds its own; both together may not fit into memory
    model, newly = None, []
    if job.refit and others and deadline.remaining() > reserved + prediction_seconds:
        # a fit inside of a library can't be interrupted: the model is there before it begins
        model = _assemble(state, members, job, sorted(refitted), doubt)
        _save(state, results, model)
        newly = refit(state, others, deadline.remaining() - reserved - prediction_seconds)
    release_memory()
    if model is None or newly:
        model = _assemble(state, members, job, sorted([*refitted, *newly]), doubt)
        # a user who has pressed Ctrl-C may not wait for the test images
        _save(state, results, model)
        if newly and limits.exceeded(results.costs(model)):
            state.send(Log(f"The members are not fitted again with the validation images: {limits.describe()}"))
            model = _assemble(state, chosen, job, fitted_on_all, doubt)
            _save(state, results, model)
    tested = _predict_test_images(state, model, deadline, interrupted=job.interrupted)
    result = results.write(model, tested)
    results.write_test_images(tested)
    add_results(state.context.folder / "model", results.about(result))
    state.publish("model/model.json", "model/README.md")
    state.send(ModelSaved(result, is_tested=True))  # a plugin may hang
    annotate_study(state.study, result)
    search = report(state, model, result, tested, _report_seconds(state, deadline, interrupted=job.interrupted))
    state.registry.notify("autotl_search_finished", study=state.study, model=model, search=search)
    return result | {"report": str(state.study_folder / search.report.name) if search.report else None}


def _report_seconds(state: WorkerState, deadline: Deadline, *, interrupted: bool) -> float:
    """Seconds that the report may take: within the deadline, but for what needs hardly any time."""
    least = 0.0 if interrupted else MIN_REPORT_SECONDS
    return max(least, min(report_seconds(state.context.config.time), deadline.remaining() - 0.5))


def _save(state: WorkerState, results: SearchResults, model: ImageModel) -> None:
    """Save a model that isn't tested yet, with its results, and tell the coordinator."""
    model.save(state.context.folder / "model")
    state.publish("model")
    state.send(ModelSaved(results.write(model, None)))


def _assemble(
    state: WorkerState, members: list[Member], job: Finalize, refitted: list[int], doubt: Doubt
) -> ImageModel:
    config, dataset, split = state.context.config, state.context.dataset, state.context.split
    return ImageModel(
        dataset.classes,
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
        trained_on=frozenset(dataset.digests[i] for i in (*split.train, *split.validation)),
        doubt=doubt,
    )


def _predict_test_images(
    state: WorkerState, model: ImageModel, deadline: Deadline, *, interrupted: bool
) -> TestPredictions | None:
    """Probabilities of the test images, from their files, as far as there is time. None where there are no test images
    or where none was predicted.

    The images are predicted in random order, so that the first ones represent all of them. A file that has vanished
    since the search began, or can't be read any more, is skipped with a message.
    """
    total = len(state.context.split.test)
    if not total:
        return None
    if interrupted and deadline.remaining() < STOP_SECONDS:
        state.send(Log(NO_TIME_TO_TEST))
        return None
    order = np.random.default_rng(state.context.config.seed).permutation(total)
    paths = [state.context.dataset.paths[i] for i in state.context.split.test[order]]
    row_of = dict(zip(paths, order, strict=True))
    least = Deadline(0.0 if interrupted else MIN_TEST_SECONDS, deadline.clock)
    rows: list[int] = []
    probabilities: list[np.ndarray] = []
    skipped: set[Path] = set()

    def skip(path: Path, reason: str) -> None:
        skipped.add(path)
        state.send(Log(f"the test image {path} is skipped: {reason}"))

    recorder = model.on_features = OutputRecorder(model)
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
    model.on_features = None
    if not rows:
        return None
    features = recorder.outputs([path for path in paths if row_of[path] in set(rows)])
    return TestPredictions(np.array(rows), np.stack(probabilities), features, recorder.backbone)


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
