"""The last step of a search, in a worker: choose the members, fit them on all that may be trained on, save the model,
look at the test images once."""

import csv
import io
import json
import math
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from autotl.errors import AutotlError
from autotl.files import write_atomically, write_json
from autotl.metrics import all_scores, majority_baseline
from autotl.model.ensemble import select
from autotl.model.member import Member, load_member
from autotl.model.model import ImageModel
from autotl.model.pages import read_member_page
from autotl.tuner.context import Finish, member_folder
from autotl.tuner.objective import Bench, give_back_memory
from autotl.tuner.refit import refit
from autotl.tuner.study import set_note

__all__ = ["finish"]

CONVERSION = 6.0
"""Seconds to make an engine ready for a fine-tuned network; a frozen one's is kept from extraction."""
UNKNOWN = 0.03
"""Seconds an image for a backbone that nobody has timed."""
SAVING = 5.0
"""Seconds to load, save and score."""


def finish(bench: Bench, ticket: Finish) -> dict[str, Any]:
    """Choose, save, test; returns what `result.json` holds, with the leaderboard."""
    import torch

    torch.set_num_threads(bench.context.cores)  # the other workers rest
    bench.extractor.threads = bench.context.cores
    candidates = _candidates(bench)
    if not candidates:
        raise AutotlError("no trial left a model")
    members, seconds = _choose(bench, ticket, candidates)
    bench.extractor.forget()  # the model builds its own networks: both together may fill the memory
    timed = bench.context.config.time is not None
    refitted = refit(bench, members, ticket.until - SAVING - seconds if timed else math.inf) if ticket.refit else []
    give_back_memory()
    model = _assemble(bench, members, ticket, refitted)
    folder = model.save(bench.context.folder / "model")
    # whoever has pressed Ctrl-C may not wait for the test images
    bench.send("saved", _write_result(bench, ticket, model, folder, None))
    test = _test(bench, model, ticket)
    result = _write_result(bench, ticket, model, folder, test)
    _annotate(bench, result)
    bench.registry.notify("autotl_search_finished", study=bench.study, model=model)
    return result


def _write_result(
    bench: Bench, ticket: Finish, model: ImageModel, folder: Path, test: np.ndarray | None
) -> dict[str, Any]:
    """`result.json` and the leaderboard, from the probabilities of the test images, where there are any."""
    result = _result(bench, ticket, test) | {"refitted": model.about["refitted"]}
    write_json(bench.context.folder / "result.json", result)
    leaderboard = _leaderboard(bench, {m.trial for m in model.members})
    _write_leaderboard(bench, leaderboard)
    chosen = [{"trial": m.trial, "weight": m.weight, "words": m.recipe.words()} for m in model.members]
    return result | {"leaderboard": leaderboard, "members": chosen, "model": str(folder)}


@dataclass(frozen=True)
class Candidate:
    """A trial whose model was kept."""

    folder: Path
    number: int
    value: float
    backbone: str
    head: str
    tuned: bool
    views: tuple[str, ...]
    validation: np.ndarray

    @property
    def kind(self) -> tuple[str, str, bool]:
        """Candidates of one kind err alike."""
        return self.backbone, self.head, self.tuned

    @property
    def passes(self) -> str:
        """What shares one pass over the images has the same."""
        return f"{self.backbone}/{self.number}" if self.tuned else self.backbone


def _candidates(bench: Bench) -> list[Candidate]:
    """Best first. A trial that isn't in the study as complete (its worker died over it) takes no part."""
    found = []
    shape = len(bench.labels("validation")), len(bench.context.dataset.classes)
    complete = bench.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    numbers = {member_folder(bench.context.folder, trial.number) for trial in complete}
    for page in sorted((bench.context.folder / "trials").glob("*/member.json")):
        if page.parent not in numbers:
            continue
        try:
            about = read_member_page(page.parent)
            validation = np.load(page.parent / "validation.npy", allow_pickle=False)
            if validation.shape != shape or about.validation is None:
                raise ValueError(f"its validation probabilities have the shape {validation.shape}, not {shape}")
        except (AutotlError, OSError, ValueError, MemoryError) as error:
            bench.send("say", f"{page.parent.name} takes no part in the model: {error}")
            continue
        views = tuple(f"{view.policy}-{view.number}" for view in about.views)
        made_of = about.recipe.backbone, about.recipe.head, about.tuned
        found.append(Candidate(page.parent, about.trial, about.validation, *made_of, views, validation))
    sign = -1 if bench.registry.metric(bench.context.config.metric).greater_is_better else 1
    log_loss, labels = bench.registry.metric("log_loss"), bench.labels("validation")
    # few validation images leave many trials equal: then it counts how sure they are of what is right
    return sorted(found, key=lambda c: (sign * c.value, log_loss(labels, c.validation), c.number))


def _choose(bench: Bench, ticket: Finish, candidates: list[Candidate]) -> tuple[list[Member], float]:
    """An average of the best of each kind that still predicts the test images in the time left; and how many seconds
    that takes."""
    n_test = len(bench.context.split.test)
    left = ticket.until - time.monotonic() - SAVING

    def seconds(chosen: Collection[int]) -> float:
        networks = {candidates[i].passes: candidates[i] for i in chosen}
        looked = {(candidates[i].passes, view): candidates[i].backbone for i in chosen for view in candidates[i].views}
        ready = sum(CONVERSION if candidate.tuned else 0.5 for candidate in networks.values())
        return ready + sum(n_test * ticket.seconds_an_image.get(name, UNKNOWN) for name in looked.values())

    def allowed(chosen: frozenset[int]) -> bool:
        return seconds(chosen) <= left

    metric = bench.registry.metric(bench.context.config.metric)
    found, kinds = [c.validation for c in candidates], [c.kind for c in candidates]
    weights = select(found, kinds, bench.labels("validation"), metric, bench.context.config.ensemble, allowed)
    members = []
    for index, weight in weights.items():
        member = load_member(candidates[index].folder, bench.registry)
        member.weight = weight
        members.append(member)
    return members, seconds(weights)


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
    """Probabilities of the test images, [n, n_classes], straight from their files; None without a test part, or where
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


def _result(bench: Bench, ticket: Finish, test: np.ndarray | None) -> dict[str, Any]:
    context, split = bench.context, bench.context.split
    best = bench.study.best_trial
    labels = bench.labels("test")
    return {
        "study": context.config.name,
        "metric": context.config.metric,
        "classes": list(context.dataset.classes),
        "images": {
            "train": len(split.train),
            "validation": len(split.validation),
            "test": len(split.test),
            "skipped": len(context.dataset.skipped),
        },
        "trials": ticket.facts["trials"],
        "best": {"number": best.number, "recipe": best.user_attrs["recipe"], "validation": best.value},
        "test": None if test is None else all_scores(labels, test),
        "baseline": None
        if test is None
        else majority_baseline(bench.labels("train"), labels, len(context.dataset.classes)),
        "seconds": round(time.monotonic() - ticket.facts["began"], 1),
        "versions": ticket.facts["versions"],
    }


def _leaderboard(bench: Bench, members: set[int]) -> list[dict[str, Any]]:
    """Finished trials, best first."""
    done = [t for t in bench.study.get_trials(deepcopy=False) if t.state == optuna.trial.TrialState.COMPLETE]
    reverse = bench.study.direction == optuna.study.StudyDirection.MAXIMIZE
    done.sort(key=lambda t: t.value or 0.0, reverse=reverse)
    rows = []
    for rank, trial in enumerate(done, 1):
        recipe = trial.user_attrs["recipe"]
        rows.append(
            {
                "rank": rank,
                "trial": trial.number,
                "value": trial.value,
                "strategy": recipe["strategy"],
                "backbone": recipe["backbone"],
                "head": recipe["head"],
                "seconds": trial.user_attrs["seconds"],
                "in_model": trial.number in members,
                "words": trial.user_attrs["words"],
                "recipe": json.dumps(recipe, sort_keys=True),
            }
        )
    return rows


def _write_leaderboard(bench: Bench, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(bench.context.folder / "leaderboard.csv", text.getvalue().encode())


def _annotate(bench: Bench, result: dict[str, Any]) -> None:
    """The study's own note in Optuna Dashboard: who won, and how it does on test images."""
    test = result["test"]
    score = f"test accuracy {test['accuracy']:.4f} on {test['n']} images" if test else "no test images"
    best = result["best"]
    set_note(
        bench.study,
        None,
        f"Best: trial {best['number']}, validation {result['metric']} {best['validation']:.4f}. The model: {score}.",
    )
