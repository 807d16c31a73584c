"""Plots of a search with matplotlib, for notebooks and papers: `result.plot.confusion()`."""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from autotl.errors import AutotlError
from autotl.report.held_out import HeldOut
from autotl.report.learnt import best_so_far
from autotl.report.mistakes import confusion_matrix
from autotl.report.record import SearchRecord
from autotl.report.trust import binned, surest
from autotl.study.study import TrialAttribute

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Plots"]

MAX_NUMBERS = 20
"""Classes up to which the cells of a confusion matrix have numbers."""


class Plots:
    """Each method draws into `ax`, or into new axes, and returns them.

    Args:
        read: reads the search; called on first use.
    """

    def __init__(self, read: Callable[[], SearchRecord]):
        self._read = read

    @cached_property
    def _search(self) -> SearchRecord:
        return self._read()

    def _held_out(self) -> tuple[HeldOut, np.ndarray]:
        held_out = self._search.held_out
        if held_out is None or self._search.dataset is None:
            raise AutotlError(
                "This plot needs the images of the search and their labels, which can't be read from where they were. "
                "Where they have moved: autotl report NAME --data FOLDER"
            )
        return held_out, self._search.labels(held_out)

    def confusion(self, ax: "Axes | None" = None, *, normalize: bool = False) -> "Axes":
        """The confusion matrix on the test images (the validation images where there are none).

        Args:
            normalize: shares of each true class in place of numbers of images.
        """
        held_out, labels = self._held_out()
        classes = self._search.classes
        counts = confusion_matrix(labels, held_out.predicted, len(classes))
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axes = ax or _axes(max(4.0, min(16.0, 1.5 + 0.45 * len(classes))))
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        if len(classes) <= MAX_NUMBERS:
            for i, j in zip(*np.nonzero(counts), strict=True):
                text = f"{shares[i, j]:.2f}" if normalize else f"{counts[i, j]:,}"
                axes.text(j, i, text, ha="center", va="center", color="white" if shares[i, j] > 0.6 else "black")
        ticks = range(len(classes))
        axes.set_xticks(ticks, [_plain(name) for name in classes], rotation=60, ha="right")
        axes.set_yticks(ticks, [_plain(name) for name in classes])
        axes.set(xlabel="predicted", ylabel="true", title=f"{len(labels):,} {self._search.held_out_name} images")
        return axes

    def progress(self, ax: "Axes | None" = None) -> "Axes":
        """The best validation score over time."""
        seconds, scores = best_so_far(self._search)
        axes = ax or _axes()
        axes.step(seconds, scores, where="post")
        axes.set(xlabel="seconds", ylabel=f"best validation {_plain(self._search.metric.name)}")
        return axes

    def trials(self, ax: "Axes | None" = None) -> "Axes":
        """Score against seconds of each complete trial, a colour for each strategy."""
        axes, found = ax or _axes(), self._search.complete
        for strategy in sorted({t.user_attrs[TrialAttribute.RECIPE]["strategy"] for t in found}):
            chosen = [t for t in found if t.user_attrs[TrialAttribute.RECIPE]["strategy"] == strategy]
            seconds = [t.user_attrs.get(TrialAttribute.SECONDS, 0.0) for t in chosen]
            axes.scatter(seconds, [t.value or 0.0 for t in chosen], s=14, label=_plain(strategy), alpha=0.8)
        axes.set(xscale="log", xlabel="seconds of a trial", ylabel=f"validation {_plain(self._search.metric.name)}")
        axes.legend()
        return axes

    def calibration(self, ax: "Axes | None" = None) -> "Axes":
        """Predicted probability against the share that is right."""
        held_out, labels = self._held_out()
        mean, share, _ = binned(held_out.probabilities.max(1), held_out.predicted == labels)
        axes = ax or _axes()
        axes.plot([0, 1], [0, 1], "--", color="grey")
        axes.plot(mean, share, "o-")
        axes.set(xlabel="predicted probability", ylabel="share right", xlim=(0, 1), ylim=(0, 1))
        return axes

    def coverage(self, ax: "Axes | None" = None) -> "Axes":
        """Share right among the surest images, by how many of them are answered."""
        held_out, labels = self._held_out()
        accuracy = surest(held_out.probabilities, labels)
        axes = ax or _axes()
        axes.plot(np.arange(1, len(accuracy) + 1) / len(accuracy), accuracy)
        axes.set(xlabel="share of images answered", ylabel="share right", xlim=(0, 1))
        return axes


def _axes(side: float = 4.5) -> Any:
    try:
        from matplotlib import pyplot
    except ImportError:
        raise AutotlError("matplotlib isn't installed: pip install 'autotl[plot]'") from None
    return pyplot.subplots(figsize=(side, side), layout="constrained")[1]


def _plain(text: str) -> str:
    """A text that matplotlib doesn't read as a formula."""
    return text.replace("$", r"\$")
