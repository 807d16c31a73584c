"""The one escape that texts from outside pass on their way to a terminal, to Markdown notes and to CSV files."""

import re

from autotl.errors import AutotlError

__all__ = ["csv_cell", "cut_middle", "escape", "escape_lines", "escape_markdown", "require_utf8"]

NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")


def escape(name: object) -> str:
    """Text for a terminal: line breaks, control characters (which could move its cursor) and undecodable bytes of a
    file's name become escape sequences."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(name))


def escape_lines(text: object) -> str:
    """The same for a text of several lines."""
    return "\n".join(map(escape, str(text).split("\n")))


def escape_markdown(text: object) -> str:
    """Text for a Markdown note: as `escape`, and without links, images, emphasis and HTML."""
    return re.sub(r"([\\`*\[\]<>&!|])", r"\\\1", escape(text))


def cut_middle(text: str, length: int) -> str:
    """`text` with at most `length` characters. What is left out is in the middle: names of one family differ at the
    end."""
    if len(text) <= length:
        return text
    end = max(0, length - 1) // 2
    return text[: max(1, length - 1 - end)] + "…" + text[len(text) - end :]


def csv_cell(value: object) -> object:
    """A value for a CSV file: control characters become escape sequences, and a text that a spreadsheet would compute
    as a formula gets an apostrophe in front. Numbers stay, and so do the undecodable bytes of a file's name."""
    if not isinstance(value, str):
        return value
    text = "".join(c if "\ud800" <= c <= "\udfff" else escape(c) for c in value)
    is_formula = text.startswith(("=", "+", "-", "@")) and not NUMBER.fullmatch(text)
    return f"'{text}" if is_formula else text


def require_utf8(**values: object) -> None:
    """Check places that the files of a study name: those are UTF-8. Raises AutotlError for the name of a file or folder
    in another encoding."""
    for name, value in values.items():
        text = "" if value is None else str(value)
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise AutotlError(
                f"{name} is {escape(text)}, whose name isn't UTF-8. Rename it, or give a link with another name: "
                f"ln -s FOLDER ./{name}"
            )
