"""What a search looks like: rich renderables made of a headline, a snapshot, a result. Nothing is printed here."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autotl.ui.progress import Snapshot, TrialLine, WorkerLine

__all__ = ["Screen", "clock", "counts", "headline_rows", "headline_table", "scores_table", "shorten", "summary", "took"]

WIDEST = 120
"""Columns: longer lines are hard to read, however wide the terminal."""

PARAMETERS = re.compile(r" \([^()]*\)")


def clock(seconds: float) -> str:
    """`0:07`, `12:30`, `1:02:03`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def took(seconds: float) -> str:
    """`0.4 s`, `12 s`, then as a clock."""
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s" if seconds < 59.5 else clock(seconds)


def score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def counts(snapshot: Snapshot) -> str:
    return _counts(snapshot.complete, snapshot.pruned, snapshot.failed)


def _counts(complete: int, pruned: int, failed: int) -> str:
    """What didn't happen isn't mentioned."""
    return " · ".join(
        [f"{complete} finished", *([f"{pruned} pruned"] if pruned else []), *([f"{failed} failed"] if failed else [])]
    )


def shorten(words: str, width: int) -> str:
    """`words` in `width` columns: first the parameters in parentheses go, then the middle; the last part stays."""
    if cell_len(words) <= width:
        return words
    words = PARAMETERS.sub("", words)
    start, dot, last = words.rpartition(" · ")
    if cell_len(words) > width and dot and cell_len(last) + 8 < width:
        return _cut(start, width - cell_len(last) - 3) + dot + last
    return _cut(words, width)


def _cut(text: str, width: int) -> str:
    cut = Text(text)
    cut.truncate(max(1, width), overflow="ellipsis")
    return cut.plain


def headline_rows(headline: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is searched, where, for what: a label and its text."""
    images, classes = headline["images"], headline["classes"]
    subsets = {subset: images.get(subset) or 0 for subset in ("train", "validation", "test")}
    rows = [
        (f"{sum(subsets.values()):,} images", " · ".join(f"{n:,} {subset}" for subset, n in subsets.items() if n)),
        (f"{len(classes)} classes", _listed(classes)),
        (_counted(headline["backbones"], "backbone"), _listed(headline["backbones"])),
        (_counted(headline["devices"], "worker"), _listed(headline["devices"])),
    ]
    if images.get("skipped"):
        rows.append((f"{images['skipped']:,} left out", "files that can't be decoded"))
    return [*rows, *(("warning", str(warning)) for warning in headline.get("warnings", ()))]


def _counted(names: Sequence[Any], word: str) -> str:
    return f"{len(names)} {word}" + ("s" if len(names) != 1 else "")


def _listed(names: Sequence[Any], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(str(name) for name in names[:most]) + more


def headline_table(headline: Mapping[str, Any], width: int = 80) -> RenderableType:
    """The rows below the study's name; warnings stand out."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.width = min(width, WIDEST)
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(ratio=1)
    for label, text in headline_rows(headline):
        grid.add_row(label, text, style="yellow" if label == "warning" or label.endswith("left out") else "")
    title = Text.assemble(
        ("autotl", "bold cyan"), " searches ", (str(headline["study"]), "bold"), f" for the best {headline['metric']}"
    )
    return Group(title, grid)


class Screen:
    """The live region: time and trials left, the best so far, each worker, the last trials. Its height hardly
    changes from snapshot to snapshot, so that nothing jumps."""

    def __init__(self, snapshot: Snapshot, metric: str, trials: int = 6, workers: int = 8):
        self.snapshot, self.metric, self.trials, self.workers = snapshot, metric, trials, workers

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(options.max_width, WIDEST)
        rows = console.height - 12 - min(len(self.snapshot.workers), self.workers)
        parts = [self._bars(width), "", *self._best(console, width), "", *self._workers(width)]
        if self.snapshot.recent:
            parts += ["", self._recent(width, max(1, min(self.trials, rows)))]
        yield Padding(Group(*parts), (1, 0, 0, 0))

    def _bars(self, width: int) -> RenderableType:
        now = self.snapshot
        grid = Table.grid(padding=(0, 2, 0, 0), expand=False)
        grid.width = width
        grid.add_column(style="dim", width=6)
        grid.add_column(ratio=1)
        grid.add_column(justify="right", no_wrap=True)
        done = now.complete + now.pruned + now.failed
        if now.seconds_left is None:
            grid.add_row("time", "", clock(now.seconds))
        else:
            total = now.seconds + now.seconds_left
            grid.add_row("time", _bar(now.seconds, total), f"{clock(now.seconds_left)} left of {clock(total)}")
        if now.trials_left is None:
            grid.add_row("trials", counts(now), self._speed())
        else:
            total = done + now.trials_left
            grid.add_row("trials", _bar(done, total), f"{now.trials_left} left of {total}")
            grid.add_row("", counts(now), self._speed())
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
            (score(best.value), "bold green"),
            (f" {self.metric} · trial {best.number} · took {took(best.seconds)}", "dim"),
        )
        words = Text(best.description)
        if len(words.wrap(console, width - 8)) > 2:
            words = Text(shorten(best.description, width - 8))
        return [value, Padding(words, (0, 0, 0, 8))]

    def _workers(self, width: int) -> Iterable[RenderableType]:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.width = width
        shown = self.snapshot.workers[: self.workers]
        longest = max([6, *(cell_len(worker.name) for worker in shown)])
        longest = min(longest, width // 4)
        grid.add_column(style="cyan", width=longest, no_wrap=True, overflow="ellipsis")
        grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        grid.add_column(style="dim", justify="right", width=7, no_wrap=True)
        for worker in shown:
            grid.add_row(worker.name, _doing(worker, width - longest - 13), clock(worker.seconds))
        yield grid
        if hidden := len(self.snapshot.workers) - len(shown):
            yield Text(f"and {hidden} more workers", "dim")

    def _recent(self, width: int, rows: int) -> RenderableType:
        recent = sorted(self.snapshot.recent, key=lambda line: -line.number)[:rows]
        grid = _trial_grid(width, max(cell_len(line.description.split(" · ")[0]) for line in recent))
        best = self.snapshot.best
        for line in recent:
            style = "green" if best and line.number == best.number else STYLES.get(line.state, "")
            value = score(line.value) if line.state == "complete" else line.state
            number = Text(f"#{line.number}", "dim")
            parts = _columns(line, width)
            grid.add_row(number, Text(value, style), *(Text(p, style) for p in parts), Text(took(line.seconds), "dim"))
        return grid


STYLES = {"complete": "", "pruned": "dim", "failed": "red"}


def _bar(done: float, total: float) -> ProgressBar:
    return ProgressBar(total=max(total, 1e-9), completed=min(done, total), complete_style="cyan", finished_style="cyan")


def _doing(worker: WorkerLine, width: int) -> Text:
    return Text(shorten(worker.doing, width), "" if worker.doing.startswith("trial") else "dim")


def _trial_grid(width: int, backbone: int) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.width = width
    grid.add_column(width=5, no_wrap=True)
    grid.add_column(width=7, no_wrap=True)
    grid.add_column(width=min(backbone, width // 4), no_wrap=True, overflow="ellipsis")
    for _ in ("strategy", "head"):
        grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    grid.add_column(width=6, justify="right", no_wrap=True)
    return grid


def _columns(line: TrialLine, width: int) -> list[str]:
    """Backbone, strategy and head, aligned; a failed trial's cause instead of its parameters."""
    words = line.description if width >= 110 else PARAMETERS.sub("", line.description)
    parts = words.split(" · ", 2)
    parts += [""] * (3 - len(parts))
    if line.state == "failed" and line.note:
        parts = [PARAMETERS.sub("", part) for part in parts[:2]] + [line.note.splitlines()[0]]
    return parts


def summary(result: Mapping[str, Any], width: int = 80, rows: int = 8) -> RenderableType:
    """The end of a search: leaderboard, test scores beside the majority baseline, and what to type next."""
    width = min(width, WIDEST)
    trials, best = result["trials"], result.get("best")
    parts: list[RenderableType] = [
        Text.assemble(
            (str(result["study"]), "bold"),
            f"  {sum(trials.values())} trials in {clock(result['seconds'])}",
            (f" · {_counts(trials['complete'], trials['pruned'], trials['failed'])}", "dim"),
        )
    ]
    if result.get("leaderboard"):
        parts += ["", _leaderboard(result, rows)]
    if best and best.get("description", _first(result, "description")):
        parts += ["", Text("best recipe", "dim"), Text(best.get("description") or _first(result, "description"))]
    parts += ["", *_scores(result), ""]
    members = result.get("members") or []
    if model := result.get("model"):
        of = f"  {len(members)} trials combined" if len(members) > 1 else ""
        if result.get("refitted"):
            of += f"{',' if of else ' '} fitted again with the validation images"
        parts.append(Text.assemble(("model    ", "dim"), str(model), (of, "dim"), overflow="fold"))
        predict = result.get("predict") or f"autotl predict {shlex.quote(str(model))} IMAGES"
        parts.append(Text.assemble(("predict  ", "dim"), (str(predict), "bold cyan"), overflow="fold"))
    return Padding(Group(*parts), (1, 0, 0, 0))


def _first(result: Mapping[str, Any], key: str) -> Any:
    board = result.get("leaderboard") or [{}]
    return board[0].get(key)


def _leaderboard(result: Mapping[str, Any], rows: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("", justify="right", no_wrap=True)
    metric = str(result["metric"])
    table.add_column(metric if len(metric) <= 8 else "score", justify="right", no_wrap=True)
    for name in ("backbone", "strategy", "head"):  # what gives way on a narrow terminal
        table.add_column(name, overflow="ellipsis")
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    for row in result["leaderboard"][:rows]:
        table.add_row(
            str(row["rank"]),
            score(row["value"]),
            row["backbone"],
            row["strategy"],
            row["head"],
            str(row["trial"]),
            took(row["seconds"]),
            style="bold green" if row["rank"] == 1 else "",
        )
    return table


def _scores(result: Mapping[str, Any]) -> list[RenderableType]:
    test, best = result.get("test"), result.get("best") or {}
    if test is None:
        left = result.get("images", {}).get("test")
        none = "The test images weren't looked at" if left else "There are no test images"
        return [
            Text.assemble(
                ("validation  ", "dim"), (score(best.get("validation")), "bold green"), f" {result['metric']}"
            ),
            Text(f"{none}: the validation score is optimistic, because it chose the model.", "yellow"),
        ]
    return [scores_table(test, result.get("baseline"), f"test ({test['n']:,} images)")]


def scores_table(scores: Mapping[str, float], baseline: Mapping[str, float] | None, title: str) -> Table:
    """Scores by name, beside those of always answering the most frequent class."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column(title)
    table.add_column("model", justify="right", style="bold green")
    if baseline:
        table.add_column("majority class", justify="right", style="dim")
    for name, value in scores.items():
        if name != "n":
            beside = [score(baseline.get(name))] if baseline else []
            table.add_row(name.replace("_", " ").replace("f1", "F1"), score(value), *beside)
    return table
