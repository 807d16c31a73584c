"""What rich would read as markup in a name is printed as it is."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from autotl.errors import AutotlError

NAME = "net [bold]@/food [/drink]"


def test_a_backbones_name_in_what_align_is_doing(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(data: str, *, log: Callable[[str], None], **options: object) -> None:
        log(f"{NAME}: 3 of 5 images")
        raise AutotlError(f"{NAME} can't be measured")

    monkeypatch.setattr("autotl.coordinator.align.align", measure)
    result = run("align", "photos")
    assert result.exit_code == 1
    assert f"{NAME} can't be measured" in result.stderr


def test_a_format_that_export_does_not_have(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}")
    result = run("export", ".", "--to", NAME)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")


def test_the_next_commands_for_a_new_plugin_are_quoted(run: Callable[..., Result], tmp_path: Path) -> None:
    folder = tmp_path / "my plugins [x]"
    result = run("plugin", "new", "own", "--component", "metric", "--output", folder)
    place = f"'{folder / 'autotl-own'}'"
    assert f"next: pip install -e {place} && pytest {place} && autotl plugins" in result.output
