"""The guide, plugins/README.md, is true: every block of it runs, in its order, in a fresh environment that has autotl
and nothing of this checkout; and what comes out of it works in a second one."""

import json
import os
import re
import subprocess
import sysconfig
import venv
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from autotl import hookspecs
from autotl.cli.scaffold import COMPONENTS, new_plugin

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "plugins" / "README.md").read_text()
BLOCK = re.compile(
    r"(?:^`(?P<file>autotl-[^`]+)`[^\n]*:\n\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
BLOCKS = [match.groupdict() for match in BLOCK.finditer(GUIDE)]


@dataclass
class Environment:
    """A virtual environment: heavy packages are borrowed from this one, autotl and its plugins are installed by pip."""

    folder: Path
    work: Path

    def run(self, *command: str, fails: bool = False, **more: str) -> str:
        """What it printed, both streams, in the folder `work`."""
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "AUTOTL", "PYTEST"))},
            "PATH": os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"]]),
            "AUTOTL_CACHE": str(self.folder / "cache"),
            "PIP_NO_DEPS": "1",  # they are borrowed
            "PIP_NO_BUILD_ISOLATION": "0",  # pip's own way to say: build with what is here, fetch nothing
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "COLUMNS": "200",
            **more,
        }
        done = subprocess.run(
            command,
            cwd=self.work,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert (done.returncode != 0) == fails, f"$ {' '.join(command)}\n{done.stdout}"
        return done.stdout


@pytest.fixture(scope="module")
def borrowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that is installed here but autotl and its plugins."""
    if not find_spec("hatchling") or not find_spec("editables"):
        pytest.skip('hatchling and editables are not installed. Type: pip install -e ".[dev]"')
    folder = tmp_path_factory.mktemp("borrowed")
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if (
            not entry.name.startswith(("autotl", "_editable_impl", "__editable__", "__pycache__"))
            and entry.suffix != ".pth"
        ):
            (folder / entry.name).symlink_to(entry)
    return folder


def fresh(folder: Path, borrowed: Path) -> Environment:
    """With autotl from a wheel of this checkout."""
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    site = next((folder / "venv" / "lib").glob("python*/site-packages"))
    (site / "borrowed.pth").write_text(f"{borrowed}\n")
    for name in ("pip", "pytest"):
        script = folder / "venv" / "bin" / name
        script.write_text(f"#!/bin/sh\nexec '{folder / 'venv' / 'bin' / 'python'}' -m {name} \"$@\"\n")
        script.chmod(0o755)
    work = folder / "work"
    work.mkdir()
    return Environment(folder / "venv", work)


@pytest.fixture(scope="module")
def wheel(borrowed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    wheels = fresh(tmp_path_factory.mktemp("wheels"), borrowed)
    wheels.run("pip", "wheel", "--quiet", "-w", ".", str(ROOT))
    return next(wheels.work.glob("autotl-*.whl"))


def photos(folder: Path) -> None:
    """Class folders with pieces of two photographs: what the guide calls `photos/`."""
    from PIL import Image

    from autotl.testing.images import photographs

    for label, photograph in zip(("temple", "flower"), photographs(), strict=True):
        for i in range(20):
            file = folder / "photos" / label / f"{i:02}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            top, left = 18 * i, 25 * i
            Image.fromarray(photograph[top : top + 64, left : left + 64]).save(file)


@pytest.fixture(scope="module")
def followed(borrowed: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment in which a reader has typed the whole guide, from top to bottom."""
    reader = fresh(tmp_path_factory.mktemp("reader"), borrowed)
    reader.run("pip", "install", "--quiet", str(wheel))
    photos(reader.work)
    shown: list[str] = []
    for number, block in enumerate(BLOCKS):
        if block["file"]:
            continue  # it is what `autotl plugin new` writes: see below
        if block["language"] == "python":
            (reader.work / f"block_{number}.py").write_text(block["code"])
            shown.append(f"block_{number}")
        elif block["language"] == "sh":
            if shown:
                reader.run("python", "-c", RUN, *shown)  # in one process, which is quicker
            shown = []
            reader.run("sh", "-e", "-c", block["code"])
    reader.run("python", "-c", RUN, *shown)
    return reader


RUN = """
import sys, typer
from autotl.registry import Registry
sys.path.insert(0, '.')
for name in sys.argv[1:]:
    module = __import__(name)
    if not any(name.startswith('autotl_') for name in vars(module)):
        continue
    registry = Registry()  # a plugin: register it as an installed one
    registry.add('shown', module, 'shown', '1')
    assert registry.plugins[0].hooks
    if hasattr(module, 'autotl_register_commands'):
        cli = typer.Typer(callback=lambda: None)
        module.autotl_register_commands(cli)
        cli(['hello'], standalone_mode=False)
"""


def test_every_block_of_the_guide_runs(followed: Environment) -> None:
    assert (followed.work / "studies" / "photos" / "model" / "model.json").is_file()


@pytest.mark.parametrize("block", [b for b in BLOCKS if b["file"]], ids=lambda b: b["file"])
def test_a_file_that_the_guide_shows_is_what_the_command_writes(block: dict[str, str], followed: Environment) -> None:
    assert (followed.work / block["file"]).read_text() == block["code"]


def test_the_guides_blocks_are_all_of_kinds_that_run() -> None:
    kinds = {(b["language"], bool(b["file"])) for b in BLOCKS}
    assert kinds == {("sh", False), ("python", False), ("python", True), ("toml", True), ("", False)}
    shown = [b["code"] for b in BLOCKS if not b["language"]]  # what a command prints
    assert len(shown) == 1
    assert "doesn't keep" in shown[0]


def test_the_new_parts_are_listed_with_where_they_come_from(followed: Environment) -> None:
    plugins = {p["name"]: p for p in json.loads(followed.run("autotl", "plugins", "--json"))}
    assert (plugins["our_network"]["distribution"], plugins["our_network"]["version"]) == (
        "autotl-our-network",
        "0.1.0",
    )
    assert plugins["our_network"]["adds"] == {"backbone": ["our_network"]}
    assert plugins["naive_bayes"]["adds"] == {"head": ["naive_bayes"]}
    assert not [p["name"] for p in plugins.values() if p["broken"]]


def test_a_second_environment_asks_for_the_plugins_and_then_predicts(
    followed: Environment, borrowed: Path, wheel: Path, tmp_path: Path
) -> None:
    model = str(followed.work / "studies" / "photos" / "model")
    image = str(followed.work / "photos" / "flower" / "00.png")
    second = fresh(tmp_path, borrowed)
    second.run("pip", "install", "--quiet", str(wheel))
    refused = second.run("autotl", "predict", model, image, fails=True)
    assert "needs the backbone 'our_network' of plugin 'our_network' (autotl-our-network 0.1.0)" in refused
    assert "pip install autotl-our-network==0.1.0" in refused
    followed.run("pip", "wheel", "--quiet", "-w", "wheels", "./autotl-our-network", "./autotl-naive-bayes")
    wheels = sorted(map(str, (followed.work / "wheels").glob("autotl_*.whl")))
    second.run("pip", "install", "--quiet", *(w for w in wheels if "our_network" in w))
    refused = second.run("autotl", "predict", model, image, fails=True)
    assert "needs the head 'naive_bayes' of plugin 'naive_bayes' (autotl-naive-bayes 0.1.0)" in refused
    second.run("pip", "install", "--quiet", *wheels)
    assert "flower" in second.run("autotl", "predict", model, image).splitlines()[-1]


def test_a_new_plugin_of_each_other_kind_passes_its_own_tests(borrowed: Path, wheel: Path, tmp_path: Path) -> None:
    author = fresh(tmp_path, borrowed)
    author.run("pip", "install", "--quiet", str(wheel))
    kinds = [kind for kind in COMPONENTS if kind not in ("backbone", "head")]  # the guide's reader has made those
    folders = [str(new_plugin(f"my_{kind}", kind, author.work)) for kind in kinds]
    author.run("pip", "install", "--quiet", *folders)
    answer = author.run("pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", *folders)
    assert re.search(r"^\d+ passed", answer, re.MULTILINE), answer
    assert "skipped" not in answer
    listed = author.run("autotl", "plugins")
    assert all(f"my_{kind}" in listed for kind in kinds)


def test_the_table_has_every_hook_and_its_arguments() -> None:
    specs = {name: spec for name, spec in vars(hookspecs).items() if name.startswith("autotl_")}
    signatures = {f"{n}({', '.join(s.__code__.co_varnames[: s.__code__.co_argcount])})" for n, s in specs.items()}
    assert set(re.findall(r"^\| `(autotl_\w+\(.*?\))`", GUIDE, re.MULTILINE)) == signatures


def test_every_hook_has_an_example_that_runs() -> None:
    code = "".join(block["code"] for block in BLOCKS if block["language"] == "python")
    assert not [name for name in vars(hookspecs) if name.startswith("autotl_") and f"def {name}(" not in code]
