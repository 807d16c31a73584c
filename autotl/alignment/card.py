"""What alignment found: one card for each backbone, and all of them with their ranking. Frozen, and JSON as it is."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from autotl.alignment.norms import BlockDistance

__all__ = ["Alignment", "Card", "LevelAccuracy", "Seen", "Verdict"]

FORMAT = 1
"""Of `to_dict`."""
Verdict = Literal["near", "far"]


@dataclass(frozen=True)
class LevelAccuracy:
    """Leave-one-out k-NN accuracy on the features of one depth."""

    depth: int
    """The number of blocks whose output it is; that of all blocks for the network's output."""
    accuracy: float
    standard_error: float


@dataclass(frozen=True)
class Seen:
    """What the head that a network was pretrained with answers for the images of one of our classes."""

    label: str
    answer: str
    """Its most frequent answer."""
    share: float
    """Share of the class's images with that answer."""
    confidence: float
    """Mean probability of that answer, over the class's images."""


@dataclass(frozen=True)
class Card:
    """One backbone on a sample of our images."""

    backbone: str
    pretrained_on: str
    num_images: int
    num_blocks: int
    levels: tuple[LevelAccuracy, ...]
    """From input to output; the last is the output's."""
    gap: float
    """The best inner level's accuracy minus the output's, and its standard error (paired)."""
    gap_error: float
    probe: float
    """Leave-one-out accuracy of ridge regression on all levels, and its standard error."""
    probe_error: float
    probe_half: float
    """The same on half of the sample: the learning curve's other point."""
    recalls: Mapping[str, float]
    """Share of each class's images that the probe has right."""
    counts: Mapping[str, int]
    """Images of each class in the sample."""
    scores: Mapping[str, float | None]
    """The registered transferability scores, on the output's features; None where a score has no value."""
    seen: tuple[Seen, ...] | None
    """None for a network whose own head isn't here."""
    norms: tuple[BlockDistance, ...] | None
    """None where the stored statistics are unknown, or were not measured."""
    seconds_per_image: float | None
    """Of the pass that this measurement made; None where all rows were recorded before."""
    prior: float = 0.0
    """Accuracy that was expected before the measurement, from what is published."""
    predicted: float = 0.0
    """Prior and probe combined, and its standard error: what the ranking sorts by."""
    predicted_error: float = 0.0

    @property
    def peak(self) -> int:
        """The number of blocks up to which the features get better; retraining should begin after it."""
        return max(self.levels, key=lambda level: level.accuracy).depth

    @property
    def norm_ratio(self) -> float | None:
        """The distance of our channel statistics, in units of that of ordinary photographs; None where unknown."""
        if not self.norms:
            return None
        return sum(n.distance for n in self.norms) / max(sum(n.photographs for n in self.norms), 1e-9)


@dataclass(frozen=True)
class Alignment:
    """How near a data set is to what each backbone was pretrained on."""

    data: str
    num_images: int
    """That could be sampled."""
    cards: tuple[Card, ...]
    """The best predicted one first."""
    verdict: Verdict
    """Of the first card."""
    unfrozen_blocks: int
    """How many of the last blocks fine-tuning should retrain; 0 where frozen features suffice."""
    sentences: tuple[str, ...]
    """For a person, each with its number."""
    share_of_pass: float = 0.0
    """Images that were run, as a share of a full pass of all backbones."""
    warnings: tuple[str, ...] = field(default=())
    """Backbones that could not be measured, and why."""

    def to_dict(self) -> dict[str, Any]:
        """As values for JSON, with `peak` and `norm_ratio` of each card."""
        cards = [{**asdict(card), "peak": card.peak, "norm_ratio": card.norm_ratio} for card in self.cards]
        return {"format": FORMAT, **asdict(self), "cards": cards}
