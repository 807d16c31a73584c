"""What an alignment predicted of each backbone, beside what the trials of a search have found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autotl.alignment.card import Alignment, Card
from autotl.atomic_io import read_json

__all__ = ["ALIGNMENT_FILE", "Outcome", "outcomes", "read_alignment"]

ALIGNMENT_FILE = "alignment.json"
"""In a study's folder: what `Alignment.to_dict` returns."""


@dataclass(frozen=True)
class Outcome:
    """A measured backbone after the search."""

    backbone: str
    predicted_rank: int
    """From 1, by the predicted accuracy of frozen features."""
    predicted: float
    predicted_error: float
    rank: int | None
    """From 1, by the best score of a trial, among the measured backbones with a complete trial; None without one.
    Backbones of equal score share a rank."""
    best: float | None
    trials: int
    """Complete trials: the best of many is higher than that of few, so a backbone with few trials may rank too low."""


def read_alignment(folder: Path) -> Alignment | None:
    """The alignment of the study in a folder; None where none was measured, or its file can't be read."""
    try:
        return Alignment.from_dict(read_json(folder / ALIGNMENT_FILE))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # absent, damaged, or of another version
        return None


def outcomes(cards: Sequence[Card], scores: Mapping[str, Sequence[float]], *, maximize: bool) -> list[Outcome]:
    """An outcome for each card, in their order.

    Args:
        cards: the best predicted one first.
        scores: of the complete trials, by backbone.
        maximize: whether greater scores are better.
    """
    best = {name: (max if maximize else min)(values) for name, values in scores.items() if values}
    best = {card.backbone: best[card.backbone] for card in cards if card.backbone in best}
    sign = 1 if maximize else -1
    found = []
    for place, card in enumerate(cards, 1):
        score = best.get(card.backbone)
        rank = None if score is None else 1 + sum(sign * other > sign * score for other in best.values())
        trials = len(scores.get(card.backbone, ()))
        found.append(Outcome(card.backbone, place, card.predicted, card.predicted_error, rank, score, trials))
    return found
