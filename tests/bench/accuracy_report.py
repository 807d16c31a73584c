"""The tables and the plot of `accuracy.py`, from its rows."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from rich.table import Table

__all__ = ["plot", "tables"]

Row = Mapping[str, Any]
Measure = Callable[[Row], float | None]
NEAR = 0.99
"""Share of the final score that counts as reached."""


def _optimism(row: Row) -> float:
    return float(row["chosen"] - row["accuracy"])


def _first_model(row: Row) -> float | None:
    return row["curve"][0][0] if row["curve"] else None


def _near_end(row: Row) -> float | None:
    return next((t for t, score in row["curve"] if score >= NEAR * row["curve"][-1][1]), None)


MEASURES: Mapping[str, tuple[Measure, float]] = {
    "accuracy, points": (lambda row: row["accuracy"], 100),
    "balanced accuracy, points": (lambda row: row["balanced_accuracy"], 100),
    "log loss": (lambda row: row["log_loss"], 1),
    "chosen score - test, points": (_optimism, 100),
    "first model, s": (_first_model, 1),
    f"{NEAR:.0%} of the final score, s": (_near_end, 1),
    "duration, s": (lambda row: row["seconds"], 1),
}
"""What is compared, and the factor for display."""


def _paired(rows: Sequence[Row], here: str, before: str, measure: Measure) -> list[tuple[str, float, float]]:
    """Set, and the measure here and before, of the splits that both have searched."""
    by_key = {(row["set"], row["seed"], row["revision"]): row for row in rows if "error" not in row}
    pairs = []
    for (name, seed, revision), row in sorted(by_key.items()):
        other = by_key.get((name, seed, before))
        if revision == here and other is not None:
            values = measure(row), measure(other)
            if values[0] is not None and values[1] is not None:
                pairs.append((name, float(values[0]), float(values[1])))
    return pairs


def _with_error(values: Sequence[float], digits: int = 2, *, signed: bool = False) -> str:
    """The mean with its standard error; of a single value there is none."""
    if not len(values):
        return "–"
    sign = "+" if signed else ""
    mean = f"{np.mean(values):{sign}.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1) / math.sqrt(len(values)):.{digits}f}"


def tables(rows: Sequence[Row], here: str, before: str | None) -> Iterator[Table]:
    """Over all sets: each measure here and before, and the paired difference with its standard error, whose splits of
    one set aren't independent. Then accuracy, log loss and optimism by set."""
    sound = [row for row in rows if "error" not in row and row["revision"] == here]
    overall = Table("mean over all searches", here, *((before, "difference", "better in") if before else ()))
    for name, (measure, factor) in MEASURES.items():
        digits = 3 if name == "log loss" else 2
        own = [factor * value for row in sound if (value := measure(row)) is not None]
        cells = [_with_error(own, digits)]
        if before:
            pairs = [(factor * a, factor * b) for _, a, b in _paired(rows, here, before, measure)]
            differences = [a - b for a, b in pairs]
            better = sum(d > 0 if "accuracy" in name else d < 0 for d in differences)
            cells += [
                _with_error([b for _, b in pairs], digits),
                _with_error(differences, digits, signed=True),
                f"{better} of {len(pairs)}",
            ]
        overall.add_row(name, *cells)
    yield overall
    by_set = Table(
        "set", "splits", "accuracy", "log loss", "chosen - test", *(("accuracy", "log loss") if before else ())
    )
    for name in dict.fromkeys(row["set"] for row in sound):
        own = [row for row in sound if row["set"] == name]
        cells = [
            _with_error([100 * row["accuracy"] for row in own]),
            _with_error([row["log_loss"] for row in own], 3),
            _with_error([100 * _optimism(row) for row in own], signed=True),
        ]
        if before:
            for measure, factor, digits in ((MEASURES["accuracy, points"][0], 100, 2), (MEASURES["log loss"][0], 1, 3)):
                of_set = [(a, b) for found, a, b in _paired(rows, here, before, measure) if found == name]
                cells.append(_with_error([factor * (a - b) for a, b in of_set], digits, signed=True))
        by_set.add_row(name, str(len(own)), *cells)
    if before:
        by_set.caption = f"the last two columns: paired differences to {before}"
    yield by_set
    for row in rows:
        if "error" in row:
            failed = Table("a search that failed", show_header=True)
            failed.add_row(f"{row['set']} split {row['seed']}, {row['revision']}: {row['error']}")
            yield failed


WIDTH, HEIGHT, MARGIN, COLUMNS = 240, 150, 34, 4


def plot(rows: Sequence[Row], here: str, before: str | None) -> str:
    """An SVG: for each set the best score of a complete trial over time, a line for each search."""
    sound = [row for row in rows if "error" not in row and row["curve"]]
    names = list(dict.fromkeys(row["set"] for row in sound))
    across = min(COLUMNS, max(1, len(names)))
    down = max(1, math.ceil(len(names) / across))
    parts = []
    for number, name in enumerate(names):
        x, y = (number % across) * WIDTH, 20 + (number // across) * HEIGHT
        parts.append(_panel(name, [row for row in sound if row["set"] == name], here, x, y))
    legend = f"{here}: blue" + (f" · {before}: orange" if before else "")
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {across * WIDTH} {20 + down * HEIGHT}" '
        'font-family="sans-serif" font-size="9">'
    )
    title = f'<text x="4" y="12">Best score of a complete trial over seconds. {escape(legend)}</text>'
    return f'{head}<rect width="100%" height="100%" fill="white"/>{title}{"".join(parts)}</svg>\n'


def _panel(name: str, rows: Sequence[Row], here: str, x: float, y: float) -> str:
    end = max(row["seconds"] for row in rows)
    scores = [score for row in rows for _, score in row["curve"]]
    low, high = min(scores), max(scores)
    span = max(high - low, 1e-3)

    def place(t: float, score: float) -> str:
        across = x + MARGIN + t / end * (WIDTH - MARGIN - 8)
        return f"{across:.1f},{y + HEIGHT - MARGIN / 2 - (score - low) / span * (HEIGHT - MARGIN):.1f}"

    parts = [
        f'<text x="{x + MARGIN}" y="{y + 9}">{escape(name)}</text>',
        f'<text x="{x + 2}" y="{y + HEIGHT - MARGIN / 2}">{low:.3f}</text>',
        f'<text x="{x + 2}" y="{y + MARGIN / 2 + 3}">{high:.3f}</text>',
        f'<text x="{x + WIDTH - 8}" y="{y + HEIGHT - 5}" text-anchor="end">{end:.0f} s</text>',
    ]
    for row in rows:
        points = [place(*row["curve"][0])]
        for (_, before), (t, score) in zip(row["curve"], row["curve"][1:], strict=False):
            points += [place(t, before), place(t, score)]
        points.append(place(end, row["curve"][-1][1]))
        colour = "#1f77b4" if row["revision"] == here else "#ff7f0e"
        parts.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="1.2"/>')
    return "".join(parts)
