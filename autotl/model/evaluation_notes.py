"""What `autotl evaluate` says beside the scores: what they can't tell, and why they may be optimistic."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autotl.data.dataset import join_names
from autotl.metrics import Metric

__all__ = ["on_trained_images", "scores_of_classes", "what_is_unknown"]


def scores_of_classes(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """For each class: its name as `class`, `precision`, `recall`, `f1`, and the number of its images `n`."""
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(
        labels, probabilities.argmax(1), labels=np.arange(len(classes)), zero_division=0
    )
    names = ("precision", "recall", "f1", "n")
    rows = zip(classes, *columns, strict=True)
    return [{"class": name, **dict(zip(names, map(float, row), strict=True))} for name, *row in rows]


def on_trained_images(count: int, total: int, *, included: bool) -> list[str]:
    """A sentence if images of an evaluation trained or selected the model: they are left out, or its scores are
    optimistic."""
    if not count:
        return []
    used = f"{count:,} of these {total:,} images were used to train the model or to select it"
    if included:
        return [f"{used}: the scores are optimistic. The study's result.json has the scores on its test images."]
    return [f"{used}, and {'are' if count > 1 else 'is'} left out. Score them, too: --all"]


def what_is_unknown(
    labels: np.ndarray, classes: Sequence[str], scores: Mapping[str, float], metric: Metric | None
) -> list[str]:
    """Sentences on the classes that have no image, and on a metric that is undefined for these images."""
    absent = [repr(name) for i, name in enumerate(classes) if i not in labels]
    notes = [f"There are no images of {join_names(absent)}: no score tells how they are recognised."] if absent else []
    if metric is not None and metric.name not in scores:
        present = len(classes) - len(absent)
        notes.append(
            f"The metric {metric.name!r} is undefined for {len(labels):,} image{'s' if len(labels) != 1 else ''} of "
            f"{present} class{'es' if present != 1 else ''}."
        )
    return notes
