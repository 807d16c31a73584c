"""What a running search looks like: rich renderables made of events and snapshots. Nothing is printed here.

Names come from users and plugins, so they are wrapped in `Text`: rich would read `[red]` in a plain string as markup.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autotl.escaping import escape
from autotl.events import SearchStarted, TrialFinished
from autotl.ui.progress import Snapshot, WorkerLine

__all__ = [
    "MAX_WIDTH",
    "Screen",
    "format_clock",
    "format_counts",
    "format_duration",
    "format_score",
    "headline_rows",
    "headline_table",
    "shorten",
    "worker_text",
]

MAX_WIDTH = 120
"""Columns: longer lines are hard to read, however wide the terminal."""
WIDE = 110
"""Columns from which recent trials are shown with their parameters."""

PARAMETERS = re.compile(r" \([^()]*\)")


def format_clock(seconds: float) -> str:
    """`0:07`, `12:30`, `1:02:03`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, from a minute as `format_clock`."""
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s" if seconds < 59.5 else format_clock(seconds)


def format_score(value: float | None) -> str:
    """Four digits, a dash for None."""
    return "–" if value is None else f"{value:.4f}"


def format_counts(complete: int, pruned: int, failed: int) -> str:
    """`21 finished · 12 pruned · 1 failed`; states without a trial are left out."""
    return " · ".join(
        [f"{complete} finished", *([f"{pruned} pruned"] if pruned else []), *([f"{failed} failed"] if failed else [])]
    )


def shorten(text: str, width: int, ending: str = "") -> str:
    """`text + ending` in `width` columns: parameters in parentheses are dropped first, then the end of `text` is cut.

    `ending` stays whole unless it would take nearly all of the width.
    """
    if cell_len(text + ending) <= width:
        return text + ending
    text = PARAMETERS.sub("", text)
    if cell_len(text + ending) > width and cell_len(ending) + 8 < width:
        return _truncate(text, width - cell_len(ending)) + ending
    return _truncate(text + ending, width)


def _truncate(text: str, width: int) -> str:
    line = Text(text)
    line.truncate(max(1, width), overflow="ellipsis")
    return line.plain


def headline_rows(event: SearchStarted) -> list[tuple[str, str]]:
    """Images, classes, backbones, workers and warnings of a search, each as a label and its text."""
    subsets = {subset: event.images.get(subset) or 0 for subset in ("train", "validation", "test")}
    rows = [
        (f"{sum(subsets.values()):,} images", " · ".join(f"{n:,} {subset}" for subset, n in subsets.items() if n)),
        (f"{len(event.classes)} classes", _listed(event.classes)),
        (_counted(event.backbones, "backbone"), _listed(event.backbones)),
        (_counted(event.devices, "worker"), _listed(event.devices)),
    ]
    if skipped := event.images.get("skipped"):
        rows.append((f"{skipped:,} left out", "files that can't be decoded"))
    return [*rows, *(("warning", escape(warning)) for warning in event.warnings)]


def _counted(names: Sequence[Any], noun: str) -> str:
    return f"{len(names)} {noun}" + ("s" if len(names) != 1 else "")


def _listed(names: Sequence[Any], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(escape(name) for name in names[:limit]) + more


def headline_table(event: SearchStarted, width: int = 80) -> RenderableType:
    """The study's name and `headline_rows`; warnings in yellow."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.width = min(width, MAX_WIDTH)
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(ratio=1)
    for label, text in headline_rows(event):
        style = "yellow" if label == "warning" or label.endswith("left out") else ""
        grid.add_row(Text(label), Text(text), style=style)
    title = Text.assemble(
        ("autotl", "bold cyan"), " searches ", (escape(event.study), "bold"), f" for the best {escape(event.metric)}"
    )
    return Group(title, grid)


class Screen:
    """The live region: time and trials left, the best trial, each worker, the last trials.

    Its height hardly changes from snapshot to snapshot, so that lines stay in their places.
    """

    def __init__(self, snapshot: Snapshot, metric: str, max_trials: int = 6, max_workers: int = 8):
        self.snapshot, self.metric, self.max_trials, self.max_workers = snapshot, metric, max_trials, max_workers

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(options.max_width, MAX_WIDTH)
        rows = console.height - 12 - min(len(self.snapshot.workers), self.max_workers)
        parts = [self._bars(width), "", *self._best(console, width), "", *self._workers(width)]
        if self.snapshot.recent:
            parts += ["", self._recent(width, max(1, min(self.max_trials, rows)))]
        yield Padding(Group(*parts), (1, 0, 0, 0))

    def _bars(self, width: int) -> RenderableType:
        now = self.snapshot
        grid = Table.grid(padding=(0, 2, 0, 0), expand=False)
        grid.width = width
        grid.add_column(style="dim", width=6)
        grid.add_column(ratio=1)
        grid.add_column(justify="right", no_wrap=True)
        done = now.complete + now.pruned + now.failed
        counts = format_counts(now.complete, now.pruned, now.failed)
        if now.time_left is None:
            grid.add_row("time", "", format_clock(now.seconds))
        else:
            total = now.seconds + now.time_left
            grid.add_row(
                "time", _bar(now.seconds, total), f"{format_clock(now.time_left)} left of {format_clock(total)}"
            )
        if now.trials_left is None:
            grid.add_row("trials", counts, self._speed())
        else:
            total = done + now.trials_left
            grid.add_row("trials", _bar(done, total), f"{now.trials_left} left of {total}")
            grid.add_row("", counts, self._speed())
        return grid

    def _speed(self) -> Text:
        speed = self.snapshot.images_per_second
        return Text(f"{speed:,.0f} images/s" if speed else "", "cyan")

    def _best(self, console: Console, width: int) -> list[RenderableType]:
        best = self.snapshot.best
        if best is None:
            return [Text.assemble(("best    ", "dim"), ("no trial has finished yet", "dim italic")), ""]
        value = Text.assemble(
            ("best    ", "dim"),
            (format_score(best.value), "bold green"),
            (f" {escape(self.metric)} · trial {best.number} · took {format_duration(best.seconds)}", "dim"),
        )
        description = Text(escape(best.description))
        if len(description.wrap(console, width - 8)) > 2:
            description = Text(shorten(escape(best.description), width - 8))
        return [value, Padding(description, (0, 0, 0, 8))]

    def _workers(self, width: int) -> Iterable[RenderableType]:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.width = width
        shown = self.snapshot.workers[: self.max_workers]
        longest = max([6, *(cell_len(worker.name) for worker in shown)])
        longest = min(longest, width // 4)
        grid.add_column(style="cyan", width=longest, no_wrap=True, overflow="ellipsis")
        grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        grid.add_column(style="dim", justify="right", width=7, no_wrap=True)
        for worker in shown:
            style = "dim" if worker.trial is None else ""
            text = Text(worker_text(worker, width - longest - 13), style)
            grid.add_row(Text(worker.name), text, format_clock(worker.seconds))
        yield grid
        if hidden := len(self.snapshot.workers) - len(shown):
            yield Text(f"and {hidden} more workers", "dim")

    def _recent(self, width: int, rows: int) -> RenderableType:
        recent = sorted(self.snapshot.recent, key=lambda trial: -trial.number)[:rows]
        wide = width >= WIDE
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.width = width
        grid.add_column(width=5, no_wrap=True)
        grid.add_column(width=7, no_wrap=True)
        if not wide:
            longest = max(cell_len(trial.backbone) for trial in recent)
            grid.add_column(width=max(1, min(longest, width // 4)), no_wrap=True, overflow="ellipsis")
            grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        grid.add_column(width=6, justify="right", no_wrap=True)
        best = self.snapshot.best
        for trial in recent:
            style = "green" if best and trial.number == best.number else STATE_STYLES.get(trial.state, "")
            value = format_score(trial.value) if trial.state == "complete" else trial.state
            grid.add_row(
                Text(f"#{trial.number}", "dim"),
                Text(value, style),
                *(Text(escape(cell), style) for cell in _trial_cells(trial, wide=wide)),
                Text(format_duration(trial.seconds), "dim"),
            )
        return grid


STATE_STYLES = {"complete": "", "pruned": "dim", "failed": "red"}


def worker_text(worker: WorkerLine, width: int) -> str:
    """A worker's trial, its recipe and its current step in `width` columns: `trial 37 · … · epoch 2/8`."""
    subject = [f"trial {worker.trial}"] if worker.trial is not None else []
    activity = escape(worker.activity)
    parts = [*subject, *filter(None, [escape(worker.description)])]
    if not parts:
        return shorten(activity, width)
    return shorten(" · ".join(parts), width, f" · {activity}" if activity else "")


def _bar(done: float, total: float) -> ProgressBar:
    return ProgressBar(total=max(total, 1e-9), completed=min(done, total), complete_style="cyan", finished_style="cyan")


def _trial_cells(trial: TrialFinished, *, wide: bool) -> list[str]:
    """Backbone, strategy and head in columns, or the whole recipe in one; of a failed trial its cause at the end."""
    cause = trial.cause.splitlines()[0] if trial.state == "failed" and trial.cause else ""
    if not wide:
        return [trial.backbone, trial.strategy, cause or trial.head]
    return [" · ".join(filter(None, [trial.backbone, trial.strategy, cause])) if cause else trial.description]
