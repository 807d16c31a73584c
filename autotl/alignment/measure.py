"""Measures one backbone on a sample: its features come from the feature store, where they stay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autotl.alignment.card import Card, LevelAccuracy, Seen
from autotl.alignment.norms import norm_distances, ordinary_photographs
from autotl.alignment.scores import Score, loo_neighbours, loo_ridge
from autotl.backbones.base import SourceHead
from autotl.data.augmentation import ORIGINAL
from autotl.features.extractor import BackboneFeatures
from autotl.features.pixels import PixelLoader
from autotl.features.progress import ExtractionProgress

__all__ = ["Measurement", "measure", "measure_norms"]

ALL_LEVELS = "stages+max"
"""The feature levels with all that is recorded."""
NUM_NORM_IMAGES = 32
"""Images whose channel statistics are compared: each has thousands of positions."""


@dataclass(frozen=True)
class Measurement:
    """A card, and what only the ranking needs: it compares backbones on the same images."""

    card: Card
    hits: np.ndarray
    """bool [n], in the order of the sample: which images the probe had right."""
    num_extracted: int
    """Images that ran through the network now; the rows of the others were recorded."""


def measure(
    features: BackboneFeatures,
    labels: np.ndarray,
    groups: np.ndarray,
    classes: Sequence[str],
    scores: Mapping[str, Score],
) -> Measurement:
    """Measure a backbone on the training images of its extractor's split, which are the sample.

    Args:
        labels: int64 [n], of these images, in their order.
        groups: [n]; images of one group, near-duplicates for example, don't predict each other.
        classes: their names.
        scores: the transferability scores to compute.

    Raises:
        AutotlError: the backbone can't be built or run.
        StoreTimeout: there was no time for the pass.
    """
    backbone, layout = features.backbone, features.layout
    rows, num_extracted, seconds = _rows(features)
    output = rows[:, : layout.output]
    n = len(labels)

    hits: list[tuple[int, np.ndarray]] = []
    for depth, slices in layout.stage_slices():
        stage = np.concatenate([rows[:, part] for part in slices], axis=1)
        hits.append((depth, loo_neighbours(stage, labels, groups) == labels))
    num_blocks = backbone.num_blocks
    last = loo_neighbours(output, labels, groups) == labels
    gap = gap_error = 0.0
    if hits:
        difference = max(hits, key=lambda entry: entry[1].mean())[1].astype(float) - last
        gap, gap_error = float(difference.mean()), float(difference.std() / np.sqrt(n))
    levels = [LevelAccuracy(depth, float(right.mean()), _error(right)) for depth, right in [*hits, (num_blocks, last)]]

    right = loo_ridge(rows, labels, groups) == labels
    half = np.arange(n // 2)
    right_half = loo_ridge(rows[half], labels[half], groups[half]) == labels[half]
    head = backbone.source_head()
    logits = None
    if head is not None and head.weight.shape[1] == layout.output:
        logits = output.astype(np.float64) @ head.weight.T + head.bias
    present = [c for c in range(len(classes)) if (labels == c).any()]
    card = Card(
        backbone=backbone.name,
        pretrained_on=backbone.pretrained_on,
        num_images=n,
        num_blocks=num_blocks,
        levels=tuple(levels),
        gap=gap,
        gap_error=gap_error,
        probe=float(right.mean()),
        probe_error=_error(right),
        probe_half=float(right_half.mean()) if len(half) else 0.0,
        recalls={classes[c]: float(right[labels == c].mean()) for c in present},
        counts={classes[c]: int((labels == c).sum()) for c in present},
        scores={name: score(output.astype(np.float64), labels, logits) for name, score in scores.items()},
        seen=None if head is None or logits is None else _seen(logits, head, labels, classes, present),
        norms=None,
        seconds_per_image=seconds,
    )
    return Measurement(card, right, num_extracted)


def _rows(features: BackboneFeatures) -> tuple[np.ndarray, int, float | None]:
    """All features of the sample [n, layout.width], how many images ran for them, and seconds for each of those."""
    extractor, reports = features.extractor, list[ExtractionProgress]()
    show, seconds = extractor.on_progress, extractor.extraction_seconds

    def note(progress: ExtractionProgress) -> None:
        reports.append(progress)
        show(progress)

    extractor.on_progress = note
    try:
        rows = features.levels("train", ALL_LEVELS)
    finally:
        extractor.on_progress = show
    done = reports[-1].done if reports else 0
    return rows, done, (extractor.extraction_seconds - seconds) / done if done else None


def measure_norms(card: Card, features: BackboneFeatures) -> Card:
    """The card with the distances of channel statistics, from a pass of a few images through PyTorch in fp32."""
    from autotl.backbones.graph_split import Normalize

    backbone, extractor = features.backbone, features.extractor
    loader = PixelLoader(
        features.path_of("train"), backbone.preprocessing, ORIGINAL, extractor.augmentations, extractor.threads
    )
    images = loader.load(features.digests("train")[:NUM_NORM_IMAGES])
    module = features.graph_split.module
    network = Normalize(module, backbone.preprocessing).eval()
    photographs = ordinary_photographs(backbone.preprocessing.size)
    return replace(card, norms=norm_distances(network, module, backbone.blocks(module), images, photographs))


def _error(right: np.ndarray) -> float:
    """Standard error of a share, with the rule of succession: no error where all are right would be too sure."""
    n = len(right)
    p = (float(right.sum()) + 1) / (n + 2)
    return float(np.sqrt(p * (1 - p) / n))


def _seen(
    logits: np.ndarray, head: SourceHead, labels: np.ndarray, classes: Sequence[str], present: Sequence[int]
) -> tuple[Seen, ...]:
    from scipy.special import softmax

    probabilities, answers = softmax(logits, axis=1), logits.argmax(1)
    found = []
    for c in present:
        of_class = labels == c
        counts = np.bincount(answers[of_class], minlength=logits.shape[1])
        answer = int(counts.argmax())
        found.append(
            Seen(
                classes[c],
                head.names[answer],
                float(counts[answer] / of_class.sum()),
                float(probabilities[of_class, answer].mean()),
            )
        )
    return tuple(found)
