"""Progress displays: live in a terminal or notebook, plain lines in a log, JSON for scripts, or the result alone."""

import atexit
import importlib
import io
import json
import math
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.prompt import Confirm
from rich.text import Text

from autotl.escaping import escape, escape_lines
from autotl.events import SearchFinished, SearchStarted, TrialFinished
from autotl.ui.output import write_line
from autotl.ui.picture import PAGE_WIDTH, PictureReporter, draw_page
from autotl.ui.progress import Progress, Snapshot
from autotl.ui.rendering import (
    Screen,
    format_clock,
    format_counts,
    format_duration,
    format_score,
    headline_rows,
    headline_table,
)
from autotl.ui.summary import summary

__all__ = [
    "JsonReporter",
    "LiveReporter",
    "NotebookReporter",
    "PlainReporter",
    "QuietReporter",
    "choose_progress",
    "default_progress",
]


def choose_progress(
    *, quiet: bool = False, as_json: bool = False, picture: Path | None = None, console: Console | None = None
) -> Progress:
    """The display for the command line: live where stdout is a terminal that can move its cursor, else plain lines.

    Raises:
        AutotlError: the folder of `picture` does not exist; better known before the search than after it.
    """
    console = console or Console()
    progress: Progress
    if as_json:
        progress = JsonReporter()
    elif quiet:
        progress = QuietReporter()
    elif console.is_terminal and not console.is_dumb_terminal:
        progress = LiveReporter(console)
    else:
        progress = PlainReporter()
    return PictureReporter(progress, picture) if picture else progress


def default_progress() -> Progress:
    """The display for searches from Python: live in a Jupyter notebook, none in a script."""
    ipython = sys.modules.get("IPython")  # a notebook's kernel has imported it
    shell = ipython.get_ipython() if ipython else None
    return NotebookReporter() if getattr(shell, "kernel", None) is not None else Progress()


def _checked(done: int, total: int) -> str:
    return f"checking images: {done:,} of {total:,}"


class _Pace:
    """Whether it is time again to show something."""

    def __init__(self, interval: float):
        self.interval, self.last = interval, time.monotonic()

    def is_due(self) -> bool:
        now = time.monotonic()
        if now - self.last < self.interval:
            return False
        self.last = now
        return True


def _first_line(cause: str) -> str:
    return cause.splitlines()[0] if cause else ""


class LiveReporter(Progress):
    """A live region below the lines that scroll, redrawn by the coordinator's own thread at each update."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console()
        self.metric = "score"
        self.live: Live | None = None
        self._pace = _Pace(0.2)

    def checking(self, done: int, total: int) -> None:
        if done == total:
            self.close()
        elif self._pace.is_due():
            if self.live is None:
                self._start_live()
            assert self.live is not None
            self.live.update(Text(_checked(done, total), "dim"), refresh=True)

    def on_search_started(self, event: SearchStarted) -> None:
        self.metric = event.metric
        self.console.print(headline_table(event, self.console.width))
        self._start_live()

    def _start_live(self) -> None:
        # transient: the summary takes the live region's place
        self.live = Live(console=self.console, auto_refresh=False, transient=True)
        self.live.start()
        atexit.register(self.close)  # an exception must not leave the terminal without its cursor

    def update(self, snapshot: Snapshot) -> None:
        if self.live:
            self.live.update(Screen(snapshot, self.metric), refresh=True)

    def on_trial_finished(self, event: TrialFinished) -> None:
        if event.state == "failed":  # the live region shows recent trials only; a failure's cause stays
            self._print(_failure(event), "red")

    def log(self, line: str) -> None:
        self._print(line, "dim")

    def confirm(self, question: str) -> bool:
        if not sys.stdin or not sys.stdin.isatty():
            return False
        with suppress(EOFError):  # Ctrl-D
            return Confirm.ask(Text(escape_lines(question)), console=self.console, default=True)
        return False

    def _print(self, line: str, style: str) -> None:
        self.console.print(Text(escape_lines(line), style))

    def on_search_finished(self, event: SearchFinished) -> None:
        self.close()
        self.console.print(summary(event.result, self.console.width))

    def close(self) -> None:
        """Remove the live region and show the cursor. Idempotent."""
        atexit.unregister(self.close)
        if self.live:
            self.live.stop()
            self.live = None


def _failure(event: TrialFinished) -> str:
    return f"trial {event.number} failed: {_first_line(event.cause) or 'no cause recorded'}"


class PlainReporter(Progress):
    """A line for each finished trial, and one about every 15 s. No control codes, no shortened text."""

    interval = 15.0
    first_interval = 5.0
    """Until a trial has finished: its features are recorded first, which can take minutes."""

    def __init__(self) -> None:
        self.metric = "score"
        self.started = self.printed = time.monotonic()
        """When the search began: its lines have the time since then, as its deadline counts."""
        self._pace = _Pace(self.first_interval)

    def checking(self, done: int, total: int) -> None:
        if done < total and self._pace.is_due():
            self.log(_checked(done, total))

    def on_search_started(self, event: SearchStarted) -> None:
        self.metric, self.printed = event.metric, time.monotonic()
        print(escape(f"autotl searches {event.study} for the best {self.metric}"), flush=True)
        for label, text in headline_rows(event):
            print(f"{label}: {text}", flush=True)

    def update(self, snapshot: Snapshot) -> None:
        num_finished = snapshot.complete + snapshot.pruned + snapshot.failed
        self.started = time.monotonic() - snapshot.seconds
        if time.monotonic() - self.printed < (self.interval if num_finished else self.first_interval):
            return
        parts = [format_counts(snapshot.complete, snapshot.pruned, snapshot.failed)]
        if snapshot.best:
            parts.append(f"best {format_score(snapshot.best.value)} (trial {snapshot.best.number})")
        if snapshot.time_left is not None:
            parts.append(f"{format_clock(snapshot.time_left)} left")
        if snapshot.trials_left is not None:
            parts.append(f"{snapshot.trials_left} trials left")
        if snapshot.images_per_second:
            parts.append(f"{snapshot.images_per_second:,.0f} images/s")
        if not num_finished:
            parts += (f"{worker.name}: {worker.activity}" for worker in snapshot.workers if worker.activity)
        self.log(" · ".join(parts))

    def on_trial_finished(self, event: TrialFinished) -> None:
        value = f"{self.metric} {format_score(event.value)}" if event.state == "complete" else event.state
        mark = " (best so far)" if event.is_best else ""
        cause = f": {_first_line(event.cause)}" if event.cause else ""
        description = f", {event.description}" if event.description else ""
        self.log(f"trial {event.number}: {value}{mark} in {format_duration(event.seconds)}{description}{cause}")

    def log(self, line: str) -> None:
        self.printed = time.monotonic()
        print(f"[{format_clock(self.printed - self.started)}] {escape_lines(line)}", flush=True)

    def on_search_finished(self, event: SearchFinished) -> None:
        sheet = io.StringIO()
        console = Console(file=sheet, width=120, color_system=None, force_terminal=False, force_jupyter=False)
        console.print(summary(event.result, 120))
        for line in sheet.getvalue().splitlines():
            print(line.rstrip(), flush=True)


class QuietReporter(Progress):
    """For `--quiet`: prints the model's folder at the end, so that `MODEL=$(autotl search photos --quiet)` works."""

    def on_search_finished(self, event: SearchFinished) -> None:
        write_line(event.result["model"])


class JsonReporter(Progress):
    """For `--json`: one JSON object a line. Its `event` is `checking` and `progress` (once a second),
    `search_started`, `trial_finished`, `log` or `search_finished`."""

    interval = 1.0

    def __init__(self) -> None:
        self.written = -math.inf
        self._pace = _Pace(self.interval)

    def _write(self, event: str, **fields: Any) -> None:
        # only ASCII, so that every terminal can encode it
        write_line(json.dumps(_finite({"event": event, **fields}), default=str, allow_nan=False))

    def checking(self, done: int, total: int) -> None:
        if done < total and self._pace.is_due():
            self._write("checking", done=done, total=total)

    def on_search_started(self, event: SearchStarted) -> None:
        self._write("search_started", **asdict(event))

    def update(self, snapshot: Snapshot) -> None:
        if time.monotonic() - self.written >= self.interval:
            self.written = time.monotonic()
            self._write("progress", **asdict(snapshot))

    def on_trial_finished(self, event: TrialFinished) -> None:
        self._write("trial_finished", **asdict(event))

    def log(self, line: str) -> None:
        self._write("log", text=line)

    def on_search_finished(self, event: SearchFinished) -> None:
        self._write("search_finished", **event.result)


def _finite(value: Any) -> Any:
    """Replace NaN and infinities, which JSON lacks, by None, and NumPy's scalars by Python's."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


class NotebookReporter(Progress):
    """One notebook output that is redrawn: headline, messages, and the live region or the summary.

    Args:
        display: `IPython.display.display`, which is imported without it.
    """

    interval = 0.5
    """Seconds between two redrawings: each travels to the browser."""
    max_lines = 20

    def __init__(self, display: Callable[..., Any] | None = None):
        self._display = display or importlib.import_module("IPython.display").display
        self._output: Any = None
        self._headline: RenderableType | None = None
        self._metric = "score"
        self._lines: list[Text] = []
        self._body: list[RenderableType] = []
        self._drawn = -math.inf
        self._pace = _Pace(self.interval)

    def checking(self, done: int, total: int) -> None:
        if done < total and self._pace.is_due():
            self._body = [Text(_checked(done, total), "dim")]
            self._draw()
        elif done == total and self._body:
            self._body = []
            self._draw()

    def on_search_started(self, event: SearchStarted) -> None:
        self._metric = event.metric
        self._headline = headline_table(event, PAGE_WIDTH)
        self._draw()

    def update(self, snapshot: Snapshot) -> None:
        self._body = [Screen(snapshot, self._metric)]
        if time.monotonic() - self._drawn >= self.interval:
            self._draw()

    def on_trial_finished(self, event: TrialFinished) -> None:
        if event.state == "failed":
            self._print(_failure(event), "red")

    def log(self, line: str) -> None:
        self._print(line, "dim")

    def _print(self, line: str, style: str) -> None:
        self._lines = [*self._lines, Text(escape_lines(line), style)][-self.max_lines :]
        self._draw()

    def on_search_finished(self, event: SearchFinished) -> None:
        self._body = [summary(event.result, PAGE_WIDTH)]
        self._draw()

    def _draw(self) -> None:
        from rich.jupyter import JUPYTER_HTML_FORMAT

        self._drawn = time.monotonic()
        page = draw_page(*([self._headline] if self._headline else []), *self._lines, *self._body)
        html = page.export_html(code_format=JUPYTER_HTML_FORMAT, inline_styles=True, clear=False)
        data = {"text/html": html, "text/plain": page.export_text()}
        if self._output is None:
            self._output = self._display(data, raw=True, display_id=True)
        else:
            self._output.update(data, raw=True)
