"""The last step of a search, in a worker: choose the members, fit them on all that may be trained on, save the model,
look at the test images once."""

import math
import time
from typing import Any

import numpy as np

from autotl.errors import AutotlError
from autotl.model.image_model import ImageModel
from autotl.model.member import Member
from autotl.trial.refit import refit
from autotl.trial.results import annotate_study, write_result
from autotl.trial.runner import Bench, give_back_memory
from autotl.trial.selection import SAVING, choose_members, kept_candidates
from autotl.workers.messages import Finish

__all__ = ["finish"]


def finish(bench: Bench, ticket: Finish) -> dict[str, Any]:
    """Choose, save, test; returns what `result.json` holds, with the leaderboard."""
    import torch

    torch.set_num_threads(bench.context.cores)  # the other workers rest
    bench.extractor.threads = bench.context.cores
    candidates = kept_candidates(bench)
    if not candidates:
        raise AutotlError("no trial left a model")
    members, seconds = choose_members(bench, ticket, candidates)
    bench.extractor.release_networks()  # the model builds its own networks: both together may fill the memory
    timed = bench.context.config.time is not None
    refitted = refit(bench, members, ticket.until - SAVING - seconds if timed else math.inf) if ticket.refit else []
    give_back_memory()
    model = _assemble(bench, members, ticket, refitted)
    folder = model.save(bench.context.folder / "model")
    # whoever has pressed Ctrl-C may not wait for the test images
    bench.send("saved", write_result(bench, ticket, model, folder, None))
    test = _test(bench, model, ticket)
    result = write_result(bench, ticket, model, folder, test)
    annotate_study(bench, result)
    bench.registry.notify("autotl_search_finished", study=bench.study, model=model)
    return result


def _assemble(bench: Bench, members: list[Member], ticket: Finish, refitted: list[int]) -> ImageModel:
    config = bench.context.config
    backbones = {m.backbone_digest: bench.registry.backbone(m.recipe.backbone) for m in members}
    return ImageModel(
        bench.context.dataset.classes,
        members,
        backbones,
        registry=bench.registry,
        device=bench.context.slot.device,
        threads=bench.context.cores,
        conversions=bench.extractor.conversions,
        about={
            "study": config.name,
            "metric": config.metric,
            "versions": ticket.facts["versions"],
            "refitted": refitted,
        },
    )


def _test(bench: Bench, model: ImageModel, ticket: Finish) -> np.ndarray | None:
    """Probabilities of the test images, [n, num_classes], straight from their files; None without a test part, or where
    somebody waits and they take too long."""
    paths = [bench.context.dataset.paths[i] for i in bench.context.split.test]
    if not paths:
        return None
    rows, began = [], time.monotonic()
    for _, row in model.stream(paths, many=len(paths) > 256, checked=True):
        rows.append(row)
        if ticket.brief and time.monotonic() > ticket.until - 1:
            bench.send("say", "There was no time to look at the test images: the same command goes on, and does.")
            return None
        if len(rows) % 32 == 0:
            bench.send("images", "test images", len(rows), len(paths), len(rows) / (time.monotonic() - began))
    return np.stack(rows)
