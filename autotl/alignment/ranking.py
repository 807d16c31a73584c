"""Ranks backbones by a prior, from what is published, combined with what was measured, shrunk by the number of images.

The accuracy of backbone i is taken to be normal around a prior mean with deviation τ; the probe measures it with the
standard error s. The posterior mean is w·measured + (1 - w)·prior with w = τ² / (τ² + s²): few images leave the prior
in charge, many override it. Backbones are compared on the same images, so s is the error of a backbone's difference to
the mean of all, which is smaller than that of its accuracy.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from autotl.alignment.card import Card
from autotl.backbones.base import Backbone
from autotl.errors import AutotlError

__all__ = ["published_accuracy", "ranked"]

TRANSFER = 0.5
"""Points of accuracy on our images that a point on ImageNet is worth before anything was measured. Kornblith et al. (Do
better ImageNet models transfer better?, CVPR 2019) find less than one, and less the further the images are."""
PUBLISHED_DEVIATION, SIZE_DEVIATION = 0.01, 0.10
"""Deviation τ of the prior, where the accuracy on ImageNet is published, and where only the number of parameters is
known: such weights may also be random. The accuracies of five networks on eight sets deviate from their prior means by
0.013, of which samples of 600 images explain 0.009."""
SMALLEST_PARAMS, ACCURACY_OF_SMALLEST, POINTS_PER_DECADE = 3e6, 74.5, 7.3
"""The line through the shelf (`backbones.catalog`): percent on ImageNet by the logarithm of the number of
parameters."""


def published_accuracy(backbone: Backbone) -> tuple[float, bool]:
    """Percent on ImageNet, and whether it is published; else estimated from the number of parameters."""
    if backbone.top1 is not None:
        return backbone.top1, True
    try:
        params = backbone.count_params()
    except AutotlError:
        params = int(SMALLEST_PARAMS)
    return ACCURACY_OF_SMALLEST + POINTS_PER_DECADE * math.log10(max(params, 1) / SMALLEST_PARAMS), False


def ranked(
    cards: Sequence[Card],
    hits: Sequence[np.ndarray],
    backbones: Sequence[Backbone],
    published_deviation: float = PUBLISHED_DEVIATION,
) -> list[Card]:
    """The cards with prior and prediction, the best predicted one first.

    Args:
        hits: bool [n] for each card: which images its probe had right. Those of a smaller sample are the first of a
            larger one.
        backbones: those of the cards, in their order.
        published_deviation: of the prior, where the accuracy is published: the shrinkage.
    """
    if not cards:
        return []
    common = min(map(len, hits))
    mean_hit = np.mean([hit[:common] for hit in hits], axis=0)
    priors = [published_accuracy(backbone) for backbone in backbones]
    # the centre of those whose accuracy is published: networks that may be random must not pull it down
    known = [i for i, (_, is_published) in enumerate(priors) if is_published] or range(len(cards))
    level = float(np.mean([cards[i].probe for i in known]))
    centre = float(np.mean([priors[i][0] for i in known]))
    predicted = []
    for card, hit, (top1, is_published) in zip(cards, hits, priors, strict=True):
        prior = level + TRANSFER * (top1 - centre) / 100
        deviation = published_deviation if is_published else SIZE_DEVIATION
        difference = hit[:common].astype(float) - mean_hit
        paired = (float(difference.std()) + 1 / common) / math.sqrt(len(hit))
        weight = deviation**2 / (deviation**2 + paired**2)
        predicted.append(
            replace(
                card,
                prior=prior,
                predicted=weight * card.probe + (1 - weight) * prior,
                predicted_error=math.sqrt(weight) * paired,
            )
        )
    return sorted(predicted, key=lambda card: -card.predicted)
