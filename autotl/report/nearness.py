"""How near the images are to what the backbones were trained on: accuracy by depth, alignment, what came of it."""

from collections import defaultdict
from collections.abc import Sequence

from autotl.alignment.card import Alignment
from autotl.alignment.outcome import outcomes
from autotl.page.base import Element, Figure, Table, Text
from autotl.page.charts import Series, curves
from autotl.report.record import KNN_NEIGHBOURS, SearchRecord
from autotl.study.study import TrialAttribute

__all__ = ["depth_figure", "nearness_section", "outcome_table"]

MAX_DRAWN = 5
"""Backbones whose accuracy by depth is drawn: the best predicted ones."""


def nearness_section(search: SearchRecord) -> Sequence[Element]:
    """How near the images are to what the networks were trained on."""
    scores = _scores(search)
    rows: list[list[str | int | float | None]] = []
    for name, values in scores.items():
        try:
            backbone = search.registry.backbone(name)
        except Exception:  # its plugin is gone
            continue
        share, n = search.knn_of(name)
        best = (max if search.metric.greater_is_better else min)(values, default=None)
        rows.append([name, backbone.pretrained_on, None if not n else share, n or None, best])
    elements: list[Element] = []
    if alignment := search.alignment:
        elements += [Text(f"The images are {alignment.verdict}.", "lead"), *map(Text, alignment.sentences)]
    else:
        elements.append(
            Text(
                "The nearer the images are to those that a network was trained on, the better its features separate "
                "the classes before anything is trained: then a classifier on recorded features is enough. Where a "
                "vote of the nearest images does badly, retraining more of the network's last blocks is worth its "
                "time."
            )
        )
    if figure := depth_figure(search, [str(row[0]) for row in rows]):
        elements.append(figure)
    if alignment:
        elements.append(outcome_table(alignment, search))
    elif not rows:
        return []
    if rows:
        columns = ("backbone", "trained on", f"{KNN_NEIGHBOURS}-NN accuracy", "images", f"best {search.metric.name}")
        caption = (
            "A vote of the nearest images in recorded features, each image left out in turn, beside the best score of "
            "a trial on the validation images."
        )
        elements.append(Table(columns, rows, caption))
    return elements


def _scores(search: SearchRecord) -> dict[str, list[float]]:
    """The scores of the complete trials, by backbone."""
    scores: dict[str, list[float]] = defaultdict(list)
    for trial in search.complete:
        if trial.value is not None:
            scores[trial.user_attrs[TrialAttribute.RECIPE]["backbone"]].append(trial.value)
    return scores


def depth_figure(search: SearchRecord, backbones: Sequence[str]) -> Figure | None:
    """The accuracy of nearest neighbours by depth: as the alignment has measured it, else of features that the trials
    of `backbones` have recorded. None where there are no inner levels."""
    found: list[tuple[str, int, list[float]]] = []
    if search.alignment:
        for card in search.alignment.cards:
            found.append((card.backbone, card.num_images, [level.accuracy for level in card.levels]))
    else:
        found = [(name, *search.accuracy_by_depth(name)) for name in backbones]
    found = [entry for entry in found if len(entry[2]) > 1][:MAX_DRAWN]
    if not found:
        return None
    series = [Series(name, range(1, len(levels) + 1), levels) for name, _, levels in found]
    told = "; ".join(f"{name}: {', '.join(f'{accuracy:.3f}' for accuracy in levels)}" for name, _, levels in found)
    images = sorted({n for _, n, _ in found})
    counted = f"{images[0]:,}" if len(images) == 1 else f"{images[0]:,} to {images[-1]:,}"
    return Figure(
        curves(series, ("level, from input to output", "accuracy")),
        f"Accuracy of nearest neighbours by depth, from the first level to the output: {told}",
        f"Accuracy of the {KNN_NEIGHBOURS} nearest neighbours in the features of each level, of {counted} images, each "
        "left out in turn. Where a curve falls before its end, the last blocks are too special for these images: "
        "retraining should begin after the peak.",
    )


def outcome_table(alignment: Alignment, search: SearchRecord) -> Table:
    """The predicted rank of each measured backbone beside its true one."""
    found = outcomes(alignment.cards, _scores(search), maximize=search.metric.greater_is_better)
    rows = [(o.backbone, o.predicted_rank, o.predicted, o.rank, o.best, o.trials or None) for o in found]
    return Table(
        ("backbone", "predicted rank", "expected accuracy", "true rank", f"best {search.metric.name}", "trials"),
        rows,
        "What the sample of images predicted, and what the search found: the true rank is that of the best trial, so "
        "a backbone with few trials may rank too low.",
    )
