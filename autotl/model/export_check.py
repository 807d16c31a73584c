"""Compare an export with its model, on images of the user's."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autotl.data.decoding import decode
from autotl.errors import AutotlError
from autotl.escaping import escape
from autotl.exports.base import Exporter, Runtime
from autotl.exports.card import Check
from autotl.model.doubt import Doubts
from autotl.model.image_model import ImageModel

__all__ = ["CHECKED_IMAGES", "compared"]

CHECKED_IMAGES = 32
"""Images on which an export is compared with the model."""
LIKENESS_TOLERANCE = 0.02
"""How far a likeness may be from the model's, and a step more: it is a rank among the training images."""
MAX_AT_STEPS = 2
"""Images that may lie at a step: of a model of trees about one in 300 does."""


def compared(
    model: ImageModel,
    runtime: Runtime,
    exporter: Exporter,
    images: Sequence[Path],
    likeness: Runtime | None = None,
) -> Check:
    """Compare the answers for files of the user's.

    Where a feature lies at a threshold of trees, or a resized pixel between two values, the last bit of a sum decides
    the answer, here and in the export. An image whose answers differ, and agree once the lowest bit of each of its
    pixels has changed, lies at such a step.

    Args:
        likeness: what the export computes of how usual images are.

    Raises:
        AutotlError: one differs, or no image can be decoded.
    """
    differences: list[float] = []
    equal, at_steps = 0, 0
    skipped: list[Path] = []
    measure = Doubts(model).measure if likeness and model.doubt else None
    for path, row in model.stream(images, lambda path, reason: skipped.append(path), many=False, measure=measure):
        pixels = np.array(decode(path, model.size_hint))[None]
        (answer,), expected = runtime(pixels), row[: len(model.classes)]
        if likeness and model.doubt and model.doubt.familiar:
            (found,), usual, steps = likeness(pixels), row[-1], len(model.doubt.familiar.distances) + 1
            if not abs(found - usual) <= LIKENESS_TOLERANCE + 1 / steps:
                raise AutotlError(
                    f"The export to {exporter.name} isn't kept: for {path} its likeness to the training images is "
                    f"{found:.4f}, and the model's {usual:.4f}. Try another format with --to, and report it as a bug."
                )
        difference = float(np.abs(answer - expected).max())
        best = int(answer.argmax())
        # a tie within the tolerance is no other answer
        same = best == int(expected.argmax()) or expected.max() - expected[best] <= 2 * exporter.tolerance
        differs = not difference <= exporter.tolerance  # NaN, too
        if differs and same and at_steps < MAX_AT_STEPS:
            others = pixels ^ 1
            if np.abs(runtime(others)[0] - model.predict_proba(others[0])[0]).max() <= exporter.tolerance:
                at_steps, differs, difference = at_steps + 1, False, 0.0
        if differs or not same:
            raise AutotlError(
                f"The export to {exporter.name} isn't kept: for {path} it answers {_describe(model, answer)}, and the "
                f"model {_describe(model, expected)}; they may differ by {exporter.tolerance:g}. Try another format "
                "with --to, and report it as a bug."
            )
        equal += best == int(expected.argmax())
        differences.append(difference)
        if len(differences) == CHECKED_IMAGES:
            break
    if not differences:
        raise AutotlError("No image to check the export with can be decoded. Give some of yours: --check FOLDER")
    return Check(len(differences), equal, max(differences), likeness is not None, at_steps)


def _describe(model: ImageModel, probabilities: np.ndarray) -> str:
    best = int(np.argmax(probabilities))
    return f"{escape(model.classes[best])!r} with {float(probabilities[best]):.4f}"
