"""What the model confuses: the confusion matrix, scores by class, the worst mistakes, and likely label errors."""

from collections.abc import Sequence

import numpy as np

from autotl.data.label_errors import likely_errors
from autotl.page.base import Card, Element, Figure, Fold, Gallery, Picture, Table, Text
from autotl.page.charts import matrix
from autotl.report.held_out import HeldOut
from autotl.report.record import MAX_BASE, SearchRecord

__all__ = ["classes_section", "confusion_figure", "confusion_matrix", "label_errors_section", "mistakes_section"]

MAX_MISTAKES, UNFOLDED = 18, 9
MAX_LABEL_ERRORS = 12
NEIGHBOURS = 3
MANY_CLASSES = 25
"""Rows of the table of classes that are shown unfolded: the worst ones."""
NAMED_CLASSES = 14
SIMILAR = "Similar training image"
SIDE, NEIGHBOUR_SIDE = 160, 96
"""Pixels of a thumbnail."""


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Number of images by true class (rows) and predicted class (columns), int64 [num_classes, num_classes]."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def confusion_figure(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """The matrix as coloured cells. Of many classes, those that are confused with each other lie side by side."""
    order = np.arange(len(classes)) if len(classes) <= NAMED_CLASSES else _grouped(counts)
    names, shown = [classes[int(i)] for i in order], counts[np.ix_(order, order)]
    shades = shown / np.maximum(shown.sum(1, keepdims=True), 1)
    off = counts.copy()
    np.fill_diagonal(off, 0)
    summary = "; ".join(f"{classes[i]} as {classes[j]}: {n}" for n, i, j in _pairs(counts)[:5])
    return Figure(
        matrix(names, names, shown.tolist(), labels=("predicted →", "true ↓"), shades=shades.tolist(), diagonal=True),
        f"Confusion matrix of {len(classes)} classes: {counts.trace():,} of {counts.sum():,} images are right. "
        f"Most frequent confusions: {summary or 'none'}.",
        "Rows are the true classes, columns the predicted ones; green is right, red is wrong, stronger is more."
        + ("" if len(classes) <= NAMED_CLASSES else " Classes that are confused with each other lie side by side."),
        wide=len(classes) > 6,
    )


def _pairs(counts: np.ndarray) -> list[tuple[int, int, int]]:
    """Number, true class and predicted class of all confusions, the most frequent first."""
    rows, columns = np.nonzero(counts)
    found = [(int(counts[i, j]), int(i), int(j)) for i, j in zip(rows, columns, strict=True) if i != j]
    return sorted(found, key=lambda pair: (-pair[0], pair[1], pair[2]))


def _grouped(counts: np.ndarray) -> np.ndarray:
    """An order of the classes in which those that are confused with each other are neighbours."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    distances = 1 - np.minimum(1.0, shares + shares.T)
    np.fill_diagonal(distances, 0)
    return np.asarray(leaves_list(linkage(squareform(distances, checks=False), "average")))


def classes_section(search: SearchRecord) -> Sequence[Element]:
    """Classes and what they are confused with."""
    held_out = search.held_out
    if held_out is None or search.dataset is None:
        return []
    labels, predicted = search.labels(held_out), held_out.predicted
    counts = confusion_matrix(labels, predicted, len(search.classes))
    elements: list[Element] = [confusion_figure(counts, search.classes)]
    if pairs := _pairs(counts):
        rows = [(search.classes[i], search.classes[j], n, n / int(counts[i].sum())) for n, i, j in pairs[:12]]
        elements.append(Table(("true class", "predicted as", "images", "share of the class"), rows, "Most confused."))
    table = _class_table(search, counts)
    if len(search.classes) > MANY_CLASSES:
        worst = sorted(table.rows, key=lambda row: float(row[1]) if row[1] is not None else 2.0)
        elements.append(Table(table.columns, worst[:15], "The 15 classes with the lowest recall."))
        elements.append(Fold(f"All {len(search.classes)} classes", (table,)))
    else:
        elements.append(table)
    return elements


def _class_table(search: SearchRecord, counts: np.ndarray) -> Table:
    right, true, guessed = counts.diagonal(), counts.sum(1), counts.sum(0)
    trained = np.zeros(len(search.classes), np.int64)
    if search.dataset is not None and search.split is not None:
        trained = np.bincount(search.dataset.labels[search.split.train], minlength=len(search.classes))
    rows = []
    for i, name in enumerate(search.classes):
        recall = float(right[i] / true[i]) if true[i] else None
        precision = float(right[i] / guessed[i]) if guessed[i] else None
        both = 2 * int(right[i]) / int(true[i] + guessed[i]) if true[i] + guessed[i] else None
        rows.append((name, recall, precision, both, int(true[i]), int(trained[i])))
    columns = ("class", "recall", "precision", "F1", f"{search.held_out_name} images", "training images")
    return Table(
        columns,
        rows,
        "Recall: the share of the class's images that is found. Precision: the share of what is "
        "predicted as the class that is right.",
    )


def mistakes_section(search: SearchRecord) -> Sequence[Element]:
    """The worst mistakes."""
    held_out, validated = search.held_out, search.validated
    if held_out is None or search.dataset is None:
        return []
    labels, name = search.labels(held_out), search.held_out_name
    wrong, worst = int((held_out.predicted != labels).sum()), _worst(held_out, labels)[:MAX_MISTAKES]
    if not wrong:
        elements: list[Element] = [Text(f"None of the {len(labels):,} {name} images gets a wrong class.")]
    else:
        gallery = _gallery(search, held_out, worst[:UNFOLDED])
        told = (
            f"{wrong:,} of {len(labels):,} {name} images get a wrong class. These are the ones that the model is "
            f"surest of{_beside(search, gallery)}."
        )
        elements = [Text(told), gallery]
        if len(worst) > UNFOLDED:
            more = _gallery(search, held_out, worst[UNFOLDED:])
            elements.append(Fold(f"{len(more.cards)} more {name} images", (more,)))
    if search.tested is not None and validated is not None:
        worst = _worst(validated, search.labels(validated))[:UNFOLDED]
        if len(worst):
            elements.append(Fold("Validation images, the worst first", (_gallery(search, validated, worst),)))
    return elements


def _beside(search: SearchRecord, gallery: Gallery) -> str:
    """What is said of the similar training images: none are known where the images have no recorded features, as in a
    model whose networks are all fine-tuned."""
    if not any(SIMILAR in picture.alt for card in gallery.cards for picture in card.pictures):
        return ""
    among = f" in a sample of {MAX_BASE:,}" if search.is_sampled else ""
    return (
        f"; beside each are the training images{among} that are most like it. A neighbour of another class shows what "
        "misled the model, or a label to look at"
    )


def _worst(held_out: HeldOut, labels: np.ndarray) -> np.ndarray:
    """Positions of the images with a wrong class, those first whose class gets the lowest probability."""
    wrong = np.flatnonzero(held_out.predicted != labels)
    given = held_out.probabilities[wrong, labels[wrong]]
    sure = held_out.probabilities[wrong].max(1)
    return wrong[np.lexsort((-sure, given))]


def _gallery(search: SearchRecord, held_out: HeldOut, positions: np.ndarray) -> Gallery:
    assert search.dataset is not None
    images = [int(held_out.images[p]) for p in positions]
    predicted = held_out.predicted[positions]
    similar = search.similar(images, NEIGHBOURS)
    heat: list[np.ndarray | None] = [None] * len(images)
    if search.heat_maps is not None:
        heat = list(search.heat_maps([search.dataset.paths[i] for i in images], predicted.tolist()))
    cards = []
    for image, position, guess, mapped in zip(images, positions, predicted, heat, strict=True):
        true, row = int(search.dataset.labels[image]), held_out.probabilities[position]
        pictures = _pictures(search, image, similar.get(image, []), mapped, search.classes[guess])
        lines = (
            f"{search.classes[guess]} {row[guess]:.0%}, {search.classes[true]} {row[true]:.1%}",
            search.name_of(image),
        )
        cards.append(Card(f"{search.classes[true]}, predicted as {search.classes[guess]}", pictures, lines))
    return Gallery(tuple(cards))


def _pictures(
    search: SearchRecord, image: int, similar: Sequence[tuple[int, float]], heat: np.ndarray | None, guess: str
) -> tuple[Picture, ...]:
    assert search.dataset is not None
    pictures = []
    if content := search.thumbnails.get(image, SIDE):
        pictures.append(Picture(content, f"The image {search.name_of(image)}", large=True))
    if heat is not None and (content := search.thumbnails.with_heat(image, SIDE, heat)):
        pictures.append(Picture(content, f"Where the model saw {guess}", "heat map", large=True))
    for other, cosine in similar:
        label = search.classes[int(search.dataset.labels[other])]
        if content := search.thumbnails.get(other, NEIGHBOUR_SIDE):
            pictures.append(Picture(content, f"{SIMILAR} of class {label}, cosine {cosine:.2f}", label))
    return tuple(pictures)


def label_errors_section(search: SearchRecord) -> Sequence[Element]:
    """Likely label errors."""
    predicted = search.cross_validated
    if search.dataset is None or predicted is None:
        return []
    errors = likely_errors(search.labels(predicted), predicted.probabilities)
    if not errors:
        return [Text(f"None among {len(predicted.images):,} images that were predicted by fits without them.")]
    shown = [(int(predicted.images[error.image]), error) for error in errors[:MAX_LABEL_ERRORS]]
    similar = search.similar([image for image, _ in shown], NEIGHBOURS)
    cards = []
    for image, error in shown:
        given, suggested = search.classes[int(search.dataset.labels[image])], search.classes[error.suggested]
        pictures = _pictures(search, image, similar.get(image, []), None, suggested)
        lines = (f"probability of the label {error.score:.1%}", search.name_of(image))
        cards.append(Card(f"labelled {given}, looks like {suggested}", pictures, lines))
    return [
        Text(
            f"{len(errors):,} of {len(predicted.images):,} images whose label is unlikely to be right, the likeliest "
            "errors first. Look at them before you change a label: nothing was changed or left out. All of them, as a "
            "table: autotl doctor DATA --labels NAME --csv FILE"
        ),
        Gallery(tuple(cards)),
    ]
