"""What an export in fewer bits loses against the one in fp32, on images that its ranges weren't calibrated on."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autotl.exports.base import Runtime

__all__ = ["Answers", "Loss", "answers", "folder_size", "loss_of"]


@dataclass(frozen=True)
class Answers:
    """What runtimes answer to the same images, and what it costs."""

    probabilities: tuple[np.ndarray, ...]
    """Of each runtime, [n, num_classes]."""
    milliseconds: tuple[float, ...]
    """Of each runtime: the median of an image, decoded before."""


@dataclass(frozen=True)
class Loss:
    """An export in fewer bits, compared with the one in fp32: pairs are (fp32, fewer bits)."""

    precision: str
    images: int
    held_out: bool
    """Whether no image trained or selected the model."""
    changed: int
    """Images that get another class."""
    largest: float
    """The largest difference of a probability."""
    labelled: int
    """Images whose class is known."""
    accuracy: tuple[float, float] | None
    """Of the labelled images; None where there are none, as for `log_loss`."""
    log_loss: tuple[float, float] | None
    size: tuple[int, int]
    """Bytes."""
    milliseconds: tuple[float, float]

    def rows(self) -> list[tuple[str, str, str]]:
        """For tables: what, in fp32, in fewer bits."""
        rows = []
        if self.accuracy and self.log_loss:
            rows += [
                ("accuracy", *(f"{value:.3f}" for value in self.accuracy)),
                ("log loss", *(f"{value:.3f}" for value in self.log_loss)),
            ]
        rows.append(("size", *(f"{value / 1e6:,.1f} MB" for value in self.size)))
        rows.append(("an image, on the machine that exported", *(f"{value:,.1f} ms" for value in self.milliseconds)))
        return [(name, exact, fewer) for name, exact, fewer in rows]

    def describe(self) -> str:
        which = "that the model never saw" if self.held_out else "some of which trained or selected the model"
        known = f" Accuracy and log loss are of the {self.labelled:,} whose class is known." if self.labelled else ""
        return (
            f"Compared on {self.images:,} images, {which}: {self.changed:,} ({self.changed / self.images:.1%}) get "
            f"another class than in fp32, and no probability differs by more than {self.largest:.2g}.{known}"
        )


def answers(runtimes: Sequence[Runtime], images: Sequence[np.ndarray]) -> Answers:
    """Run each image through the runtimes, one after another, so that they share what else the machine does.

    Args:
        images: each uint8 [height, width, 3].
    """
    rows: list[list[np.ndarray]] = [[] for _ in runtimes]
    seconds: list[list[float]] = [[] for _ in runtimes]
    for image in images:
        for number, run in enumerate(runtimes):
            started = time.perf_counter()
            rows[number].append(run(image[None])[0])
            seconds[number].append(time.perf_counter() - started)
    return Answers(tuple(map(np.stack, rows)), tuple(1000 * float(np.median(values)) for values in seconds))


def loss_of(
    precision: str, compared: Answers, labels: Sequence[int | None], size: tuple[int, int], *, held_out: bool
) -> Loss:
    """The loss of the second of two runtimes.

    Args:
        compared: of the export in fp32 and the one in fewer bits.
        labels: the number of each image's class, None where it isn't known.
        size: bytes of both.
    """
    exact, fewer = compared.probabilities
    known = np.array([label is not None for label in labels])
    accuracy = log_loss = None
    if known.any():
        truth = np.array([label for label in labels if label is not None])
        accuracy = _pair(*((rows[known].argmax(1) == truth).mean() for rows in (exact, fewer)))
        of_truth = (np.maximum(rows[known][np.arange(len(truth)), truth], 1e-15) for rows in (exact, fewer))
        log_loss = _pair(*(-np.log(values).mean() for values in of_truth))
    return Loss(
        precision,
        len(exact),
        held_out,
        int((exact.argmax(1) != fewer.argmax(1)).sum()),
        float(np.abs(exact - fewer).max()),
        int(known.sum()),
        accuracy,
        log_loss,
        size,
        _pair(*compared.milliseconds),
    )


def _pair(exact: float, fewer: float) -> tuple[float, float]:
    return float(exact), float(fewer)


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
