"""What a new model doesn't know, measured from its members' held-out probabilities and the recorded features."""

from collections.abc import Sequence

import numpy as np

from autotl.errors import AutotlError
from autotl.model.doubt import Doubt, fit_familiar
from autotl.model.member import Member
from autotl.trial.out_of_fold import units_of
from autotl.trial.state import WorkerState
from autotl.workers.messages import Log

__all__ = ["measure_doubt"]


def measure_doubt(state: WorkerState, members: Sequence[Member], held_out: np.ndarray) -> Doubt:
    """The doubt of a model of these members.

    Args:
        held_out: the members' averaged out-of-fold probabilities of the development images, [n, num_classes]; NaN for
            images that not all of them have predicted.
    """
    labels = state.labels("development")
    frozen = next((member for member in members if member.fitted.backbone_state is None), None)
    if frozen is None:
        return Doubt.of(held_out, labels)
    dataset, split = state.context.dataset, state.context.split
    try:
        features = state.extractor.of(state.registry.backbone(frozen.recipe.backbone)).levels("train", "last")
        units = units_of(dataset, split.train)
    except AutotlError as error:  # features that are gone can't be extracted when the time is up
        state.send(Log(f"The model doesn't tell unknown images: {error}"))
        return Doubt.of(held_out, labels)
    return Doubt.of(held_out, labels, fit_familiar(features, units), frozen.backbone_digest)
