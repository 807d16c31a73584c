"""Measure what an export in fewer bits loses, on images of the user's that it wasn't calibrated on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from autotl.data.decoding import UndecodableImage
from autotl.data.digests import digest_file
from autotl.data.sandbox import SandboxedDecoder
from autotl.errors import AutotlError
from autotl.exports.base import Exporter, Runtime
from autotl.exports.loss import Loss, answers, folder_size, loss_of
from autotl.model.image_model import ImageModel
from autotl.model.opening import open_picture

__all__ = ["CALIBRATION_IMAGES", "MEASURED_IMAGES", "Labelled", "Seen", "choose_images", "measured_loss"]

Labelled: TypeAlias = tuple[Path, str]
"""An image file, and the name of its class: "" or any other name where it isn't known."""
CALIBRATION_IMAGES = 100
"""Images whose activations give the ranges of int8."""
MEASURED_IMAGES = 300
"""Images on which the loss is measured, at most."""

MAX_READ = 5_000
"""Images among which those that the model never saw are looked for."""


@dataclass(frozen=True)
class Seen:
    """Images, decoded: uint8 [height, width, 3]."""

    calibration: list[np.ndarray]
    measured: list[np.ndarray]
    labels: list[int | None]
    """The number of each measured image's class."""
    held_out: bool
    """Whether no measured image trained or selected the model."""


def choose_images(model: ImageModel, images: Sequence[Labelled], calibrate: Sequence[Labelled]) -> Seen:
    """Images to calibrate with, those that trained the model first, and others to measure the loss on, those that it
    never saw first.

    Args:
        images, calibrate: as for `autotl.model.exporting.export_model`.

    Raises:
        AutotlError: fewer than two images can be decoded.
    """
    unseen: list[Labelled] = []
    known: list[Labelled] = []
    for image in images[:MAX_READ]:
        if len(unseen) >= MEASURED_IMAGES and (calibrate or len(known) >= CALIBRATION_IMAGES):
            break
        (known if _digest(image[0]) in model.trained_on else unseen).append(image)
    measured = list(unseen) if unseen else list(known)
    first = [image for image in calibrate if _digest(image[0]) in model.trained_on][:CALIBRATION_IMAGES]
    first = first or (known if unseen else [])
    if not first:  # nothing but what is measured: every second image for each
        first, measured = measured[1::2], measured[::2]
    decoded = list(_decoded(measured, model.size_hint, MEASURED_IMAGES))
    calibration = [pixels for _, pixels in _decoded(first, model.size_hint, CALIBRATION_IMAGES)]
    if not decoded or not calibration:
        raise AutotlError(
            "Fewer than two images can be decoded: fewer bits are calibrated on some images and measured "
            "on others. Give more of yours: --check FOLDER"
        )
    numbers = {name: number for number, name in enumerate(model.classes)}
    return Seen(
        calibration,
        [pixels for _, pixels in decoded],
        [numbers.get(label) for label, _ in decoded],
        bool(unseen) and bool(model.trained_on),
    )


def measured_loss(runtime: Runtime, exporter: Exporter, exact: Path, folder: Path, precision: str, seen: Seen) -> Loss:
    """The loss of the export in `folder` against the one in fp32 in the folder `exact`, whose runtime is given."""
    fewer = exporter.load(folder)
    assert fewer is not None
    compared = answers((runtime, fewer), seen.measured)
    size = folder_size(exact), folder_size(folder)
    return loss_of(precision, compared, seen.labels, size, held_out=seen.held_out)


def _digest(path: Path) -> str:
    try:
        return digest_file(path)
    except (OSError, ValueError):  # decoding leaves it out
        return ""


def _decoded(images: Sequence[Labelled], hint: int, number: int) -> Iterator[tuple[str, np.ndarray]]:
    decoder = SandboxedDecoder()
    for path, label in images:
        if number:
            try:
                pixels = np.array(open_picture((0, path), hint, decoder))
            except UndecodableImage:
                continue
            number -= 1
            yield label, pixels
