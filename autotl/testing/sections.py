"""The requirements of a report's section, tested with a finished search of real images and one that has just begun."""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from autotl.page.base import Element, Figure, Fold, Gallery, ReportSection
from autotl.page.render import render_elements
from autotl.testing.check import Checks, expect
from autotl.testing.searches import finished_search, unfinished_search

__all__ = ["SECTION"]

SECTION = Checks("section", ReportSection)
MAX_BYTES = 1_000_000
"""Of one section's HTML: a report has fifteen, and 6 MB."""
OUTSIDE = re.compile(
    r"""(?:src|href|action)\s*=\s*["']?\s*(?:https?:|//|ftp:|file:)|url\(\s*["']?(?:https?:|//)""", re.I
)


@SECTION.requires(ReportSection)
def is_described(section: ReportSection) -> None:
    """A section has a name of letters, digits, _ and -, a title, and a number as its order."""
    name, order = section.name, section.order
    expect(isinstance(name, str) and re.fullmatch(r"[A-Za-z][\w-]*", name), f"name is {name!r}")
    expect(isinstance(section.title, str) and section.title.strip(), f"title is {section.title!r}")
    expect(isinstance(order, int | float), f"order is {order!r}")


@SECTION.requires(ReportSection.build)
def builds_elements_of_a_finished_search(section: ReportSection) -> None:
    """`build` returns a sequence of elements, which can be drawn in less than 1 MB."""
    with tempfile.TemporaryDirectory() as folder:
        elements = section.build(finished_search(Path(folder) / "example"))
    expect(isinstance(elements, Sequence) and not isinstance(elements, str), f"it returned {type(elements).__name__}")
    for element in elements:
        expect(isinstance(element, get_args(Element)), f"{element!r} is among the elements")
    size = len(render_elements(elements))
    expect(size <= MAX_BYTES, f"the elements take {size:,} bytes")


@SECTION.requires(ReportSection.build)
def builds_elements_of_a_search_that_runs(section: ReportSection) -> None:
    """`build` works for a search without a complete trial, whose images can't be read."""
    with tempfile.TemporaryDirectory() as folder:
        render_elements(section.build(unfinished_search(Path(folder) / "example")))


@SECTION.requires(Figure)
def says_in_words_what_its_pictures_show(section: ReportSection) -> None:
    """Figures and pictures have a text alternative."""
    with tempfile.TemporaryDirectory() as folder:
        for element in _flat(section.build(finished_search(Path(folder) / "example"))):
            if isinstance(element, Figure):
                expect(element.alt.strip(), "a figure has none")
            if isinstance(element, Gallery):
                expect(all(p.alt.strip() for card in element.cards for p in card.pictures), "a picture has none")


@SECTION.requires(Figure)
def asks_for_nothing_from_the_network(section: ReportSection) -> None:
    """Drawings hold no address that a browser would load: a report is read offline."""
    with tempfile.TemporaryDirectory() as folder:
        for element in _flat(section.build(finished_search(Path(folder) / "example"))):
            if isinstance(element, Figure):
                found = OUTSIDE.search(element.svg)
                expect(not found, f"a drawing has {found.group() if found else ''}")
                expect("<script" not in element.svg.lower(), "a drawing has a script")


def _flat(elements: Sequence[Element]) -> list[Element]:
    """All elements, those inside of folds, too."""
    found: list[Element] = []
    for element in elements:
        found += _flat(element.elements) if isinstance(element, Fold) else [element]
    return found
