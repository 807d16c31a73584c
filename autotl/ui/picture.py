"""Pages of fixed width, for an SVG picture of a search, or a notebook."""

import io
import os
from pathlib import Path

from rich.console import Console, Group, RenderableType

from autotl.errors import AutotlError
from autotl.events import EpochEnded, SearchFinished, SearchStarted, TrialFinished, TrialStarted
from autotl.ui.progress import Progress, Snapshot
from autotl.ui.rendering import Screen, headline_table
from autotl.ui.summary import summary

__all__ = ["PAGE_WIDTH", "PictureReporter", "draw_page"]

PAGE_WIDTH = 100
"""Columns of a page."""


def draw_page(*parts: RenderableType) -> Console:
    """A console that has recorded the parts."""
    page = Console(
        record=True, width=PAGE_WIDTH, height=60, file=io.StringIO(), force_terminal=True, force_jupyter=False
    )
    page.print(Group(*parts))
    return page


class PictureReporter(Progress):
    """Wraps another display. At the end it writes an SVG of what a terminal shows: the headline, the last snapshot
    with a trial in it, and the summary."""

    def __init__(self, inner: Progress, file: Path):
        if not file.parent.is_dir():
            raise AutotlError(f"The picture {file} can't be written: there is no folder {file.parent}. Make it first.")
        if file.is_dir():
            raise AutotlError(
                f"The picture {file} can't be written: it is a folder. Name a file: {file / 'search.svg'}"
            )
        place = file if file.exists() else file.parent
        if not os.access(place, os.W_OK):
            what = "the file is read-only" if file.exists() else f"no file can be made in {place}"
            raise AutotlError(f"The picture {file} can't be written: {what}. Name another.")
        self.inner, self.file = inner, file
        self.started: SearchStarted | None = None
        self.snapshot: Snapshot | None = None

    def checking(self, done: int, total: int) -> None:
        self.inner.checking(done, total)

    def on_search_started(self, event: SearchStarted) -> bool | None:
        self.started = event
        return self.inner.on_search_started(event)

    def on_trial_started(self, event: TrialStarted) -> bool | None:
        return self.inner.on_trial_started(event)

    def on_epoch_ended(self, event: EpochEnded) -> bool | None:
        return self.inner.on_epoch_ended(event)

    def on_trial_finished(self, event: TrialFinished) -> bool | None:
        return self.inner.on_trial_finished(event)

    def update(self, snapshot: Snapshot) -> None:
        if self.snapshot is None or any(worker.trial is not None for worker in snapshot.workers):
            self.snapshot = snapshot
        self.inner.update(snapshot)

    def log(self, line: str) -> None:
        self.inner.log(line)

    def confirm(self, question: str) -> bool:
        return self.inner.confirm(question)

    def close(self) -> None:
        self.inner.close()

    def on_search_finished(self, event: SearchFinished) -> None:
        self.inner.on_search_finished(event)  # ends the live region, which drawing the picture would freeze
        parts: list[RenderableType] = []
        if self.started:
            parts.append(headline_table(self.started, PAGE_WIDTH))
            if self.snapshot:
                parts.append(Screen(self.snapshot, self.started.metric))
        page = draw_page(*parts, summary(event.result, PAGE_WIDTH))
        page.save_svg(str(self.file), title=f"autotl search {event.result['study']}")
