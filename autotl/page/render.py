"""Draws elements as HTML: a page that needs no network and no script. Everything that isn't drawn here is escaped."""

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotl.escaping import escape
from autotl.page.base import Element, Table

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["Drawn", "render_elements", "render_page"]

NARROW = 72
"""Characters of all columns of a table that fit into half of a wide page."""
TEMPLATES = "autotl.page", "templates"
MIME_TYPES = {b"\x89PNG": "image/png", b"RIFF": "image/webp", b"\xff\xd8\xff": "image/jpeg"}


@dataclass(frozen=True)
class Drawn:
    """A section with its elements."""

    name: str
    title: str
    elements: Sequence[Element]


@functools.cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def shown(value: object) -> object:
        """Control characters in a name from outside become escape sequences, before Jinja escapes HTML."""
        return value if isinstance(value, Markup) else escape(value)

    environment = Environment(
        loader=PackageLoader(*TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    environment.filters["data_uri"] = _data_uri
    environment.filters["svg"] = Markup
    environment.filters["kind"] = lambda element: type(element).__name__.lower()
    environment.filters["is_number"] = _is_number
    environment.filters["is_narrow"] = _is_narrow
    environment.globals["source"] = lambda name: Markup(_source(name))
    return environment


@functools.cache
def _source(name: str) -> str:
    from importlib.resources import files

    return files(TEMPLATES[0]).joinpath(TEMPLATES[1], name).read_text(encoding="utf-8")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_narrow(table: Table) -> bool:
    """Whether a table fits into half of a wide page."""
    widths = [max([len(name), *(len(_cell(row[i])) for row in table.rows)]) for i, name in enumerate(table.columns)]
    return sum(width + 2 for width in widths) <= NARROW


def _cell(value: object, digits: int = 3) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.{digits}f}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def _data_uri(content: bytes) -> str:
    mime = next((mime for start, mime in MIME_TYPES.items() if content.startswith(start)), None)
    if mime is None:
        raise ValueError("a picture is neither a JPEG nor a PNG nor a WebP file")
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def render_page(title: str, subtitle: str, sections: Sequence[Drawn], footer: str = "") -> str:
    """A whole page: one file, without a request to anywhere, which a content security policy makes sure of."""
    script = _source("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    page = _environment().get_template("page.html")
    return page.render(title=title, subtitle=subtitle, sections=sections, footer=footer, policy=policy)


def render_elements(elements: Sequence[Element], about: Mapping[str, Any] | None = None) -> str:
    """Elements as a piece of HTML with its own style, for a notebook."""
    return _environment().get_template("piece.html").render(elements=elements, about=about or {})
