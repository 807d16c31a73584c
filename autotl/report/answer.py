"""How good the model is."""

import math
from collections.abc import Sequence

import numpy as np

from autotl.metrics import majority_baseline, wilson_interval
from autotl.page.base import Element, Table, Text
from autotl.report.intervals import bootstrap_interval
from autotl.report.record import KNN_NEIGHBOURS, SearchRecord

__all__ = ["answer_section"]


FEW = 20
"""Tested images below which a score is stated as an interval alone."""


def answer_section(search: SearchRecord) -> Sequence[Element]:
    """The answer."""
    return [*_headline(search), *_scores(search), *_model(search)]


def _headline(search: SearchRecord) -> list[Element]:
    held_out, best = search.held_out, search.best
    if best is None:
        return [Text("No trial is complete yet." if search.running else "No trial is complete.", "lead")]
    if held_out is None or search.dataset is None:
        return [
            Text(f"Best trial so far: validation {search.metric.name} {best.value:.3f}.", "lead"),
            Text("The images can't be read here, so that everything that needs them is missing below.", "note"),
        ]
    labels = search.labels(held_out)
    n, share = len(labels), float((held_out.predicted == labels).mean())
    low, high = wilson_interval(share, n)
    text = (
        f"Of 100 new images like these, between {100 * low:.0f} and {100 * high:.0f} get the right class with 95 % "
        f"confidence: only {n} {'image was' if n == 1 else 'images were'} tested."
        if n < FEW
        else f"Of 100 new images like these, about {100 * share:.0f} get the right class "
        f"({100 * low:.0f} to {100 * high:.0f} with 95 % confidence)."
    )
    if search.tested is not None:
        total = len(search.split.test) if search.split else n
        part = f"{n:,} of the {total:,} test images" if n < total else f"{n:,} test images"
        how = f"Measured once, on {part}, which no trial has seen."
    else:
        how = (
            f"Measured on the {n:,} validation images that also chose the model, so that the truth is likely lower: "
            + ("no test image was predicted yet." if search.running else "predictions of test images aren't at hand.")
        )
    ongoing = [Text("The search is running: this is how it stands.", "note")] if search.running else []
    return [Text(text, "lead"), *ongoing, Text(how)]


def _scores(search: SearchRecord) -> list[Element]:
    held_out = search.held_out
    if held_out is None or search.dataset is None or search.split is None:
        return []
    metric, labels = search.metric, search.labels(held_out)
    train = search.dataset.labels[search.split.train]
    majority = majority_baseline(train, labels, len(search.classes), metric)
    columns = ["", "accuracy", "95 % interval", "images"]
    other = metric.name != "accuracy"
    if other:
        columns[1:1] = [metric.name, "95 % interval of it"]
    rows: list[list[str | int | float | None]] = []

    def add(name: str, labels: np.ndarray, probabilities: np.ndarray) -> None:
        share = float((probabilities.argmax(1) == labels).mean())
        row: list[str | int | float | None] = [name, share, _between(wilson_interval(share, len(labels))), len(labels)]
        if other:
            interval = bootstrap_interval(metric, labels, probabilities)
            score = metric.score_or_nan(labels, probabilities)
            row[1:1] = [None if math.isnan(score) else score, _between(interval) if interval else ""]
        rows.append(row)

    add("this model", labels, held_out.probabilities)
    if (knn := search.knn) is not None:
        backbone = search.feature_backbone[0]
        voters = f"{KNN_NEIGHBOURS} nearest training images ({backbone}, nothing trained)"
        add(voters, search.labels(knn), knn.probabilities)
    accuracy = majority.get("accuracy", math.nan)
    row: list[str | int | float | None] = [
        "always the most frequent class",
        accuracy,
        _between(wilson_interval(accuracy, len(labels))),
        len(labels),
    ]
    if other:
        row[1:1] = [majority.get(metric.name), ""]
    rows.append(row)
    elements: list[Element] = [
        Table(tuple(columns), rows, f"On the {search.held_out_name} images, which were not trained on.", bold=0)
    ]
    validated = search.validated
    if search.tested is not None and validated is not None:
        before = metric.score_or_nan(search.labels(validated), validated.probabilities)
        now = metric.score_or_nan(labels, held_out.probabilities)
        if not math.isnan(before + now):
            elements.append(
                Text(
                    f"On the validation images, among which the model was chosen, its {metric.name} is {before:.3f}; "
                    f"on the test images {now:.3f}. A test score well below it means that the choice fitted the "
                    "validation images by chance, or that the test images are of another kind.",
                    "note",
                )
            )
    return elements


def _between(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.3f} – {interval[1]:.3f}"


def _model(search: SearchRecord) -> list[Element]:
    members = (search.result or {}).get("members") or []
    if not members:
        return []
    if len(members) == 1:
        return [Text(f"The model is trial {members[0]['trial']}: {members[0]['description']}.")]
    rows = [(int(m["trial"]), float(m["weight"]), str(m["description"])) for m in members]
    return [Table(("trial", "weight", "recipe"), rows, f"The model averages {len(rows)} trials.")]
