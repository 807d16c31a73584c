"""Builds `report.html`: data, then elements, then a page. A section that fails costs a line, never the report."""

import shlex
import time
import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from autotl._version import __version__
from autotl.atomic_io import write_atomically
from autotl.discovery import traced
from autotl.page.base import Element, Figure, ReportSection, Text
from autotl.page.render import Drawn, render_elements, render_page
from autotl.report.learnt import blocks_figure, frontier_figure, progress_figure
from autotl.report.mistakes import confusion_figure, confusion_matrix
from autotl.report.record import SearchRecord

__all__ = ["MAX_SECONDS", "REPORT_FILE", "SHARE", "report_seconds", "study_pictures", "write_report"]

REPORT_FILE = "report.html"
MAX_SECONDS, SHARE = 15.0, 0.05
"""What a report may cost: seconds, and the share of a search's time."""
RENDER_SECONDS = 0.5
"""To draw the elements and write the file."""


def report_seconds(time_budget: float | None) -> float:
    """Seconds that the report of a search with this time budget may take."""
    return MAX_SECONDS if time_budget is None else min(MAX_SECONDS, SHARE * time_budget)


def write_report(search: SearchRecord, log: Callable[[str], None] = lambda line: None) -> Path:
    """Write `report.html` into the study's folder and return its path.

    Cheap sections are built first. Costly ones follow in their order while `search.deadline` allows it; the page says
    which are missing.

    Args:
        log: called with a warning for each section that failed.
    """
    built: dict[str, list[Element]] = {}
    late: list[str] = []
    sections = sorted(search.registry.report_sections.values(), key=lambda section: section.order)
    for section in sorted(sections, key=lambda section: section.costly):
        if section.costly and search.deadline.remaining() <= RENDER_SECONDS:
            late.append(section.title)
            continue
        built[section.name] = _build(section, search, log)
    drawn = [Drawn(s.name, s.title, built[s.name]) for s in sections if built.get(s.name)]
    missing = (
        f" There was no time for: {', '.join(late)}. `autotl report {shlex.quote(search.config.name)}` adds them."
        if late
        else ""
    )
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    state = "the search is running" if search.running else f"{len(search.trials):,} trials"
    page = render_page(
        f"{search.config.name}: a search of autotl",
        f"{search.config.data} · {len(search.classes)} classes · {state} · {now}",
        drawn,
        f"Written by autotl {__version__}, {now}.{missing}",
    )
    file = search.folder / REPORT_FILE
    write_atomically(file, page.encode("utf-8", "backslashreplace"))
    return file


def study_pictures(search: SearchRecord) -> dict[str, Figure]:
    """What Optuna Dashboard shows beside the study, by name: the confusion matrix, the score over time, what trials
    cost, and backbones by unfrozen blocks."""
    held_out = search.held_out
    confusion = None
    if held_out is not None and search.dataset is not None:
        counts = confusion_matrix(search.labels(held_out), held_out.predicted, len(search.classes))
        confusion = confusion_figure(counts, search.classes)
    pictures = {
        f"confusion-{search.held_out_name}": confusion,
        "score-over-time": progress_figure(search),
        "score-and-cost": frontier_figure(search),
        "backbones-and-unfrozen-blocks": blocks_figure(search),
    }
    return {name: figure for name, figure in pictures.items() if figure}


def _build(section: ReportSection, search: SearchRecord, log: Callable[[str], None]) -> list[Element]:
    """The section's elements; the cause where it failed, also where its elements can't be drawn."""
    owner = search.registry.owner("section", section.name)
    plugin = owner.name if owner else "autotl"
    began = time.monotonic()
    try:
        with traced(plugin, f"report section {section.name}"):
            elements = list(section.build(search))
            if owner and owner.distribution != "autotl":
                render_elements(elements)
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"[:500]
        log(f"The report's section {section.name!r} of plugin {plugin!r} failed: {cause}")
        traceback.print_exc()
        return [Text(f"This section of plugin {plugin!r} failed: {cause}", "note")]
    is_built_in = owner is not None and owner.distribution == "autotl"
    if not is_built_in and (seconds := time.monotonic() - began) > MAX_SECONDS:
        log(f"The report's section {section.name!r} of plugin {plugin!r} took {seconds:.0f} s.")
    return elements
