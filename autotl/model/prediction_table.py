"""What a model predicted for labelled images, worst first."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autotl.atomic_io import write_atomically
from autotl.escaping import csv_cell

__all__ = ["worst_first", "write_predictions"]

COLUMNS = ("path", "label", "predicted", "probability", "probability_of_label")


def worst_first(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The order of images from the least to the most probable label, [n]; images of equal ones in their own order."""
    return np.argsort(probabilities[np.arange(len(labels)), labels], kind="stable")


def write_predictions(
    file: Path, paths: Sequence[Path], labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
) -> None:
    """Write a CSV file with a line for each image, the worst first: its label, the most probable class and that one's
    probability, and the probability of the label.

    Args:
        labels: [n].
        probabilities: [n, num_classes].
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for i in worst_first(labels, probabilities):
        best = int(probabilities[i].argmax())
        numbers = (f"{probabilities[i, best]:.6f}", f"{probabilities[i, labels[i]]:.6f}")
        names = (csv_cell(classes[labels[i]]), csv_cell(classes[best]))
        writer.writerow([csv_cell(str(paths[i])), *names, *numbers])
    write_atomically(file, text.getvalue().encode(errors="surrogateescape"))
