"""The docs match the code: every command, flag, study-file key, event and hook is documented; study files are valid."""

import dataclasses
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
from autotl.events import SearchStarted, TrialFinished
from autotl.ui.progress import Snapshot

ROOT = Path(__file__).resolve().parents[1]
SUPPORT = {"py", "templates"}
"""Folders and files of the package that hold no code of their own."""
README = (ROOT / "README.md").read_text()
STUDIES = (ROOT / "studies" / "README.md").read_text()


def test_every_command_is_in_the_readme():
    commands = typer.main.get_command(app).commands
    missing = [name for name in commands if f"`autotl {name}" not in README]
    assert not missing


def test_every_command_in_the_readme_exists():
    named = set(re.findall(r"`autotl ([a-z]+)", README))
    assert named <= set(typer.main.get_command(app).commands)


def commands() -> Iterator[tuple[str, Any]]:
    """Every built-in command with its full name, also those of groups."""

    def within(name, command):
        yield name, command
        for inner_name, inner in getattr(command, "commands", {}).items():
            yield from within(f"{name} {inner_name}", inner)

    yield from within("autotl", typer.main.get_command(app))


def reference() -> str:
    """The text of docs/commands.md."""
    lines = ["# Commands", "", "Generated from `--help` by `python tests/test_docs.py`.", ""]
    for name, command in commands():
        lines += [f"## `{name}`", "", (command.help or "").split("\n\n")[0].replace("\n", " ").strip(), ""]
        options = [p for p in command.params if not (p.name == "help" or "--help" in p.opts)]
        if options:
            lines += ["| | |", "|---|---|"]
        for option in options:
            is_flag = option.opts[0].startswith("-")
            metavar = option.metavar or ("" if is_flag else option.name.upper())
            usage = " ".join(filter(None, [", ".join(option.opts) if is_flag else "", metavar]))
            lines.append(f"| `{usage}` | {(option.help or '').strip()} |".replace(usage, usage.replace("|", "\\|")))
        lines += [""] if options else []
    return "\n".join(lines)


def test_every_command_and_flag_is_in_the_reference():
    assert (ROOT / "docs" / "commands.md").read_text() == reference(), "type: python tests/test_docs.py"


def test_every_row_of_the_reference_names_an_argument_and_describes_it():
    rows = [line for line in reference().splitlines() if line.startswith("| `")]
    assert len(rows) > 50
    assert not [row for row in rows if not re.fullmatch(r"\| `[^`]*\w[^`]*` \| ([^|]|\\\|)+ \|", row)]


def study_keys() -> str:
    """The rows of the table at the end of studies/README.md."""
    return "".join(f"| `{key}` | {field.description} |\n" for key, field in StudyConfig.model_fields.items())


def test_every_study_file_key_is_documented():
    assert STUDIES.endswith(study_keys()), "type: python tests/test_docs.py"


EVENTS = {"search_started": SearchStarted, "progress": Snapshot, "trial_finished": TrialFinished}


@pytest.mark.parametrize("event", EVENTS)
def test_every_json_event_is_documented_with_its_fields(event):
    row = next(line for line in README.splitlines() if line.startswith(f"| `{event}` |"))
    documented = re.findall(r"`(\w+)`", row.split("|")[3])
    assert documented == [field.name for field in dataclasses.fields(EVENTS[event])]


def test_every_flag_has_help():
    without_help = [
        f"{name} {option.opts[0]}"
        for name, command in commands()
        for option in command.params
        if option.name != "help" and not (getattr(option, "help", None) or "").strip()
    ]
    assert not without_help


def test_every_hook_is_documented_for_plugin_authors():
    guide = (ROOT / "plugins" / "README.md").read_text()
    hooks = [name for name in vars(hookspecs) if name.startswith("autotl_")]
    assert hooks
    assert not [name for name in hooks if name not in guide]


@pytest.mark.parametrize("file", sorted((ROOT / "studies").glob("*.toml")), ids=lambda f: f.stem)
def test_study_files_are_valid(file):
    assert load_study_file(file).name == file.stem


def test_links_of_the_readme_lead_to_files():
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


def test_the_architecture_page_names_every_room():
    page = (ROOT / "docs" / "architecture.md").read_text()
    rooms = [path.stem for path in (ROOT / "autotl").iterdir() if not path.stem.startswith(("_", "py.typed"))]
    assert len(rooms) > 20
    assert not [room for room in rooms if f"`{room}`" not in page and f"`{room}/`" not in page and room not in SUPPORT]


if __name__ == "__main__":
    (ROOT / "docs" / "commands.md").write_text(reference())
    prose = re.split(r"^\| `data` \|", STUDIES, flags=re.MULTILINE)[0]
    (ROOT / "studies" / "README.md").write_text(prose + study_keys())
