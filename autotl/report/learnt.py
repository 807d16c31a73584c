"""Where the time of a search went, and what its trials taught."""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from autotl.metrics import Z
from autotl.page.base import Element, Figure, Fold, Table, Text
from autotl.page.charts import Series, bars, curves, matrix
from autotl.report.intervals import bootstrap_interval
from autotl.report.record import SearchRecord
from autotl.study.study import TrialAttribute

__all__ = [
    "best_so_far",
    "blocks_figure",
    "frontier_figure",
    "importance_section",
    "learnt_section",
    "progress_figure",
    "time_section",
]

MIN_TRIALS_FOR_IMPORTANCE = 12
MAX_IMPORTANCE_TRIALS = 1500
MANY = 12
"""Rows of a table that is shown unfolded."""
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def _seconds(trial: FrozenTrial) -> float:
    elapsed = trial.duration.total_seconds() if trial.duration else 0.0
    return float(trial.user_attrs.get(TrialAttribute.SECONDS, elapsed))


def _recipe(trial: FrozenTrial, key: str) -> str:
    return str(trial.user_attrs.get(TrialAttribute.RECIPE, {}).get(key, "")) or "no recipe"


def best_so_far(search: SearchRecord) -> tuple[list[float], list[float]]:
    """Seconds since the first trial began, and the best validation score by then."""
    ended = [t for t in search.complete if t.datetime_complete and t.value is not None]
    ended.sort(key=lambda t: t.datetime_complete)  # type: ignore[arg-type, return-value]
    begun = [t.datetime_start for t in search.trials if t.datetime_start]
    seconds: list[float] = []
    scores: list[float] = []
    for trial in ended:
        better = max if search.metric.greater_is_better else min
        scores.append(better([trial.value or 0.0, *scores[-1:]]))
        seconds.append((trial.datetime_complete - min(begun)).total_seconds())  # type: ignore[operator]
    return seconds, scores


def progress_figure(search: SearchRecord) -> Figure | None:
    """The best score over time, with each trial as a dot."""
    seconds, scores = best_so_far(search)
    if len(scores) < 2:
        return None
    unit, name = _unit(seconds[-1])
    times = [value / unit for value in seconds]
    begun = min(t.datetime_start for t in search.trials if t.datetime_start)
    ended = [t for t in search.complete if t.datetime_complete and t.value is not None]
    dots = Series(
        "trials",
        [(t.datetime_complete - begun).total_seconds() / unit for t in ended],  # type: ignore[operator]
        [t.value or 0.0 for t in ended],
        dots=True,
    )
    low, high = np.quantile(dots.y, [0.1, 0.9])
    space = 0.2 * (max(*dots.y, high) - min(low, scores[0])) or 0.02
    limits = (
        (float(min(low, scores[0])) - space / 2, max(dots.y) + space / 2)
        if search.metric.greater_is_better
        else (min(dots.y) - space / 2, float(max(high, scores[0])) + space / 2)
    )
    inside = [(a, b) for a, b in zip(dots.x, dots.y, strict=True) if limits[0] <= b <= limits[1]]
    shown = Series("trials", [a for a, _ in inside], [b for _, b in inside], dots=True)
    svg = curves(
        [Series("best so far", times, scores, step=True), shown],
        (name, f"validation {search.metric.name}"),
        y=limits,
    )
    return Figure(
        svg,
        f"The best validation {search.metric.name} over time: {scores[0]:.3f} after {times[0]:.1f} {name}, "
        f"{scores[-1]:.3f} after {times[-1]:.1f} {name}, from {len(scores)} complete trials.",
        "Best score so far, and each complete trial.",
    )


def _unit(seconds: float) -> tuple[float, str]:
    """The unit that a duration reads best in: its seconds, and its name."""
    return (1.0, "seconds") if seconds < 180 else (60.0, "minutes") if seconds < 7200 else (3600.0, "hours")


def time_section(search: SearchRecord) -> Sequence[Element]:
    """Where the time went, and what more would bring."""
    elements: list[Element] = []
    if text := _what_more_brings(search):
        elements.append(Text(text))
    if figure := progress_figure(search):
        elements.append(figure)
    ended = [t for t in search.trials if t.state in STATES]
    if not ended:
        return []
    spent: dict[str, float] = defaultdict(float)
    for trial in ended:
        extraction = float(trial.user_attrs.get(TrialAttribute.EXTRACTION_SECONDS, 0.0))
        spent[_recipe(trial, "strategy")] += max(0.0, _seconds(trial) - extraction)
        spent["extracting features"] += extraction
    total = sum(spent.values()) or 1.0
    shares = sorted(spent.items(), key=lambda item: -item[1])
    elements.append(
        Figure(
            bars([(name, seconds) for name, seconds in shares if seconds > 0.005 * total], "{:,.0f} s"),
            "Seconds of all workers: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in shares),
            "Seconds of all workers together, by strategy; features are extracted once for all trials.",
        )
    )
    counts = {name: sum(t.state == state for t in ended) for state, name in STATES.items()}
    whole = (search.result or {}).get("seconds")
    took = f" The search took {whole:,.0f} s in all." if whole else ""
    elements.append(Text(f"{', '.join(f'{n:,} {name}' for name, n in counts.items())} trials.{took}", "note"))
    causes: dict[str, int] = defaultdict(int)
    for trial in ended:
        if trial.state == TrialState.FAIL:
            causes[str(trial.user_attrs.get(TrialAttribute.CAUSE, "unknown"))[:200]] += 1
    if causes:
        rows = sorted(((cause, n) for cause, n in causes.items()), key=lambda row: -row[1])
        elements.append(Fold(f"Why {sum(causes.values())} trials failed", (Table(("cause", "trials"), rows[:20]),)))
    return elements


def _what_more_brings(search: SearchRecord) -> str:
    """What the last half of the time has improved, as a hint of what as much time again may bring."""
    seconds, scores = best_so_far(search)
    if len(scores) < 4:
        return ""
    middle = [score for second, score in zip(seconds, scores, strict=True) if second <= seconds[-1] / 2]
    first = next(second for second, score in zip(seconds, scores, strict=True) if score == scores[-1])
    unit, units = _unit(seconds[-1])
    gained = abs(scores[-1] - (middle[-1] if middle else scores[0]))
    name, error, validated = search.metric.name, 0.0, search.validated
    if validated is not None and search.dataset is not None:
        interval = bootstrap_interval(search.metric, search.labels(validated), validated.probabilities)
        error = (interval[1] - interval[0]) / (2 * Z) if interval else 0.0
    text = (
        f"The best trial ended after {first / unit:.1f} of {seconds[-1] / unit:.1f} {units} of trials. The last half "
        f"of that time improved the best validation {name} by {gained:.3f}"
    )
    if error and gained < error:
        return (
            f"{text}, less than its standard error of {error:.3f}: more time alone is unlikely to bring much. More or "
            "cleaner images, or another backbone, are the better bet."
        )
    return f"{text}: as much time again is likely to bring some more, though less."


def learnt_section(search: SearchRecord) -> Sequence[Element]:
    """What was learnt."""
    if not search.complete:
        return []
    groups: tuple[tuple[str, Callable[[FrozenTrial], Hashable]], ...] = (
        ("strategy", lambda t: _recipe(t, "strategy")),
        ("backbone", lambda t: _recipe(t, "backbone")),
        ("unfrozen blocks", _unfrozen),
        ("head", lambda t: _recipe(t, "head")),
        ("feature levels", lambda t: _parameter(t, "levels")),
        ("augmentation", lambda t: _parameter(t, "augmentation")),
    )
    elements: list[Element] = []
    for name, key in groups:
        table = _grouped(search, name, key)
        if table is not None:
            many = len(table.rows) > MANY
            elements.append(Fold(f"{name}: {len(table.rows)} of them", (table,)) if many else table)
    for figure in (blocks_figure(search), frontier_figure(search)):
        if figure:
            elements.append(figure)
    rows = [
        (t.number, t.value, round(_seconds(t), 1), str(t.user_attrs.get(TrialAttribute.DESCRIPTION, "")))
        for t in sorted(
            search.complete, key=lambda t: (t.value or 0.0) * (-1 if search.metric.greater_is_better else 1)
        )
    ]
    table = Table(("trial", search.metric.name, "seconds", "recipe"), rows[:50], digits={2: 1})
    elements.append(Fold(f"The {min(50, len(rows))} best trials", (table,)))
    return elements


def _parameter(trial: FrozenTrial, name: str) -> Hashable:
    value = trial.user_attrs[TrialAttribute.RECIPE].get("strategy_params", {}).get(name)
    return None if value is None else str(value)


def _unfrozen(trial: FrozenTrial) -> int | str:
    """0 for a frozen network; "first 2" where the first blocks were unfrozen instead of the last ones."""
    params = trial.user_attrs[TrialAttribute.RECIPE].get("strategy_params", {})
    number = int(params.get("unfrozen_blocks") or 0)
    return f"first {number}" if number and params.get("unfreeze") == "first" else number


def _grouped(search: SearchRecord, name: str, key: Callable[[FrozenTrial], Hashable]) -> Table | None:
    """Number, best and median score, and median time of the trials of each value; None where there is one value."""
    found: dict[Hashable, list[FrozenTrial]] = defaultdict(list)
    for trial in search.complete:
        if (value := key(trial)) is not None:
            found[value].append(trial)
    if len(found) < 2:
        return None
    best = max if search.metric.greater_is_better else min
    rows: list[tuple[str | int | float | None, ...]] = []
    for value, trials in found.items():
        scores = [t.value or 0.0 for t in trials]
        seconds = [_seconds(t) for t in trials]
        shown = value if isinstance(value, int) else str(value)
        rows.append((shown, best(scores), float(np.median(scores)), len(trials), round(float(np.median(seconds)), 1)))
    rows.sort(key=lambda row: float(row[1] or 0.0), reverse=search.metric.greater_is_better)
    return Table((name, "best", "median", "trials", "median seconds"), rows, digits={4: 1})


def blocks_figure(search: SearchRecord) -> Figure | None:
    """The best score of each backbone for each number of unfrozen blocks."""
    best = max if search.metric.greater_is_better else min
    cells: dict[tuple[str, int | str], list[float]] = defaultdict(list)
    for trial in search.complete:
        cells[_recipe(trial, "backbone"), _unfrozen(trial)].append(trial.value or 0.0)
    names = sorted({name for name, _ in cells})
    counts = sorted({count for _, count in cells}, key=lambda count: (isinstance(count, str), count))
    if len(counts) < 2:
        return None
    values = [[best(cells[name, count]) if (name, count) in cells else None for count in counts] for name in names]
    svg = matrix(names, [str(c) for c in counts], values, "{:.3f}", labels=("unfrozen blocks →", ""))
    summary = "; ".join(
        f"{name} with {count}: {best(scores):.3f}" for (name, count), scores in sorted(cells.items(), key=str)
    )
    return Figure(
        svg,
        f"Best validation score by backbone and number of unfrozen blocks: {summary[:800]}",
        "Best validation score by backbone (rows) and number of unfrozen blocks (columns); 0 is a frozen network.",
    )


def frontier_figure(search: SearchRecord) -> Figure | None:
    """Score against time of each complete trial, a colour for each strategy."""
    series = []
    for strategy in sorted({_recipe(t, "strategy") for t in search.complete}):
        trials = [t for t in search.complete if _recipe(t, "strategy") == strategy]
        times = [max(0.01, _seconds(t)) for t in trials]
        series.append(Series(strategy, times, [t.value or 0.0 for t in trials], dots=True))
    if sum(len(s.x) for s in series) < 3:
        return None
    values = [v for s in series for v in s.y]
    low, high = float(np.quantile(values, 0.05)), float(np.quantile(values, 0.95))
    space = 0.15 * (high - low) or 0.02
    limits = (
        (low - space, max(values) + space / 2)
        if search.metric.greater_is_better
        else (min(values) - space / 2, high + space)
    )
    shown = [
        Series(
            s.name,
            [a for a, b in zip(s.x, s.y, strict=True) if limits[0] <= b <= limits[1]],
            [b for b in s.y if limits[0] <= b <= limits[1]],
            dots=True,
        )
        for s in series
    ]
    best = max if search.metric.greater_is_better else min
    summary = "; ".join(f"{s.name}: best {best(s.y):.3f}" for s in series)
    return Figure(
        curves(shown, ("seconds of a trial, logarithmic", f"validation {search.metric.name}"), y=limits, log=True),
        f"Score against seconds of each trial, by strategy. {summary}.",
        "What a trial cost and what it was worth, by strategy.",
    )


def importance_section(search: SearchRecord) -> Sequence[Element]:
    """Which choices mattered."""
    if not MIN_TRIALS_FOR_IMPORTANCE <= len(search.complete) <= MAX_IMPORTANCE_TRIALS:
        return []
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    shared = set.intersection(*(set(t.params) for t in search.complete))
    varying = sorted(name for name in shared if len({t.params[name] for t in search.complete}) > 1)
    if not varying:
        return []
    try:
        found = get_param_importances(search.study, evaluator=PedAnovaImportanceEvaluator(), params=varying)
    except (ValueError, RuntimeError):  # too few trials, or equal values
        return []
    rows = [(name, value) for name, value in found.items() if math.isfinite(value)][:12]
    if not rows or not sum(value for _, value in rows):
        return []
    return [
        Text(
            "Optuna's PED-ANOVA over the choices that all trials share: how much a choice tells about whether a trial "
            "is among the better ones. Parameters of one head or strategy are left out, since few trials have them."
        ),
        Figure(
            bars(rows, "{:.0%}", high=1.0),
            "Importances: " + ", ".join(f"{name} {value:.0%}" for name, value in rows),
            "Importances, which sum to 100 %.",
        ),
    ]
