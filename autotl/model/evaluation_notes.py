"""What `autotl evaluate` says beside the scores: what they can't tell, and why they may be optimistic."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from autotl.atomic_io import read_json
from autotl.data.dataset import join_names
from autotl.metrics import Metric

__all__ = ["trained_on", "what_is_unknown"]


def trained_on(model: Path | None, digests: Sequence[str]) -> list[str]:
    """A warning if the search that made a model had some of these images: its study's split lists their digests."""
    if model is None:
        return []
    try:
        known = read_json(model.parent / "split.json")["digests"]
        seen = {*known["train"], *known["validation"]}
    except (OSError, ValueError, KeyError, TypeError):  # a model that was moved out of its study
        return []
    count = sum(digest in seen for digest in digests)
    if not count:
        return []
    held_out = len(digests) - count
    return [
        f"{count:,} of these {len(digests):,} images were used to train the model or to select it, {held_out:,} were "
        "not: the scores are optimistic. The study's result.json has the scores on its test images."
    ]


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
