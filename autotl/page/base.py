"""What a report is made of: sections, and the elements that a section returns. Elements are data; `render` draws them.

Nothing here imports NumPy or Jinja: every command registers the sections.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from autotl.report.record import SearchRecord

__all__ = ["Card", "Code", "Element", "Figure", "Fold", "Gallery", "Picture", "ReportSection", "Table", "Text"]


@dataclass(frozen=True)
class Text:
    """A paragraph of plain text, escaped when it is drawn."""

    text: str
    style: Literal["", "lead", "note"] = ""


@dataclass(frozen=True)
class Code:
    """Lines to copy: a command, or a program."""

    text: str
    language: str = "sh"


@dataclass(frozen=True)
class Table:
    """A table that a click on a column's name sorts, where the browser runs scripts.

    Numbers are aligned to the right: integers with a comma at thousands, other numbers with three decimals. None is an
    empty cell.
    """

    columns: tuple[str, ...]
    rows: Sequence[Sequence[str | int | float | None]]
    caption: str = ""
    bold: int | None = None
    """The row to emphasise."""
    digits: Mapping[int, int] = field(default_factory=dict)
    """Decimals of the numbers of a column, where they aren't three."""


@dataclass(frozen=True)
class Figure:
    """A drawing."""

    svg: str
    """An `<svg>` element, whose texts are escaped. See `autotl.page.charts`."""
    alt: str
    """The same in words, for whoever doesn't see it."""
    caption: str = ""
    wide: bool = False
    """Whether it takes the page's whole width."""


@dataclass(frozen=True)
class Picture:
    """A small image."""

    content: bytes
    """The bytes of a JPEG, PNG or WebP file."""
    alt: str
    caption: str = ""
    large: bool = False
    """Whether it is what the others are shown beside."""


@dataclass(frozen=True)
class Card:
    """Pictures that belong together, with a title and lines of text."""

    title: str
    pictures: tuple[Picture, ...] = ()
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gallery:
    """Cards side by side."""

    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Fold:
    """Elements that a click on the title opens; no script is needed for it."""

    title: str
    elements: "tuple[Element, ...]"


Element: TypeAlias = Text | Code | Table | Figure | Gallery | Fold


class ReportSection(ABC):
    """A section of `report.html`. Creating the object must be cheap."""

    name: str
    """Identifies the section; also its place in the page's address: `report.html#name`."""
    title: str
    order: int = 1000
    """Sections are shown by increasing order; those of autotl have 10, 20, …, 140."""
    costly: bool = False
    """Whether it takes longer than a tenth of a second. Costly sections are built last, and left out of the report of a
    search whose time is up."""

    @abstractmethod
    def build(self, search: "SearchRecord") -> Sequence[Element]:
        """The section's elements; none where the search has nothing to show for it, and the section is left out.

        Called in the worker that made the model, or by `autotl report`, also while the search runs. An exception costs
        a line in the report. Look at `search.deadline` before anything that takes long.
        """
