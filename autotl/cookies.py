"""The cookies of a request. A browser sends those of all programs on this host, whatever their port."""

__all__ = ["cookie_value"]


def cookie_value(header: str, name: str) -> str | None:
    """The value of the cookie `name`; None where the header has none.

    `http.cookies` finds none at all where another program's cookie isn't of its grammar.

    >>> cookie_value('theme={"dark": 1}; autotl-80=abc', "autotl-80")
    'abc'
    """
    pairs = (pair.partition("=") for pair in header.split(";"))
    return next((value.strip() for key, _, value in pairs if key.strip() == name), None)
