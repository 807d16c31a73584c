"""Charts as inline SVG: readable at 340 pixels, in light and in dark (templates/charts.css has the colours).

Drawn for a width of 360 units, so that texts keep their size on a phone. Every text is escaped here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autotl.escaping import cut_middle, escape

__all__ = ["Point", "Series", "bars", "curves", "matrix", "scatter", "standalone"]

WIDTH = 360.0
COLOURS = 10
LEFT, RIGHT, TOP, BOTTOM = 54.0, 10.0, 10.0, 36.0
CHARACTER = 6.0
"""Units that a character takes, on average."""


@dataclass(frozen=True)
class Series:
    """A line, or dots, of one colour."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    step: bool = False
    """Whether a value holds until the next one."""
    dots: bool = False


@dataclass(frozen=True)
class Point:
    """A point of a scatter plot."""

    x: float
    y: float
    colour: int
    title: str = ""
    """What a browser shows where the pointer rests on it."""
    picture: str = ""
    """The data URI of an image that appears with the pointer on the point."""
    mistake: bool = False


def _text(value: object) -> str:
    from markupsafe import escape as escape_html

    return str(escape_html(escape(value)))


def _style(colour: int, kind: str = "fill") -> str:
    return f"{kind}:var(--c{colour % COLOURS})"


def _svg(height: float, parts: Sequence[str], width: float = WIDTH) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'aria-hidden="true" focusable="false">{"".join(parts)}</svg>'
    )


def standalone(svg: str) -> str:
    """The same drawing as a file of its own, with its style and a background."""
    from autotl.page.render import source

    head, rest = svg.split(">", 1)
    plate = '<rect width="100%" height="100%" style="fill:var(--back)"/>'
    return f"{head}><style>{source('charts.css')}</style>{plate}{rest}"


def ticks(low: float, high: float, number: int = 4) -> list[float]:
    """Round values in [low, high], about `number` of them.

    >>> ticks(0.0, 1.0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else []
    rough = (high - low) / number
    size = 10.0 ** math.floor(math.log10(rough))
    step = next((m * size for m in (1, 2, 5, 10) if m * size >= rough * 0.8), 10 * size)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between 10^low and 10^high; with twice and five times as much where there are fewer than three."""
    exponents = range(math.floor(low), math.ceil(high) + 1)
    found: list[float] = []
    for steps in ((1, 10), (1, 2, 5, 10), range(1, 11)):
        values = sorted({step * 10.0**exponent for exponent in exponents for step in steps})
        found = [value for value in values if low <= math.log10(value) <= high]
        if len(found) >= 3:
            break
    return found


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _axes(
    x: tuple[float, float], y: tuple[float, float], labels: tuple[str, str], height: float, *, log: bool
) -> list[str]:
    bottom, parts = height - BOTTOM, []
    for value in ticks(*y):
        at = _place(value, y, bottom, TOP)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="faint" x="{LEFT - 5}" y="{at + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    values = _log_ticks(*x) if log else ticks(*x)
    for value in values:
        at = _place(math.log10(value) if log else value, x, LEFT, WIDTH - RIGHT)
        parts.append(
            f'<text class="faint" x="{at:.1f}" y="{bottom + 15:.1f}" text-anchor="middle">{_number(value)}</text>'
        )
    parts.append(f'<path class="grid" d="M{LEFT} {bottom}H{WIDTH - RIGHT}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="faint" x="{middle}" y="{height - 6}" text-anchor="middle">{_text(labels[0])}</text>')
    parts.append(
        f'<text class="faint" transform="translate(11 {(TOP + bottom) / 2:.0f}) rotate(-90)" '
        f'text-anchor="middle">{_text(labels[1])}</text>'
    )
    return parts


def _place(value: float, limits: tuple[float, float], start: float, stop: float) -> float:
    low, high = limits
    return start + (stop - start) * ((value - low) / (high - low) if high > low else 0.5)


def _limits(values: Sequence[float], given: tuple[float, float] | None) -> tuple[float, float]:
    if given:
        return given
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    space = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    return low - space, high + space


def curves(
    series: Sequence[Series],
    labels: tuple[str, str],
    *,
    x: tuple[float, float] | None = None,
    y: tuple[float, float] | None = None,
    diagonal: bool = False,
    log: bool = False,
) -> str:
    """Lines or dots over common axes, with a legend where there are several.

    Args:
        labels: of the horizontal and the vertical axis.
        x, y: the limits of the axes; by default those of the values.
        diagonal: draw the line on which both axes agree.
        log: a logarithmic horizontal axis, for positive values.
    """
    shown = [(s, [math.log10(v) for v in s.x] if log else list(s.x)) for s in series]
    horizontal = _limits([v for _, xs in shown for v in xs], x)
    vertical = _limits([v for s in series for v in s.y], y)
    legend = [s.name for s in series] if len(series) > 1 else []
    rows = math.ceil(len(legend) / 2)
    height = 220.0
    parts = _axes(horizontal, vertical, labels, height, log=log)
    if diagonal:
        low, high = max(horizontal[0], vertical[0]), min(horizontal[1], vertical[1])
        ends = [
            f"{_place(v, horizontal, LEFT, WIDTH - RIGHT):.1f} {_place(v, vertical, height - BOTTOM, TOP):.1f}"
            for v in (low, high)
        ]
        parts.append(f'<path class="diagonal" d="M{ends[0]}L{ends[1]}"/>')
    for number, (line, xs) in enumerate(shown):
        places = [
            (_place(a, horizontal, LEFT, WIDTH - RIGHT), _place(b, vertical, height - BOTTOM, TOP))
            for a, b in zip(xs, line.y, strict=True)
            if math.isfinite(a) and math.isfinite(b)
        ]
        if not places:
            continue
        if line.dots:
            parts += [
                f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" style="{_style(number)};fill-opacity:.75"/>'
                for a, b in places
            ]
            continue
        path = f"M{places[0][0]:.1f} {places[0][1]:.1f}" + "".join(
            (f"H{a:.1f}V{b:.1f}" if line.step else f"L{a:.1f} {b:.1f}") for a, b in places[1:]
        )
        parts.append(f'<path class="curve" d="{path}" style="{_style(number, "stroke")}"/>')
        if len(places) < 25 and not line.step:
            parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.5" style="{_style(number)}"/>' for a, b in places]
    for number, name in enumerate(legend):
        left, top = LEFT + 155 * (number % 2), height + 14 + 15 * (number // 2)
        parts.append(f'<rect x="{left}" y="{top - 8}" width="9" height="9" style="{_style(number)}"/>')
        parts.append(f'<text x="{left + 14}" y="{top}">{_text(cut_middle(name, 22))}</text>')
    return _svg(height + (8 + 15 * rows if rows else 0), parts)


def bars(
    rows: Sequence[tuple[str, float]], form: str = "{:.3f}", *, low: float = 0.0, high: float | None = None
) -> str:
    """Horizontal bars, each below its name, with its value as text."""
    values = [value for _, value in rows if math.isfinite(value)]
    top = max([*values, low + 1e-9]) if high is None else high
    parts, height = [], 4.0
    for name, value in rows:
        share = min(1.0, max(0.0, (value - low) / (top - low))) if math.isfinite(value) else 0.0
        shown = form.format(value) if math.isfinite(value) else "–"
        length = int((WIDTH - 14 - CHARACTER * len(shown)) / CHARACTER)
        parts.append(f'<text x="2" y="{height + 11}">{_text(cut_middle(name, length))}</text>')
        parts.append(f'<text x="{WIDTH - 2}" y="{height + 11}" text-anchor="end">{_text(shown)}</text>')
        parts.append(f'<rect x="2" y="{height + 16}" width="{WIDTH - 4}" height="7" style="fill:var(--line)"/>')
        parts.append(
            f'<rect x="2" y="{height + 16}" width="{share * (WIDTH - 4):.1f}" height="7" style="{_style(0)}"/>'
        )
        height += 30
    return _svg(height, parts)


def matrix(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    form: str = "{:.0f}",
    *,
    labels: tuple[str, str] = ("", ""),
    shades: Sequence[Sequence[float]] | None = None,
    diagonal: bool = False,
) -> str:
    """Coloured cells. Up to 14 rows and columns have names and values; more are drawn without, and without empty cells.

    Args:
        values: None for an empty cell.
        labels: what the columns and the rows are.
        shades: how strongly each cell is coloured, in [0, 1]; by default its value relative to the largest.
        diagonal: colour the cells on the diagonal otherwise: they are what should be large.
    """
    flat = [v for row in values for v in row if v is not None and math.isfinite(v)]
    low, high = min(flat, default=0.0), max(flat, default=1.0)
    named = max(len(rows), len(columns)) <= 14
    longest = max((len(name) for name in rows), default=0)
    left = min(110.0, 16 + 6.2 * min(longest, 16)) if named else 20.0
    longest = max((len(name) for name in columns), default=0)
    right = 4 + (4 * min(longest, 12) if named else 0)
    side = (WIDTH - left - right) / max(1, len(columns))
    tall = min(side, 34.0) if named else side
    head = (14 + 5.2 * min(longest, 12)) if named else 4.0
    head += 14 if labels[0] else 0
    parts = [
        f'<rect class="plate" x="{left}" y="{head}" width="{side * len(columns):.1f}" height="{tall * len(rows):.1f}"/>'
    ]
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            if value is None or not math.isfinite(value) or (not value and not named):
                continue
            share = shades[i][j] if shades else ((value - low) / (high - low) if high > low else 1.0)
            if not named:
                share = 0.25 + 0.75 * share
            x, y = left + j * side, head + i * tall
            colour = "var(--good)" if diagonal and i == j else "var(--bad)" if diagonal else "var(--c0)"
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{side:.2f}" height="{tall:.2f}" '
                f'style="fill:{colour};fill-opacity:{0.85 * share if named else share:.2f}">'
                f"<title>{_text(f'{rows[i]} → {columns[j]}: {form.format(value)}')}</title></rect>"
            )
            if named and (value or not diagonal):
                small = ' class="small"' if side < 27 else ""
                parts.append(
                    f'<text{small} x="{x + side / 2:.1f}" y="{y + tall / 2 + 4:.1f}" text-anchor="middle">'
                    f"{_text(form.format(value))}</text>"
                )
    if named:
        for i, name in enumerate(rows):
            y = head + i * tall + tall / 2 + 4
            parts.append(f'<text x="{left - 5}" y="{y:.1f}" text-anchor="end">{_text(cut_middle(name, 16))}</text>')
        for j, name in enumerate(columns):
            at = left + j * side + side / 2
            parts.append(
                f'<text transform="translate({at + 3:.1f} {head - 5}) rotate(-50)">{_text(cut_middle(name, 12))}</text>'
            )
    if labels[0]:
        parts.append(f'<text class="faint" x="{WIDTH - 4}" y="11" text-anchor="end">{_text(labels[0])}</text>')
    if labels[1]:
        middle = head + tall * len(rows) / 2
        place = 'x="2" y="11"' if named else f'transform="translate(10 {middle:.0f}) rotate(-90)" text-anchor="middle"'
        parts.append(f'<text class="faint" {place}>{_text(labels[1])}</text>')
    return _svg(head + tall * len(rows) + 6, parts)


def scatter(points: Sequence[Point], legend: Mapping[int, str], *, aspect: float = 1.0) -> str:
    """A map of points without axes. A ring marks a mistake. The image of a point appears with the pointer on it."""
    width, inner = 560.0, 548.0
    height = inner * aspect
    xs, ys = _limits([p.x for p in points], None), _limits([p.y for p in points], None)
    parts = [f'<rect class="plate" x="1" y="1" width="{width - 2}" height="{height + 10}" rx="4"/>']
    for point in points:
        x, y = _place(point.x, xs, 8, inner), _place(point.y, ys, height, 8)
        ring = f'<circle class="mistake" cx="{x:.1f}" cy="{y:.1f}" r="6"/>' if point.mistake else ""
        hover = ""
        if point.picture:
            left, top = min(max(4, x - 40), width - 84), y + 10 if y < height - 100 else y - 90
            place = f'x="{left:.0f}" y="{top:.0f}" width="80" height="80"'
            hover = f'<image class="hover" href="{_text(point.picture)}" {place}/>'
        parts.append(
            f'<g class="point"><title>{_text(point.title)}</title>{ring}'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" style="{_style(point.colour)};fill-opacity:.8"/>{hover}</g>'
        )
    bottom = height + 30
    for number, (colour, name) in enumerate(legend.items()):
        left, top = 8 + 184 * (number % 3), bottom + 20 * (number // 3)
        parts.append(f'<circle cx="{left + 5}" cy="{top - 5}" r="5" style="{_style(colour)}"/>')
        parts.append(f'<text style="font-size:16px" x="{left + 16}" y="{top}">{_text(cut_middle(name, 19))}</text>')
    rows = math.ceil(len(legend) / 3)
    return _svg(bottom + 20 * rows, parts, width)
