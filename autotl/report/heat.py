"""Heat maps for a report, as many as there is time for."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from autotl.clock import Deadline
from autotl.errors import AutotlError
from autotl.model.image_model import ImageModel

__all__ = ["heat_maps_within"]

FIRST_SECONDS = 3.0
"""What the first heat map may take, for which the networks are built."""


def heat_maps_within(
    open_model: Callable[[], ImageModel], deadline: Deadline
) -> Callable[[Sequence[Path], Sequence[int]], list[np.ndarray | None]]:
    """What `SearchRecord.heat_maps` calls. An image is left out where the time that the one before took isn't there
    twice: the rest of the report needs some, too.

    Args:
        open_model: called before the first heat map.
    """
    seconds = FIRST_SECONDS
    model: ImageModel | None = None

    def explain(paths: Sequence[Path], classes: Sequence[int]) -> list[np.ndarray | None]:
        nonlocal seconds, model
        maps: list[np.ndarray | None] = []
        for path, number in zip(paths, classes, strict=True):
            if deadline.remaining() < 2 * seconds:
                maps.append(None)
                continue
            began = time.monotonic()
            try:
                model = model or open_model()
                (heat,) = model.explain([path], model.classes[number])
            except AutotlError:  # the file is gone
                maps.append(None)
            else:
                positive = np.maximum(heat.values, 0)
                maps.append(positive / max(float(positive.max()), 1e-12))
            seconds = time.monotonic() - began
        return maps

    return explain
