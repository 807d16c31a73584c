"""How a search is told: live in a terminal, as plain lines in a log, as JSON for scripts, or hardly at all."""

import atexit
import io
import json
import math
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from autotl.errors import AutotlError
from autotl.ui.progress import Progress, Snapshot, TrialLine
from autotl.ui.rendering import Screen, clock, counts, headline_rows, headline_table, score, summary, took

__all__ = ["JsonProgress", "LiveProgress", "Picture", "PlainProgress", "QuietProgress", "choose_progress"]

PICTURE_WIDTH = 100


def choose_progress(
    quiet: bool = False, as_json: bool = False, picture: Path | None = None, console: Console | None = None
) -> Progress:
    """Live where stdout is a terminal that can move its cursor, plain lines elsewhere.

    Raises AutotlError for a `picture` that couldn't be written: better now than after the search.
    """
    console = console or Console()
    progress: Progress
    if as_json:
        progress = JsonProgress()
    elif quiet:
        progress = QuietProgress()
    elif console.is_terminal and not console.is_dumb_terminal:
        progress = LiveProgress(console)
    else:
        progress = PlainProgress()
    return Picture(progress, picture) if picture else progress


class LiveProgress:
    """A live region below the lines that scroll: redrawn in the coordinator's own thread, at each update."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console()
        self.metric = "score"
        self.live: Live | None = None

    def begin(self, headline: dict[str, Any]) -> None:
        self.metric = headline["metric"]
        self.console.print(headline_table(headline, self.console.width))
        # transient: the summary takes the live region's place
        self.live = Live(console=self.console, auto_refresh=False, transient=True)
        self.live.start()
        atexit.register(self.close)  # an exception must not leave a terminal without its cursor

    def update(self, snapshot: Snapshot) -> None:
        if self.live:
            self.live.update(Screen(snapshot, self.metric), refresh=True)

    def trial(self, line: TrialLine, best: bool) -> None:
        if line.state == "failed":  # it would scroll out of the live region; its cause shouldn't
            cause = line.note.splitlines()[0] if line.note else "no cause recorded"
            self.say(f"trial {line.number} failed: {cause}", "red")

    def say(self, line: str, style: str = "dim") -> None:
        self.console.print(Text(line, style))

    def end(self, result: dict[str, Any]) -> None:
        self.close()
        self.console.print(summary(result, self.console.width))

    def close(self) -> None:
        """Give the terminal back as it was."""
        atexit.unregister(self.close)
        if self.live:
            self.live.stop()
            self.live = None


class PlainProgress:
    """A line for each finished trial, and one about every 15 s. No control codes, nothing cut off."""

    every = 15.0

    def __init__(self) -> None:
        self.metric = "score"
        self.started = self.spoken = time.monotonic()

    def begin(self, headline: dict[str, Any]) -> None:
        self.metric = headline["metric"]
        self.started = self.spoken = time.monotonic()
        print(f"autotl searches {headline['study']} for the best {self.metric}", flush=True)
        for label, text in headline_rows(headline):
            print(f"{label}: {text}", flush=True)

    def update(self, snapshot: Snapshot) -> None:
        if time.monotonic() - self.spoken < self.every:
            return
        parts = [counts(snapshot)]
        if snapshot.best:
            parts.append(f"best {score(snapshot.best.value)} (trial {snapshot.best.number})")
        if snapshot.seconds_left is not None:
            parts.append(f"{clock(snapshot.seconds_left)} left")
        if snapshot.trials_left is not None:
            parts.append(f"{snapshot.trials_left} trials left")
        if snapshot.images_per_second:
            parts.append(f"{snapshot.images_per_second:,.0f} images/s")
        self.say(" · ".join(parts))

    def trial(self, line: TrialLine, best: bool) -> None:
        value = f"{self.metric} {score(line.value)}" if line.state == "complete" else line.state
        mark = " (best so far)" if best else ""
        note = f": {line.note.splitlines()[0]}" if line.note else ""
        self.say(f"trial {line.number}: {value}{mark} in {took(line.seconds)}, {line.description}{note}")

    def say(self, line: str) -> None:
        self.spoken = time.monotonic()
        print(f"[{clock(self.spoken - self.started)}] {line}", flush=True)

    def end(self, result: dict[str, Any]) -> None:
        sheet = Console(file=io.StringIO(), width=120, color_system=None, force_terminal=False)
        sheet.print(summary(result, 120))
        for line in sheet.file.getvalue().splitlines():  # type: ignore[attr-defined]  # the StringIO above
            print(line.rstrip(), flush=True)


class QuietProgress:
    """Nothing but where the model is, at the end: `MODEL=$(autotl search photos --quiet)`."""

    def begin(self, headline: dict[str, Any]) -> None: ...

    def update(self, snapshot: Snapshot) -> None: ...

    def trial(self, line: TrialLine, best: bool) -> None: ...

    def say(self, line: str) -> None: ...

    def end(self, result: dict[str, Any]) -> None:
        print(result["model"], flush=True)


class JsonProgress:
    """One JSON object a line, told apart by `event`: begin, progress (once a second), trial, message, end."""

    every = 1.0

    def __init__(self) -> None:
        self.written = -math.inf

    def _write(self, event: str, **data: Any) -> None:
        line = json.dumps(_finite({"event": event, **data}), default=str, allow_nan=False, ensure_ascii=False)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def begin(self, headline: dict[str, Any]) -> None:
        self._write("begin", **headline)

    def update(self, snapshot: Snapshot) -> None:
        if time.monotonic() - self.written >= self.every:
            self.written = time.monotonic()
            self._write("progress", **asdict(snapshot))

    def trial(self, line: TrialLine, best: bool) -> None:
        self._write("trial", **asdict(line), best=best)

    def say(self, line: str) -> None:
        self._write("message", text=line)

    def end(self, result: dict[str, Any]) -> None:
        self._write("end", **result)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null. NumPy's scalars become Python's."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Picture:
    """Any progress, and at the end an SVG of what a terminal showed: the last moment that workers were busy, and the
    summary."""

    def __init__(self, inner: Progress, file: Path):
        if not file.parent.is_dir():
            raise AutotlError(f"The picture {file} can't be written: there is no folder {file.parent}.")
        self.inner, self.file = inner, file
        self.headline: dict[str, Any] = {}
        self.snapshot: Snapshot | None = None

    def begin(self, headline: dict[str, Any]) -> None:
        self.headline = headline
        self.inner.begin(headline)

    def update(self, snapshot: Snapshot) -> None:
        busy = [w for w in snapshot.workers if w.doing.startswith("trial")]
        if busy or self.snapshot is None:
            self.snapshot = snapshot
        self.inner.update(snapshot)

    def trial(self, line: TrialLine, best: bool) -> None:
        self.inner.trial(line, best)

    def say(self, line: str) -> None:
        self.inner.say(line)

    def end(self, result: dict[str, Any]) -> None:
        paper = Console(record=True, width=PICTURE_WIDTH, height=60, file=io.StringIO(), force_terminal=True)
        screen = [Screen(self.snapshot, self.headline["metric"])] if self.snapshot else []
        paper.print(Group(headline_table(self.headline, PICTURE_WIDTH), *screen, summary(result, PICTURE_WIDTH)))
        paper.save_svg(str(self.file), title=f"autotl search {self.headline['study']}")
        self.inner.end(result)
