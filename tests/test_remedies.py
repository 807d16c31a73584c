"""What messages tell a user to type exists: options, commands, and what pip shall install."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from autotl.cli import app

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*ROOT.glob("autotl/**/*.py"), *ROOT.glob("plugins/*/autotl_*/**/*.py")])
VALUE = "\0"
"""Stands in a text for what an f-string fills in."""
OPTION = re.compile(r"(?<![\w-])(?<!var\()--[a-z][a-z-]*")  # var(--name) is CSS
TYPED = re.compile(r"(`|\$\(|: |Type |&& )autotl ([^`\n]*)")
"""What follows the program's name where a user could be meant to type it, and what comes before."""
INSTALLED = re.compile(r"pip install (?:-[\w-]+ )*'?([^\s,;)`&\"']+)")
OTHERS = {"--force-reinstall", "--index-url"}
"""Options of pip."""


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Each string of a module with its line, docstrings too; a placeholder of an f-string is VALUE."""
    tree = ast.parse(source)
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(v.value if isinstance(v, ast.Constant) else VALUE for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.lineno, node.value


PLACES = re.compile(r"(?:--(?:cache|data|name|out|output|test)|\bmv \0?) \0")
"""A place that is filled in after an option, or after mv."""
QUOTED = {"cache", "model", "ctx.invoked_subcommand"}
"""Texts that are quoted where they are made, or need no quotes."""


def unquoted(source: str) -> list[tuple[int, str]]:
    """What f-strings put into lines that a user is meant to type without quotes for a shell: a name may have spaces."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.JoinedStr):
            continue
        values = [ast.unparse(part.value) for part in node.values if isinstance(part, ast.FormattedValue)]
        text = "".join(part.value if isinstance(part, ast.Constant) else VALUE for part in node.values)
        spans = [(match.start(), match.start(2) + len(match[2].split(". ")[0])) for match in TYPED.finditer(text)]
        spans += [match.span() for match in PLACES.finditer(text)]
        for start, end in spans:
            first = text.count(VALUE, 0, start)
            filled = values[first : first + text.count(VALUE, start, end)]
            found += [(node.lineno, v) for v in filled if not v.startswith("shlex.quote(") and v not in QUOTED]
    return found


def commands() -> dict[str, set[str]]:
    """The options of each command and group, by its words: `cache clear`."""
    found: dict[str, set[str]] = {}

    def within(words: str, command: Any) -> None:
        found[words] = {opt for p in command.params for opt in (*p.opts, *p.secondary_opts)} | {"--help"}
        for name, inner in getattr(command, "commands", {}).items():
            within(f"{words} {name}".strip(), inner)

    within("", typer.main.get_command(app))
    return found


COMMANDS = commands()
OPTIONS = set.union(*COMMANDS.values())


def distributions() -> dict[str, set[str]]:
    """What is ours or ours needs, by name, with its extras."""
    found: dict[str, set[str]] = {}
    for file in (ROOT / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")):
        project = tomllib.loads(file.read_text())["project"]
        extras = project.get("optional-dependencies", {})
        found[project["name"]] = set(extras)
        for requirement in [*project.get("dependencies", ()), *(r for group in extras.values() for r in group)]:
            found.setdefault(re.match(r"[\w.-]+", requirement)[0], set())
    return found


def faults(text: str) -> list[str]:
    """What a text tells a user to type that doesn't exist."""
    wrong = [option for option in OPTION.findall(text) if option not in OPTIONS | OTHERS]
    for before, line in TYPED.findall(text):
        if command := command_of(before, line):
            known = COMMANDS.get(command)
            options = known | COMMANDS[""] if known else set(OPTION.findall(line))
            wrong += [f"autotl {command} {option}" for option in OPTION.findall(line) if option not in options]
            wrong += [f"autotl {command}"] if known is None else []
    return wrong + [f"pip install {name}" for name in INSTALLED.findall(text) if not installs(name.rstrip("."))]


def command_of(before: str, line: str) -> str:
    """The command of a typed line, in words, also one that doesn't exist. "" in a sentence about autotl."""
    words = re.findall(r"[^\s.,;)$]+", line)
    if not words or not re.fullmatch("[a-z_]+", words[0]):
        return ""
    if words[0] not in COMMANDS and before == ": " and re.match(r"[a-z]+ [a-z]", line):
        return ""
    command = words[0]
    for word in words[1:]:
        is_group = any(name.startswith(f"{command} ") for name in COMMANDS)
        if not is_group or not re.fullmatch("[a-z_]+", word):
            break
        command += f" {word}"
    return command


def installs(name: str) -> bool:
    if VALUE in name or name in {"", "."} or re.fullmatch(r"\{\w+\}", name):  # filled in, or the current folder
        return True
    if name.startswith("./"):
        return (ROOT / name / "pyproject.toml").is_file()
    distribution, _, extra = name.removesuffix("]").partition("[")
    known = distributions()
    return distribution in known and (not extra or extra in known[distribution])


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_what_a_message_says_to_type_exists(file):
    wrong = [(line, fault) for line, text in texts(file.read_text()) for fault in faults(text)]
    assert not wrong


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_what_a_message_fills_into_a_command_is_quoted(file):
    assert not unquoted(file.read_text())


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('f"{n} images. Type: autotl search {path} --test {shlex.quote(test)}. It took {s} s"', ["path"]),
        ('f"`autotl report {shlex.quote(name)}` adds {n}"', []),
        ('f"Give it a name: --name {name}"', ["name"]),
        ('f"{n}: mv {one} {other}"', ["one", "other"]),
    ],
)
def test_a_command_without_quotes_is_found(text, wrong):
    assert sorted({value for _, value in unquoted(text)}) == wrong


def test_messages_name_many_options_commands_and_distributions():
    """Otherwise nothing was looked at."""
    everything = [text for file in SOURCES for _, text in texts(file.read_text())]
    assert len({option for text in everything for option in OPTION.findall(text)}) > 30
    assert len({command_of(*found) for text in everything for found in TYPED.findall(text)}) > 8
    assert len({name for text in everything for name in INSTALLED.findall(text)}) > 3


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("Give another --folder.", ["--folder"]),
        ("Give another --output.", []),
        ("See: autotl networks", ["autotl networks"]),
        ("`autotl cache wipe` removes it", ["autotl cache wipe"]),
        ("Type: autotl cache clear", []),
        ("`autotl doctor photos --engine torch`", ["autotl doctor --engine"]),
        ("Type: autotl doctor PHOTOS --json", []),
        ("`autotl evaluate MODEL photos --json`", []),
        ("it can't be given: autotl sets it", []),
        ("pip install autotl-lite", ["pip install autotl-lite"]),
        ("pip install 'autotl[board]'", ["pip install autotl[board]"]),
        ("pip install 'autotl[dashboard]'", []),
        ("pip install ./plugins/autotl-lite", ["pip install ./plugins/autotl-lite"]),
    ],
)
def test_a_remedy_that_does_not_exist_is_found(text, wrong):
    assert faults(text) == wrong
