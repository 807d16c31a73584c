"""What alignment found: one card for each backbone, and all of them with their ranking. Frozen, and JSON as it is."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from autotl.alignment.norms import BlockDistance

__all__ = ["Alignment", "Card", "Invariance", "LevelAccuracy", "Seen", "Verdict"]

FORMAT = 2
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
class Invariance:
    """Whether a symmetry of the square moves the label that an image's nearest neighbours vote for."""

    name: Literal["flip", "turn"]
    """Left and right swapped, or turned by a quarter (and perhaps flipped)."""
    num_images: int
    plain: float
    """Share of these images whose neighbours vote for their class."""
    changed: float
    """The same of the flipped or turned images; the neighbours are plain images."""
    error: float
    """Standard error of the difference (paired)."""

    @property
    def holds(self) -> bool:
        """Whether no more than a standard error is lost."""
        return self.plain - self.changed <= self.error


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
    """The best inner level's accuracy minus the output's, on images that haven't chosen it, and its standard error
    (paired)."""
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
    invariances: tuple[Invariance, ...] | None = None
    """None where they were not measured."""
    prior: float = 0.0
    """Accuracy that was expected before the measurement, from what is published."""
    predicted: float = 0.0
    """Prior and probe combined: what the ranking sorts by. Its standard error is that of the difference to the mean of
    those that were measured on the same images."""
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
        return _ratio(self.norms)

    @property
    def norm_ratios_of_ends(self) -> tuple[float, float] | None:
        """The same of the first and of the last third of the blocks that have statistics; None where unknown."""
        if not self.norms or len(self.norms) < 3:
            return None
        third = len(self.norms) // 3
        return _ratio(self.norms[:third]), _ratio(self.norms[-third:])


def _ratio(norms: Sequence[BlockDistance]) -> float:
    return sum(n.distance for n in norms) / max(sum(n.photographs for n in norms), 1e-9)


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
    share_of_others: float = 0.0
    """The same without the first backbone's images, which a search runs anyway."""
    unfreeze: Literal["last", "first"] = "last"
    """Which blocks fine-tuning should retrain."""
    warnings: tuple[str, ...] = field(default=())
    """Backbones that could not be measured, and why."""

    def to_dict(self) -> dict[str, Any]:
        """As values for JSON, with `peak` and `norm_ratio` of each card."""
        cards = [{**asdict(card), "peak": card.peak, "norm_ratio": card.norm_ratio} for card in self.cards]
        return {"format": FORMAT, **asdict(self), "cards": cards}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Alignment":
        """The inverse of `to_dict`. Raises ValueError for another format, KeyError or TypeError for other fields."""
        if data.get("format") != FORMAT:
            raise ValueError(f"format {data.get('format')!r} of an alignment isn't {FORMAT}")
        given = {key: value for key, value in data.items() if key != "format"}
        for name in ("sentences", "warnings"):
            given[name] = tuple(map(str, given[name]))
        return cls(**{**given, "cards": tuple(map(_card_of, given["cards"]))})


def _card_of(data: Mapping[str, Any]) -> Card:
    given = {key: value for key, value in data.items() if key not in ("peak", "norm_ratio")}
    given["levels"] = tuple(LevelAccuracy(**level) for level in given["levels"])
    for name, kind in (("seen", Seen), ("norms", BlockDistance), ("invariances", Invariance)):
        if given.get(name) is not None:
            given[name] = tuple(kind(**values) for values in given[name])
    return Card(**given)
