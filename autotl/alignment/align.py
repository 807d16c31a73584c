"""Measures backbones on growing samples of a data set."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from autotl.alignment.card import Alignment
from autotl.alignment.invariance import measure_invariances
from autotl.alignment.measure import Measurement, measure, measure_norms
from autotl.alignment.race import race
from autotl.alignment.sample import stratified_order
from autotl.alignment.scores import BUILT_IN, Score
from autotl.alignment.words import blocks_to_retrain, sentences, unfreeze_of, verdict_of
from autotl.backbones.base import Backbone
from autotl.data.splits import Split
from autotl.errors import AutotlError
from autotl.features.extractor import FeatureExtractor

__all__ = ["MAX_SAMPLE", "align_backbones"]

MAX_SAMPLE = 2048
"""Images of the last round at most: neighbours are sought among all pairs."""
NORM_SECONDS = 5.0
"""Seconds that have to be left for the comparison of batch-norm statistics."""


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
    with_invariances: bool = True,
    log: Callable[[str], None] = lambda line: None,
) -> Alignment:
    """Measure backbones on a stratified sample: all on a few images, those that can still win on more, and so on (see
    `autotl.alignment.race`), the best one on all or on `limit`. The rows stay in the extractor's store.

    Args:
        extractor: its split is replaced.
        pool: indices of the images that may be sampled: those of the training subset.
        units: [number of images of the data set]: those of one unit don't predict each other.
        limit: images of the last round.
        with_norms: compare the best backbone's batch-norm statistics, for which 64 images run through PyTorch.
        with_invariances: run up to 64 flipped and 64 turned images through the best backbone.

    Raises:
        AutotlError: no backbone could be measured.
    """
    dataset = extractor.dataset
    order = pool[stratified_order(dataset.labels[pool], seed)]
    by_name = {backbone.name: backbone for backbone in backbones}
    warnings, extracted, seconds = list[str](), dict[str, int](), dict[str, float]()

    def run(name: str, size: int) -> Measurement | None:
        sample, none = order[:size], np.arange(0)
        extractor.split = Split(sample, none, none, seed)
        try:
            features = extractor.of(by_name[name])
            result = measure(features, dataset.labels[sample], units[sample], dataset.classes, scores)
        except AutotlError as error:
            warnings.append(f"{name}: {error}")
            log(f"{name} is not measured: {error}")
            return None
        finally:
            extractor.release_networks()
        extracted[name] = extracted.get(name, 0) + result.num_extracted
        if result.card.seconds_per_image is not None:
            seconds[name] = result.card.seconds_per_image
        return replace(result, card=replace(result.card, seconds_per_image=seconds.get(name)))

    cards = race(by_name, run, len(pool), min(len(pool), limit or MAX_SAMPLE, MAX_SAMPLE))
    if not cards:
        reasons = "; ".join(warnings) or "there is none. Type: autotl backbones"
        raise AutotlError(f"No backbone could be measured: {reasons}")
    best = extractor.of(by_name[cards[0].backbone])
    with suppress(AutotlError):  # there was no time: what was measured so far stands
        if with_invariances:
            sample = order[: cards[0].num_images]
            found = measure_invariances(best, sample, dataset.labels[sample], units[sample])
            cards[0] = replace(cards[0], invariances=found)
        if with_norms and extractor.deadline.remaining() > NORM_SECONDS:
            cards[0] = measure_norms(cards[0], best)
    extractor.release_networks()
    others = sum(n for name, n in extracted.items() if name != cards[0].backbone)
    all_images = max(1, len(pool) * len(backbones))
    return Alignment(
        data=dataset.name,
        num_images=len(pool),
        cards=tuple(cards),
        verdict=verdict_of(cards[0]),
        unfrozen_blocks=blocks_to_retrain(cards[0], len(pool)),
        sentences=sentences(cards[0], cards[1:], len(pool)),
        share_of_pass=sum(extracted.values()) / all_images,
        share_of_others=others / all_images,
        unfreeze=unfreeze_of(cards[0]),
        warnings=tuple(warnings),
    )
