"""Which database a study is in: the study's folder keeps the database's URL without its password, and the study's name
there. Imports no SQLAlchemy, which takes a quarter of a second and which a study with a journal has no use for."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from autotl.atomic_io import read_json, write_json
from autotl.config import without_password
from autotl.errors import AutotlError

__all__ = ["DRIVERS", "DatabaseLost", "as_reached_here", "keep_database", "kept_database", "study_exists"]

FILE = "storage.json"
DRIVERS = {"postgresql": "psycopg[binary]", "mysql": "pymysql", "mariadb": "pymysql"}
"""What to install for each kind of database."""


class DatabaseLost(AutotlError):
    """The database could not be reached for `autotl.study.database.PATIENCE` seconds."""


def kept_database(folder: Path) -> tuple[str, str] | None:
    """The URL, without a password, and the name of the study in `folder`; None for one with a journal of its own.

    Raises:
        AutotlError: the file that says so is damaged.
    """
    file = folder / FILE
    if not file.exists():
        return None
    try:
        kept = read_json(file)
        url, name = kept["url"], kept["study"]
        if not (isinstance(url, str) and isinstance(name, str) and url.split(":")[0].split("+")[0] in DRIVERS):
            raise TypeError("not a database of PostgreSQL or MySQL")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AutotlError(f"{file} is damaged: {type(error).__name__}: {error}. Delete it and search again.") from error
    return url, name


def keep_database(folder: Path, url: str, name: str) -> None:
    """Record that the study in `folder` is the one called `name` in a database."""
    write_json(folder / FILE, {"url": without_password(url), "study": name})


def study_exists(folder: Path) -> bool:
    """Whether a study was begun in `folder`, in a journal or in a database."""
    journal = folder / "journal.log"  # whoever looks into a folder before its search has begun leaves an empty one
    return (journal.exists() and journal.stat().st_size > 0) or kept_database(folder) is not None


def as_reached_here(url: str) -> str:
    """The URL by which this host reaches another host's database, without a password: a host may know the server by
    another name, or have a user of its own, which AUTOTL_STORAGE says. `url` where that names no such database."""
    own = without_password(os.environ.get("AUTOTL_STORAGE", ""))
    return own if _named(own) == _named(url) else url


def _named(url: str) -> tuple[str, str]:
    """The kind of a database and its name on its server."""
    parts = urlsplit(url)
    return parts.scheme.partition("+")[0], parts.path
