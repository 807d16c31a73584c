"""Runs commands in the test's process, against a mocked Python API."""

import inspect
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from unittest.mock import create_autospec

import pytest
from typer.testing import CliRunner, Result

from autotl.cli import app


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Result]]:
    """Runs a command in this process, in an empty folder; changes of the process are undone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUTOTL_PLUGINS", "")
    monkeypatch.setenv("COLUMNS", "120")
    with warnings.catch_warnings():
        yield lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The Python API, whose functions are mocks with the signatures of the real ones."""
    from autotl import api

    for name in api.__all__:
        if inspect.isfunction(getattr(api, name)):
            monkeypatch.setattr(api, name, create_autospec(getattr(api, name)))
    return api
