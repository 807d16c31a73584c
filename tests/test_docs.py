"""The docs say what the code does: every command, study-file key and hook is documented, and study files are valid."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from autotl import hookspecs
from autotl.cli import app
from autotl.config import StudyConfig, load_study_file

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
STUDIES = (ROOT / "studies" / "README.md").read_text()


def test_every_command_is_in_the_readme():
    commands = typer.main.get_command(app).commands
    missing = [name for name in commands if f"`autotl {name}" not in README]
    assert not missing


def test_the_readme_names_no_command_that_is_not_there():
    named = set(re.findall(r"`autotl ([a-z]+)", README))
    assert named <= set(typer.main.get_command(app).commands)


def commands() -> Iterator[tuple[str, Any]]:
    """Every built-in command by what is typed, those of groups too."""

    def within(words, command):
        yield words, command
        for name, inner in getattr(command, "commands", {}).items():
            yield from within(f"{words} {name}", inner)

    yield from within("autotl", typer.main.get_command(app))


def reference() -> str:
    """docs/commands.md, from the commands themselves. `python tests/test_docs.py` writes it."""
    lines = ["# Commands", "", "Written by `python tests/test_docs.py` from what `--help` knows.", ""]
    for words, command in commands():
        lines += [f"## `{words}`", "", (command.help or "").split("\n\n")[0].replace("\n", " ").strip(), ""]
        options = [p for p in command.params if not (p.name == "help" or "--help" in p.opts)]
        if options:
            lines += ["| | |", "|---|---|"]
        for option in options:
            typed = " ".join([", ".join(option.opts) if option.opts[0].startswith("-") else "", option.metavar or ""])
            lines.append(f"| `{typed.strip()}` | {(option.help or '').strip()} |".replace("DATA|", "DATA\\|"))
        lines += [""] if options else []
    return "\n".join(lines)


def test_every_command_and_flag_is_in_the_reference():
    assert (ROOT / "docs" / "commands.md").read_text() == reference(), "type: python tests/test_docs.py"


def test_every_flag_says_what_it_does():
    silent = [
        f"{words} {option.opts[0]}"
        for words, command in commands()
        for option in command.params
        if option.name != "help" and not (getattr(option, "help", None) or "").strip()
    ]
    assert not silent


def test_every_study_file_key_is_documented():
    missing = [key for key in StudyConfig.model_fields if f"| `{key}` |" not in STUDIES]
    assert not missing


def test_every_documented_key_exists():
    assert set(re.findall(r"^\| `(\w+)` \|", STUDIES, re.MULTILINE)) == set(StudyConfig.model_fields)


def test_every_hook_is_documented_for_plugin_authors():
    guide = (ROOT / "plugins" / "README.md").read_text()
    hooks = [name for name in vars(hookspecs) if name.startswith("autotl_")]
    assert hooks
    assert not [name for name in hooks if name not in guide]


@pytest.mark.parametrize("file", sorted((ROOT / "studies").glob("*.toml")), ids=lambda f: f.stem)
def test_study_files_are_valid(file):
    assert load_study_file(file).name == file.stem


def test_pictures_and_pages_that_the_readme_links_to_are_there():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_the_plugin_in_the_readme_works():
    from autotl.registry import Registry

    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "hookimpl" in block)
    namespace = {}
    exec(compile(code, "README.md", "exec"), namespace)
    registry = Registry()
    registry.add("readme", SimpleNamespace(**namespace), "readme", "1")
    assert registry.head("naive_bayes").build({"var_smoothing": 1e-9}, 4, 2, 0).get_params()["var_smoothing"] == 1e-9


if __name__ == "__main__":
    (ROOT / "docs" / "commands.md").write_text(reference())
