"""What the end of a search looks like: a rich renderable made of its result. Nothing is printed here."""

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from autotl.config import three_digits
from autotl.escaping import cut_middle, escape
from autotl.ui.rendering import MAX_WIDTH, format_clock, format_counts, format_duration, format_score

__all__ = ["scores_table", "summary"]

MAX_TRIED = 4
"""Rows of each component in the table of what was tried."""
MARKS = {"validation images": "*", "a sample": "°"}
"""Of scores that are not out of fold."""
WIDE = 100
"""Columns from which the leaderboard has the costs of its trials."""

MAX_BACKBONE = 26
"""Characters of a backbone's name in the leaderboard; longer ones are cut in the middle."""


def summary(result: Mapping[str, Any], width: int = 80, rows: int = 8) -> RenderableType:
    """The end of a search: leaderboard, what was tried, test scores beside the majority baseline, what the model costs,
    and the next command to type.

    Args:
        result: what `result.json` holds, with `leaderboard`, `members` and the path `model`.
        rows: of the leaderboard.
    """
    width = min(width, MAX_WIDTH)
    trials, leaderboard = result["trials"], result.get("leaderboard") or []
    counts = format_counts(trials["complete"], trials["pruned"], trials["failed"])
    parts: list[RenderableType] = [
        Text.assemble(
            (escape(result["study"]), "bold"),
            f"  {sum(trials.values())} trials in {format_clock(result['seconds'])}",
            (f" · {counts}", "dim"),
        )
    ]
    if leaderboard:
        parts += ["", _leaderboard(leaderboard[:rows], escape(result["metric"]), wide=width >= WIDE)]
        if any(row.get("scored_on") in MARKS for row in leaderboard[:rows]):
            parts.append(
                Text("* on the validation images alone, ranked by what that is out of fold · ° on a sample", "dim")
            )
        parts += ["", Text("best recipe", "dim"), Text(escape(leaderboard[0]["description"]))]
    if table := result.get("tried"):
        parts += ["", _tried(table)]
    if missed := _never_tried(result.get("never_tried") or {}):
        parts.append(Text.assemble(("never tried: ", "dim"), escape(missed)))
    if alignment := result.get("alignment"):
        parts += ["", *_alignment(alignment)]
    parts += ["", *_scores(result), *_gain(result), "", *_costs(result)]
    members = result.get("members") or []
    if model := result.get("model"):
        of = f"  {len(members)} trials combined" if len(members) > 1 else ""
        if result.get("refitted"):
            of += f"{',' if of else ' '} fitted again with the validation images"
        path = _below_current_folder(Path(model))
        parts.append(Text.assemble(("model    ", "dim"), escape(path), (of, "dim"), overflow="fold"))
        command = f"autotl predict {shlex.quote(str(path))} IMAGES"
        parts.append(Text.assemble(("predict  ", "dim"), (escape(command), "bold cyan"), overflow="fold"))
    if report := result.get("report"):
        parts.append(Text.assemble(("report   ", "dim"), escape(_below_current_folder(Path(report))), overflow="fold"))
    return Padding(Group(*parts), (1, 0, 0, 0))


def _below_current_folder(path: Path) -> Path:
    """A path relative to the current folder, if it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _leaderboard(rows: Sequence[Mapping[str, Any]], metric: str, *, wide: bool) -> Table:
    """The best trials; with their log losses where two scores look the same."""
    values = [format_score(row["value"]) for row in rows]
    has_ties = len(set(values)) < len(values) and metric != "log_loss" and any(row.get("log_loss") for row in rows)
    has_costs = wide and any(row.get("milliseconds") for row in rows)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column(Text(metric if len(metric) <= 8 else "score"), justify="right", no_wrap=True)
    if has_ties:
        table.add_column("log loss", justify="right", no_wrap=True)
    backbones = [cut_middle(escape(row["backbone"]), MAX_BACKBONE) for row in rows]
    table.add_column("backbone", overflow="ellipsis", no_wrap=True)
    for name in ("strategy", "head"):  # these columns shrink on a narrow terminal: their names differ at the beginning
        table.add_column(name, overflow="ellipsis")
    for name in (*(("ms", "MB") if has_costs else ()), "trial", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    marks = [MARKS.get(row.get("scored_on", ""), "") for row in rows]
    blank = " " * any(marks)  # the digits stay below each other
    for row, value, mark, backbone in zip(rows, values, marks, backbones, strict=True):
        costs = [_number(row.get("milliseconds")), _number(row.get("megabytes"))] if has_costs else []
        exceeds = not row.get("within_limits", True)
        table.add_row(
            str(row["rank"]),
            value + (mark or blank),
            *([format_score(row.get("log_loss"))] if has_ties else []),
            Text(backbone),
            *(Text(escape(row[name])) for name in ("strategy", "head")),
            *costs,
            str(row["trial"]),
            format_duration(row["seconds"]),
            style="dim" if exceeds else "bold green" if row["rank"] == 1 else "",
        )
    return table


def _number(value: float | None) -> str:
    """Three digits, a dash for None."""
    return "–" if value is None else three_digits(value)


def _tried(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("tried", style="dim", no_wrap=True)
    table.add_column("", overflow="ellipsis")
    for name in ("trials", "time", "best"):
        table.add_column(name, justify="right", no_wrap=True)
    for component, rows in tables.items():
        if component == "unfrozen_blocks" and len(rows) < 2:
            continue
        label = component.replace("_", " ")
        for row in rows[:MAX_TRIED]:
            cells = str(row["trials"]), format_duration(row["seconds"]), format_score(row["best"])
            table.add_row(label, Text(escape(row["name"])), *cells)
            label = ""
        if others := rows[MAX_TRIED:]:
            num_trials, seconds = sum(row["trials"] for row in others), sum(row["seconds"] for row in others)
            table.add_row("", f"{len(others)} more", str(num_trials), format_duration(seconds), "", style="dim")
    return table


def _never_tried(missed: Mapping[str, Sequence[str]]) -> str:
    plurals = {"backbone": "backbones", "strategy": "strategies", "head": "heads"}
    parts = []
    for component, names in missed.items():
        if names:
            more = f" and {len(names) - MAX_TRIED} more" if len(names) > MAX_TRIED else ""
            noun = plurals.get(component, "") if len(names) > 1 else component if component in plurals else ""
            parts.append(f"{noun} {', '.join(names[:MAX_TRIED])}{more}".strip())
    return " · ".join(parts)


def _alignment(alignment: Mapping[str, Any]) -> list[RenderableType]:
    """What the sample predicted of each backbone, beside what the search has found."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("alignment", overflow="fold")
    for name in ("predicted rank", "expected", "true rank", "best", "trials"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in alignment["backbones"][: 2 * MAX_TRIED]:
        expected = f"{row['predicted']:.3f} ± {row['predicted_error']:.3f}"
        rank = "–" if row["rank"] is None else str(row["rank"])
        cells = str(row["predicted_rank"]), expected, rank, format_score(row["best"]), str(row["trials"])
        table.add_row(Text(escape(row["backbone"])), *cells)
    return [table, Text(f"The images are {alignment['verdict']}: the report says how that was measured.", "dim")]


def _scores(result: Mapping[str, Any]) -> list[RenderableType]:
    test, validation, metric = result.get("test"), result.get("validation") or {}, str(result["metric"])
    intervals: Mapping[str, Any] = result.get("intervals") or {}
    images = result.get("images", {})
    total = images.get("test")
    score = validation.get(metric)
    is_out_of_fold = validation.get("n", 0) > (images.get("validation") or math.inf)
    score = (result.get("best") or {}).get("validation") if score is None else score
    line = Text.assemble(
        ("validation  ", "dim"),
        (format_score(score), "" if test is not None else "bold green"),
        f" {escape(metric)}{_interval_text((intervals.get('validation') or {}).get(metric))}",
        f", on {validation['n']:,} images by fits without them" if is_out_of_fold else "",
    )
    if test is not None:
        asked = {metric: None}  # its row is there even where the test images have no such score
        of = f" of {total:,}" if total and total > test["n"] else ""
        title = f"test ({test['n']:,}{of} images)"
        optimistic = Text.assemble(line, (": optimistic, because it chose the model", "dim"))
        return [scores_table(asked | test, result.get("baseline"), title, intervals.get("test")), optimistic]
    reason = "The test images were not predicted" if total else "There are no test images"
    remedy = f" {result['remedy']}" if result.get("remedy") else ""
    text = f"{reason}: the validation score is optimistic, because it chose the model.{remedy}"
    return [line, Text(escape(text), "bold yellow")]


def _gain(result: Mapping[str, Any]) -> list[RenderableType]:
    """What the second half of the search has brought, from which people guess what more time would bring."""
    gain, metric = result.get("gain"), str(result["metric"])
    if not gain:
        return []
    is_share = metric != "log_loss" and abs(gain["difference"]) <= 1
    factor, digits, unit = (100, 1, "points") if is_share else (1, 3, escape(metric))
    amount = f"{factor * gain['difference']:+.{digits}f} ± {factor * gain['standard_error']:.{digits}f} {unit}"
    text = f"the last {format_duration(gain['seconds'])} brought {amount} out of fold (± standard error)"
    return [Text.assemble(("more time   ", "dim"), text)]


def _interval_text(interval: Mapping[str, float] | None) -> str:
    if not interval:
        return ""
    return f" ({interval['low']:.3f} to {interval['high']:.3f} with 95 %)"


def _costs(result: Mapping[str, Any]) -> list[RenderableType]:
    """What the model costs, and which trials are cheaper."""
    costs = result.get("costs")
    if not costs:
        return []
    parameters = three_digits(costs["parameters"] / 1e6)
    size = f"{_number(costs['megabytes'])} MB · {parameters}M parameters · {costs['passes']} pass"
    size += "es" if costs["passes"] != 1 else ""
    time = f"{_number(costs['milliseconds'])} ms an image, {_number(costs['batch_milliseconds'])} in batches · "
    kept = f" · within {escape(result['limits'])}" if result.get("limits") else ""
    parts: list[RenderableType] = [
        Text.assemble(("costs    ", "dim"), time if costs["milliseconds"] else "", size, kept)
    ]
    if costs["milliseconds"] and result.get("latency"):
        parts.append(Text(f"         measured: {escape(result['latency'])}", "dim"))
    label = "faster   "
    for entry in result.get("frontier") or ():
        loss = _loss_text(entry["loss"], entry["value"], str(result["metric"]))
        text = (
            f"{loss}, {entry['speedup']:.1f} times as fast: trial {entry['trial']}, {_number(entry['milliseconds'])} ms"
        )
        parts.append(Text.assemble((label, "dim"), f"{text}, {_number(entry['megabytes'])} MB"))
        label = " " * len(label)
    if result.get("frontier"):
        limit = three_digits(1.1 * result["frontier"][0]["milliseconds"])
        parts.append(Text(f"{label}The same command with --max-latency {limit}ms takes the first.", "dim"))
    return parts


def _loss_text(loss: float, value: float, metric: str) -> str:
    """`0.3 points less`; of a score that isn't a share, the difference itself."""
    is_share = metric != "log_loss" and 0 <= value <= 1 and abs(loss) <= 1
    amount = f"{100 * abs(loss):.1f} points" if is_share else f"{abs(loss):.3g}"
    if float(amount.split()[0]) == 0:
        return "the same score"
    if is_share:
        return f"{amount} {'less' if loss > 0 else 'more'} on the validation images"
    return f"{amount} {'worse' if loss > 0 else 'better'} on the validation images"


def scores_table(
    scores: Mapping[str, float | None],
    baseline: Mapping[str, float] | None,
    title: str,
    intervals: Mapping[str, Mapping[str, float]] | None = None,
) -> Table:
    """Scores by name, with their 95 % intervals, beside those of always predicting the most frequent class."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column(Text(title))
    table.add_column("model", justify="right", style="bold green")
    if intervals:
        table.add_column("95 % interval", justify="right")
    if baseline:
        table.add_column("majority class", justify="right", style="dim")
    for name, value in scores.items():
        if name == "n":
            continue
        cells = []
        if intervals:
            interval = intervals.get(name)
            cells.append(f"{interval['low']:.3f} to {interval['high']:.3f}" if interval else "–")
        if baseline:
            cells.append(format_score(baseline.get(name)))
        table.add_row(Text(escape(name).replace("_", " ").replace("f1", "F1")), format_score(value), *cells)
    return table
