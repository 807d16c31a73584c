"""Measures backbones on growing samples of a data set: successive halving, in which a low rank gets less time, not
none."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from autotl.alignment.card import Alignment, Card
from autotl.alignment.measure import Measurement, measure, measure_norms
from autotl.alignment.ranking import ranked
from autotl.alignment.sample import sample_sizes, stratified_order
from autotl.alignment.scores import BUILT_IN, Score
from autotl.alignment.words import blocks_to_retrain, sentences, verdict_of
from autotl.backbones.base import Backbone
from autotl.data.splits import Split
from autotl.errors import AutotlError
from autotl.features.extractor import FeatureExtractor

__all__ = ["MAX_SAMPLE", "align_backbones"]

MAX_SAMPLE = 2048
"""Images of the last round at most: neighbours are sought among all pairs."""
HALVING = 2


def align_backbones(
    extractor: FeatureExtractor,
    backbones: Sequence[Backbone],
    pool: np.ndarray,
    units: np.ndarray,
    *,
    scores: Mapping[str, Score] = BUILT_IN,
    limit: int | None = None,
    seed: int = 0,
    with_norms: bool = True,
    log: Callable[[str], None] = lambda line: None,
) -> Alignment:
    """Measure backbones on a stratified sample: all on 256 images, the better half on 512, the better half of these on
    all, or on `limit`. The rows stay in the extractor's store.

    Args:
        extractor: its split is replaced.
        pool: indices of the images that may be sampled: those of the training subset.
        units: [number of images of the data set]: those of one unit don't predict each other.
        limit: images of the last round.
        with_norms: compare the best backbone's batch-norm statistics, for which 64 images run through PyTorch.

    Raises:
        AutotlError: no backbone could be measured.
    """
    dataset = extractor.dataset
    order = pool[stratified_order(dataset.labels[pool], seed)]
    sizes = sample_sizes(len(pool), min(limit or MAX_SAMPLE, MAX_SAMPLE))
    measured: dict[str, tuple[Backbone, Measurement]] = {}
    warnings: list[str] = []
    racing, num_extracted = list(backbones), 0
    for number, size in enumerate(sizes):
        sample = order[:size]
        none = np.arange(0)
        extractor.split = Split(sample, none, none, seed)
        for backbone in racing:
            try:
                result = measure(extractor.of(backbone), dataset.labels[sample], units[sample], dataset.classes, scores)
            except AutotlError as error:
                warnings.append(f"{backbone.name}: {error}")
                log(f"{backbone.name} is not measured: {error}")
                continue
            finally:
                extractor.release_networks()
            num_extracted += result.num_extracted
            earlier = measured.get(backbone.name)
            if earlier and result.card.seconds_per_image is None:
                result = replace(result, card=replace(result.card, seconds_per_image=earlier[1].card.seconds_per_image))
            measured[backbone.name] = (backbone, result)
        if number + 1 < len(sizes):
            names = [card.backbone for card in _ranked(measured)]
            names = [name for name in names if measured[name][1].card.num_images == size]
            kept = names[: -(-len(names) // HALVING)]
            racing = [backbone for backbone in racing if backbone.name in kept]
    if not measured:
        reasons = "; ".join(warnings) or "there is none. Type: autotl backbones"
        raise AutotlError(f"No backbone could be measured: {reasons}")
    cards = _ranked(measured)
    if with_norms:
        best = measured[cards[0].backbone][0]
        with suppress(AutotlError):
            cards[0] = measure_norms(cards[0], extractor.of(best))
        extractor.release_networks()
    return Alignment(
        data=dataset.name,
        num_images=len(pool),
        cards=tuple(cards),
        verdict=verdict_of(cards[0]),
        unfrozen_blocks=blocks_to_retrain(cards[0]),
        sentences=sentences(cards[0], cards[1:], len(pool)),
        share_of_pass=num_extracted / max(1, len(pool) * len(backbones)),
        warnings=tuple(warnings),
    )


def _ranked(measured: Mapping[str, tuple[Backbone, Measurement]]) -> list[Card]:
    backbones, results = zip(*measured.values(), strict=True)
    return ranked([result.card for result in results], [result.hits for result in results], backbones)
