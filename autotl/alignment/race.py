"""A race of backbones on growing samples: a few images tell who can't win, the others share what more may cost."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from autotl.alignment.card import Card
from autotl.alignment.measure import Measurement
from autotl.alignment.ranking import PUBLISHED_DEVIATION, ranked
from autotl.backbones.base import Backbone

__all__ = ["next_round", "race"]

FIRST_SIZE = 24
"""Images of the first round: enough to tell most random weights from others."""
MAX_SHARE = 0.1
"""Images that are run for other backbones than the best, as a share of a full pass of all. A search runs the best one's
anyway."""
MIN_GROWTH = 1.25
"""How many times as many images the next round has at least."""
CERTAIN = 3.0
"""A backbone that is this many standard errors behind the first leaves the race."""


def race(
    backbones: Mapping[str, Backbone],
    run: Callable[[str, int], Measurement | None],
    num_images: int,
    most: int,
    deviation: float = PUBLISHED_DEVIATION,
) -> list[Card]:
    """Measure all on a few images, those that can still win on twice as many, and so on, the best one on `most`.

    Args:
        backbones: by name.
        run: measures one on the first so many images; None where that failed. An earlier measurement stands then.
        num_images: that could be sampled: the budget is a share of a pass over them.
        most: images of the largest sample.
        deviation: of the prior (see `ranked`).

    Returns:
        the cards, the best predicted one first. Those that left the race rank by when they did. What is predicted of
        them is on the level of the largest sample, as far as what stayed in the race has gained by more images.
    """
    standing, racing = list[Card](), list(backbones)
    size, left = 0, MAX_SHARE * num_images * len(racing)
    upcoming: tuple[int, int] | None = (min(FIRST_SIZE, most), len(racing))
    while upcoming is not None:
        larger, number = upcoming
        racing = racing[:number]
        left -= (larger - size) * (number - 1)
        size = larger
        results = [result for name in racing if (result := run(name, size))]
        if not results:
            break
        cards, hits = [result.card for result in results], [result.hits for result in results]
        ranking = ranked(cards, hits, [backbones[card.backbone] for card in cards], deviation)
        standing = _standing(ranking, standing)
        racing = [card.backbone for card in ranking if _can_win(card, ranking[0])]
        upcoming = next_round(size, len(racing), left, most)
    if standing and standing[0].num_images < most and (last := run(standing[0].backbone, most)):
        won = standing[0]
        card = replace(last.card, prior=won.prior, predicted=last.card.probe, predicted_error=won.predicted_error)
        standing = _standing([card], standing)
    return standing


def next_round(size: int, num_racing: int, left: float, most: int) -> tuple[int, int] | None:
    """The number of images of the next round, and how many of the best backbones take part: twice as many images, for
    as many backbones as there is budget for; else all that is left for the best two. None where that isn't worth it.

    Args:
        size: images of the last round.
        num_racing: backbones that can still win.
        left: images that may be run for other backbones than the best.
        most: images of the largest sample.

    >>> next_round(24, 6, 700, 1000), next_round(96, 6, 340, 1000), next_round(192, 4, 52, 1000)
    ((48, 6), (192, 4), (244, 2))
    >>> next_round(192, 4, 30, 1000), next_round(192, 1, 500, 1000), next_round(24, 6, 700, 24)
    (None, None, None)
    """
    larger = min(2 * size, most)
    if num_racing < 2 or larger <= size:
        return None
    affordable = 1 + int(left / (larger - size))
    if affordable > 1:
        return larger, min(num_racing, affordable)
    larger = size + int(left)
    return (larger, 2) if larger >= MIN_GROWTH * size else None


def _can_win(card: Card, first: Card) -> bool:
    return first.predicted - card.predicted <= CERTAIN * math.hypot(card.predicted_error, first.predicted_error)


def _standing(ranking: list[Card], earlier: list[Card]) -> list[Card]:
    """A new round's ranking, then those that left before, with what the others have gained since."""
    before = {card.backbone: card.predicted for card in earlier}
    new = {card.backbone for card in ranking}
    gain = float(np.mean([card.predicted - before[card.backbone] for card in ranking])) if earlier else 0.0
    behind = [card for card in earlier if card.backbone not in new]
    return [*ranking, *(replace(c, prior=c.prior + gain, predicted=min(1.0, c.predicted + gain)) for c in behind)]
