"""The pages of a server: where images are dropped, and what it can be asked. Neither needs another server."""

import base64
import functools
import hashlib
from typing import TYPE_CHECKING, Any

from autotl.escaping import escape
from autotl.page.render import source
from autotl.server.answers import ModelInfo

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["docs_page", "drop_page"]

PACKAGE, FOLDER = "autotl.server", "templates"
NOTHING = "default-src 'none'; base-uri 'none'; frame-ancestors 'none'"


@functools.cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    return Environment(
        loader=PackageLoader(PACKAGE, FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        # control characters in the name of a class become escape sequences
        finalize=lambda value: value if isinstance(value, Markup) else escape(value),
        trim_blocks=True,
        lstrip_blocks=True,
    )


@functools.cache
def _own_source(name: str) -> str:
    from importlib.resources import files

    return files(PACKAGE).joinpath(FOLDER, name).read_text(encoding="utf-8")


def _hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def drop_page(info: ModelInfo) -> tuple[str, str]:
    """The page on which images are dropped, and its content security policy."""
    from markupsafe import Markup

    style, script = source("page.css") + _own_source("drop.css"), _own_source("drop.js")
    policy = (
        f"{NOTHING}; img-src blob: data:; style-src {_hashed(style)}; script-src {_hashed(script)}; "
        "connect-src 'self'; form-action 'self'"
    )
    page = _environment().get_template("drop.html")
    return page.render(info=info, style=Markup(style), script=Markup(script)), policy


def docs_page(openapi: dict[str, Any]) -> tuple[str, str]:
    """What the OpenAPI description says, as a page without scripts, and its content security policy."""
    from markupsafe import Markup

    style = source("page.css") + _own_source("docs.css")
    schemas = openapi.get("components", {}).get("schemas", {})
    page = _environment().get_template("docs.html")
    rendered = page.render(
        openapi=openapi, schemas={name: _fields(schema) for name, schema in schemas.items()}, style=Markup(style)
    )
    return rendered, f"{NOTHING}; img-src data:; style-src {_hashed(style)}"


def _fields(schema: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, type and description of the fields of a schema."""
    return [
        (name, _type_of(field), field.get("description", "")) for name, field in schema.get("properties", {}).items()
    ]


def _type_of(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "anyOf" in field:
        return " or ".join(_type_of(part) for part in field["anyOf"])
    if field.get("type") == "array":
        return f"list of {_type_of(field.get('items', {}))}"
    return str(field.get("type", ""))
