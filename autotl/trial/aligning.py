"""Measure alignment in a worker: the job whose outcome orders the backbones of a search."""

import math
import traceback
from collections.abc import Sequence
from dataclasses import replace

from autotl.alignment.align import align_backbones
from autotl.alignment.card import Card
from autotl.alignment.outcome import ALIGNMENT_FILE
from autotl.alignment.words import symmetry_of
from autotl.atomic_io import as_disk_full, write_json
from autotl.data.splits import connected_units
from autotl.devices import is_device_error
from autotl.study.advice import Advice
from autotl.trial.runner import MAX_CAUSE_LENGTH, release_memory
from autotl.trial.state import WorkerState
from autotl.workers.messages import Align, Aligned

__all__ = ["align"]


def align(state: WorkerState, job: Align) -> bool:
    """Measure the backbones on a sample of the training images, whose features trials read later. Sends Aligned.

    Returns:
        False after an accelerator error, which makes everything that this process computes later unreliable.

    Raises:
        DiskFull: the disk is full.
    """
    context, registry = state.context, state.registry
    try:
        # an extractor of its own: alignment replaces the split, and its deadline is nearer
        extractor = replace(state.extractor, deadline=state.deadline.within(job.time_budget))
        alignment = align_backbones(
            extractor,
            [registry.backbone(name) for name in job.backbones],
            context.split.train,
            connected_units(context.dataset),
            scores={},
            limit=job.num_images,
            seed=context.config.seed,
        )
        write_json(context.folder / ALIGNMENT_FILE, alignment.to_dict())
        state.publish(ALIGNMENT_FILE)
    except Exception as error:
        if full := as_disk_full(error, context.folder):
            raise full from error
        traceback.print_exc()  # to the worker's log
        cause = f"{type(error).__name__}: {error}".strip()[:MAX_CAUSE_LENGTH]
        failed = is_device_error(error)
        state.send(Aligned(cause=cause, is_device_error=failed))
        return not failed
    advice = Advice(
        _order(alignment.cards, context.choices.backbones[0]),
        alignment.unfrozen_blocks,
        alignment.unfreeze,
        symmetry_of(alignment.cards[0]),
        deserves_tuning=alignment.unfrozen_blocks > 0,
    )
    state.send(Aligned(advice))
    release_memory()
    return True


def _order(cards: Sequence[Card], recorded: str) -> tuple[str, ...]:
    """The order in which backbones are tried: that of the ranking, except that the recorded one, whose trials need no
    pass, stays the first unless another is better by more than a standard error."""
    names = [card.backbone for card in cards]
    if recorded not in names:
        return tuple(names)
    own, best = cards[names.index(recorded)], cards[0]
    if best.predicted - own.predicted <= math.hypot(best.predicted_error, own.predicted_error):
        names.sort(key=lambda name: name != recorded)
    return tuple(names)
