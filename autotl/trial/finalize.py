"""The last job of a search: select the members, refit them, save the model, and predict the test images once."""

import copy
import math
from functools import partial
from typing import Any

import numpy as np

from autotl.clock import Deadline
from autotl.errors import AutotlError
from autotl.model.card import add_results
from autotl.model.doubt import Doubt
from autotl.model.image_model import ImageModel
from autotl.model.member import Member
from autotl.report.write import report_seconds
from autotl.trial.doubts import measure_doubt
from autotl.trial.feature_duplicates import add_feature_duplicates
from autotl.trial.quick_start import quick_start
from autotl.trial.recorded_test import recorded_passes
from autotl.trial.refit import EarlierModel, refit
from autotl.trial.report import report
from autotl.trial.results import SearchResults, annotate_study
from autotl.trial.runner import release_memory
from autotl.trial.selection import (
    SAVING_SECONDS,
    choose_members,
    kept_candidates,
    passes_of_fits,
    prediction_seconds,
)
from autotl.trial.state import WorkerState
from autotl.trial.tested_images import predict_test_images
from autotl.workers.messages import Finalize, Log, ModelSaved

__all__ = ["finalize"]

MIN_REPORT_SECONDS = 1.0
"""Seconds for the report of a search whose time is up. After Ctrl-C it has only what needs no time."""
QUICK_START_SHARE = 0.1
"""Of the time that a search took: what a quick start of its model may cost."""


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
    recorded = recorded_passes(state, candidates)
    members, seconds_to_test = choose_members(
        state, candidates, job.seconds_per_image, deadline.remaining() - reserved, earlier.folders, recorded
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
    # the members of a model had all images, or samples of the same size: then a fit on all would take too long
    sample = int(candidates[0].sample) if math.isfinite(candidates[0].sample) else None
    others = [member for member in members if member.trial not in refitted and sample is None]
    chosen_candidates = [c for c in candidates if c.number in {member.trial for member in members}]
    lost = passes_of_fits(chosen_candidates, {*refitted, *(member.trial for member in others)})
    estimated = partial(prediction_seconds, state, chosen_candidates, job.seconds_per_image)
    seconds_to_test += estimated(recorded - lost) - estimated(recorded)
    doubt = measure_doubt(state, members, held_out, sample)
    state.extractor.release_networks()  # the model builds its own; both together may not fit into memory
    model, newly = None, []
    if job.refit and others and deadline.remaining() > reserved + seconds_to_test:
        # a fit inside of a library can't be interrupted: the model is there before it begins
        model = _assemble(state, members, job, sorted(refitted), doubt)
        _save(state, results, model)
        newly = refit(state, others, deadline.remaining() - reserved - seconds_to_test)
    release_memory()
    if model is None or newly:
        model = _assemble(state, members, job, sorted([*refitted, *newly]), doubt)
        # a user who has pressed Ctrl-C may not wait for the test images
        _save(state, results, model)
        if newly and limits.exceeded(results.costs(model)):
            state.send(Log(f"The members are not fitted again with the validation images: {limits.describe()}"))
            model = _assemble(state, chosen, job, fitted_on_all, doubt)
            _save(state, results, model)
    tested = predict_test_images(state, model, deadline, interrupted=job.interrupted)
    result = results.write(model, tested)
    results.write_test_images(tested)
    add_results(state.context.folder / "model", results.about(result))
    state.publish("model/model.json", "model/README.md")
    state.send(ModelSaved(result, is_tested=True))  # a plugin may hang
    annotate_study(state.study, result)
    if not job.interrupted:
        state = add_feature_duplicates(state, members, deadline)
    search = report(state, model, result, tested, _report_seconds(state, deadline, interrupted=job.interrupted))
    state.registry.notify("autotl_search_finished", study=state.study, model=model, search=search)
    if not job.interrupted:
        quick_start(state, model, min(deadline.remaining(), QUICK_START_SHARE * job.facts.elapsed))
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
    digests = [digest for member in members for digest in member.backbone_digests]
    names = [name for member in members for name in member.recipe.backbones]
    return ImageModel(
        dataset.classes,
        members,
        dict(zip(digests, map(state.registry.backbone, names), strict=True)),
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
