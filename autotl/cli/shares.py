"""Shares on the command line, such as "1%"."""

from autotl.errors import AutotlError

__all__ = ["share"]

EXAMPLES = {"coverage": "90%"}
"""What an error tells to type, by the flag; 5% for the others."""


def share(name: str, text: str) -> float:
    """A share such as "1%" or "0.01"."""
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        flag = "--" + name.replace("_", "-")
        raise AutotlError(
            f"{flag} {text} is not a share between 0 % and 100 %: write {flag} {EXAMPLES.get(name, '5%')}"
        )
    return value
