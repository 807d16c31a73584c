"""Whether probabilities can be trusted, and what was odd in the data."""

from collections.abc import Sequence

import numpy as np

from autotl.model.doubt import RISK_ASSURANCE, STATED_RISKS, Doubt
from autotl.page.base import Element, Figure, Fold, Table, Text
from autotl.page.charts import Series, curves
from autotl.report.record import SearchRecord

__all__ = ["binned", "calibration_figure", "calibration_section", "coverage_figure", "data_section", "surest"]

BINS = 10
MAX_SKIPPED = 50


def binned(sure: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean probability, share of right images and number of images in bins of equally many images."""
    order = np.argsort(sure, kind="stable")
    parts = [part for part in np.array_split(order, min(BINS, max(1, len(order) // 10))) if len(part)]
    return (
        np.array([sure[p].mean() for p in parts]),
        np.array([right[p].mean() for p in parts]),
        np.array([len(p) for p in parts]),
    )


def calibration_figure(probabilities: np.ndarray, labels: np.ndarray) -> tuple[Figure, float]:
    """Predicted probability against the share that is right, and the mean difference (expected calibration error)."""
    sure, right = probabilities.max(1), probabilities.argmax(1) == labels
    mean, share, n = binned(sure, right)
    error = float((n * np.abs(mean - share)).sum() / n.sum())
    low = max(0.0, min(mean.min(), share.min()) - 0.05)
    svg = curves(
        [Series("", mean.tolist(), share.tolist())],
        ("predicted probability", "share right"),
        x=(low, 1.0),
        y=(low, 1.0),
        diagonal=True,
    )
    summary = "; ".join(f"at {a:.2f}, {b:.2f} right" for a, b in zip(mean, share, strict=True))
    return Figure(
        svg,
        f"Predicted probability against the share that is right: {summary}.",
        "On the dashed line a probability of 0.8 is right in 8 of 10 images.",
    ), error


def surest(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The share that is right of the surest one, two, three, … images, [n]."""
    order = np.argsort(-probabilities.max(1), kind="stable")
    right = (probabilities.argmax(1) == labels)[order]
    return np.asarray(np.cumsum(right) / np.arange(1, len(right) + 1))


def coverage_figure(probabilities: np.ndarray, labels: np.ndarray) -> Figure:
    """Accuracy of the surest images, by how many of them are answered."""
    accuracy = surest(probabilities, labels)
    places = np.unique(np.linspace(max(1, len(labels) // 50), len(labels), 60).astype(int)) - 1
    share = (places + 1) / len(labels)
    low = max(0.0, float(accuracy[places].min()) - 0.03)
    svg = curves(
        [Series("", share.tolist(), accuracy[places].tolist())],
        ("share of images answered", "share right"),
        x=(0.0, 1.0),
        y=(low, 1.0 + 0.02 * (1 - low)),
    )
    half = accuracy[max(0, len(labels) // 2 - 1)]
    return Figure(
        svg,
        f"Accuracy of the surest images: {half:.3f} of the surest half, {accuracy[-1]:.3f} of all.",
        "What leaving out the least sure images brings: answer those on the left only, and look at the others.",
    )


def calibration_section(search: SearchRecord) -> Sequence[Element]:
    """How far the probabilities can be trusted."""
    held_out = search.held_out
    if held_out is None or len(held_out.images) < 20 or search.dataset is None:
        return []
    labels = search.labels(held_out)
    figure, error = calibration_figure(held_out.probabilities, labels)
    sure, right = held_out.probabilities.max(1), held_out.predicted == labels
    rows = []
    for threshold in (0.5, 0.7, 0.8, 0.9, 0.95, 0.99):
        kept = sure >= threshold
        rows.append((threshold, float(kept.mean()), float(right[kept].mean()) if kept.any() else None, int(kept.sum())))
    return [
        Text(
            f"On average the predicted probability is {error:.3f} away from the share that is right, on "
            f"{len(labels):,} {search.held_out_name} images."
        ),
        figure,
        coverage_figure(held_out.probabilities, labels),
        Table(("answer only if the probability is at least", "images answered", "of them right", "images"), rows),
        *_abstention(search),
    ]


def _abstention(search: SearchRecord) -> Sequence[Element]:
    """What holding a risk costs."""
    predicted = search.cross_validated
    if predicted is None or search.running:
        return []
    doubt = Doubt.of(predicted.probabilities, search.labels(predicted))
    rows = []
    for risk in STATED_RISKS:
        least, answered = doubt.confidence_for(risk), doubt.answered_share(risk)
        rows.append((f"{risk:.0%}", least if answered else None, answered))
    return [
        Text(
            f"What it takes to hold a risk with {RISK_ASSURANCE:.0%} confidence, judged by {len(predicted.images):,} "
            "images that were predicted out of fold. Below that probability autotl predict --abstain-at 5% answers "
            "“unsure”."
        ),
        Table(("wrong answers, at most", "answer only if the probability is at least", "images answered"), rows),
    ]


def data_section(search: SearchRecord) -> Sequence[Element]:
    """What was odd in the data."""
    dataset, split = search.dataset, search.split
    if dataset is None or split is None:
        return []
    rows: list[tuple[str | int, ...]] = []
    for i, name in enumerate(search.classes):
        counts = [int((dataset.labels[part] == i).sum()) for part in (split.train, split.validation, split.test)]
        rows.append((name, *counts, sum(counts)))
    totals = ("all", len(split.train), len(split.validation), len(split.test), sum(int(row[4]) for row in rows))
    columns = ("class", "training", "validation", "test", "images")
    table = Table(columns, [*rows, totals], f"{len(dataset):,} images of {len(search.classes)} classes.")
    warnings = (*dataset.warnings, *split.warnings)
    elements: list[Element] = [Text(line) for line in warnings]
    notes = [finding.line() for finding in dataset.findings if not finding.serious]
    elements += [Text(line, "note") for line in notes if line not in warnings]
    if not elements:
        elements.append(Text("Nothing was found: no broken file, no duplicates, no leaks between subsets."))
    if dataset.skipped:
        shown = [(str(s.path), s.reason) for s in dataset.skipped[:MAX_SKIPPED]]
        title = f"{len(dataset.skipped):,} files were left out"
        elements.append(Fold(title, (Table(("file", "reason"), shown),)))
    elements.append(Fold("Images by class and subset", (table,)))
    return elements
