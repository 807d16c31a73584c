"""A private folder beside hostile files, none of which may be opened or changed: the fixture `secret`."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["WATCHED", "secret_folder"]

WATCHED: dict[str, Any] = {"folder": None, "opened": []}


def _watch(event: str, details: tuple[Any, ...]) -> None:
    if event in ("open", "os.remove", "os.rename", "os.mkdir", "shutil.rmtree") and WATCHED["folder"]:
        path = os.fsdecode(details[0]) if isinstance(details[0], str | bytes) else ""
        if os.path.realpath(path).startswith(WATCHED["folder"]):
            WATCHED["opened"].append((event, path))


sys.addaudithook(_watch)  # can't be removed; does nothing while no folder is watched


@pytest.fixture(name="secret")
def secret_folder(tmp_path: Path) -> Iterator[Path]:
    """The user's private folder beside the hostile files. None of its files may be opened or changed."""
    folder = tmp_path / "private"
    folder.mkdir()
    (folder / "secret.json").write_text('{"format": 3, "password": "hunter2"}')
    (folder / "secret.png").write_bytes(b"\x89PNG")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    WATCHED.update(folder=os.path.realpath(folder), opened=[])
    yield folder
    WATCHED["folder"] = None
    assert WATCHED["opened"] == []
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
