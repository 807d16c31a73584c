"""The guide, plugins/README.md: every block runs, in its order, in a fresh environment that has autotl from a wheel and
nothing of this checkout; its model and plugins work in a second one."""

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
    """A virtual environment: heavy packages are linked from this one, autotl and its plugins are installed by pip."""

    folder: Path
    work: Path

    def run(self, *command: str, fails: bool = False, **variables: str) -> str:
        """Run a command in the folder `work`; returns the output of both streams."""
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "AUTOTL", "PYTEST"))},
            "PATH": os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"]]),
            "AUTOTL_CACHE": str(self.folder / "cache"),
            "PIP_NO_DEPS": "1",  # they are linked
            "PIP_NO_BUILD_ISOLATION": "0",  # pip inverts this variable: no isolation, so that nothing is downloaded
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "COLUMNS": "200",
            **variables,
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
def linked_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with links to all installed packages except autotl and its plugins."""
    if not find_spec("hatchling") or not find_spec("editables"):
        pytest.skip('hatchling and editables are not installed. Type: pip install -e ".[dev]"')
    folder = tmp_path_factory.mktemp("linked")
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if (
            not entry.name.startswith(("autotl", "_editable_impl", "__editable__", "__pycache__"))
            and entry.suffix != ".pth"
        ):
            (folder / entry.name).symlink_to(entry)
    return folder


def fresh(folder: Path, linked_packages: Path) -> Environment:
    """An environment with the linked packages, pip and pytest."""
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    site = next((folder / "venv" / "lib").glob("python*/site-packages"))
    (site / "linked.pth").write_text(f"{linked_packages}\n")
    for name in ("pip", "pytest"):
        script = folder / "venv" / "bin" / name
        script.write_text(f"#!/bin/sh\nexec '{folder / 'venv' / 'bin' / 'python'}' -m {name} \"$@\"\n")
        script.chmod(0o755)
    work = folder / "work"
    work.mkdir()
    return Environment(folder / "venv", work)


@pytest.fixture(scope="module")
def wheel(linked_packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    wheels = fresh(tmp_path_factory.mktemp("wheels"), linked_packages)
    wheels.run("pip", "wheel", "--quiet", "-w", ".", str(ROOT))
    return next(wheels.work.glob("autotl-*.whl"))


def photos(folder: Path) -> None:
    """Class folders with pieces of two photographs: the guide's `photos/`."""
    from PIL import Image

    from autotl.testing.images import photographs

    for label, photograph in zip(("temple", "flower"), photographs(), strict=True):
        for i in range(20):
            file = folder / "photos" / label / f"{i:02}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            top, left = 18 * i, 25 * i
            Image.fromarray(photograph[top : top + 64, left : left + 64]).save(file)


@pytest.fixture(scope="module")
def followed(linked_packages: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment in which all blocks of the guide have run, from top to bottom."""
    reader = fresh(tmp_path_factory.mktemp("reader"), linked_packages)
    reader.run("pip", "install", "--quiet", str(wheel))
    photos(reader.work)
    modules: list[str] = []
    for number, block in enumerate(BLOCKS):
        if block["file"]:
            continue  # a file that `autotl plugin new` has written, compared below
        if block["language"] == "python":
            (reader.work / f"block_{number}.py").write_text(block["code"])
            modules.append(f"block_{number}")
        elif block["language"] == "sh":
            if modules:
                reader.run("python", "-c", RUN, *modules)  # in one process, which is quicker
            modules = []
            reader.run("sh", "-e", "-c", block["code"])
    reader.run("python", "-c", RUN, *modules)
    return reader


RUN = """
import sys, typer
from autotl.registry import Registry
sys.path.insert(0, '.')
for name in sys.argv[1:]:
    module = __import__(name)
    if not any(name.startswith('autotl_') for name in vars(module)):
        continue
    registry = Registry()
    registry.add('example', module, 'example', '1')
    assert registry.plugins[0].hooks
    if hasattr(module, 'autotl_register_commands'):
        cli = typer.Typer(callback=lambda: None)
        module.autotl_register_commands(cli)
        cli(['hello'], standalone_mode=False)
"""


@pytest.mark.slow
def test_every_block_of_the_guide_runs(followed: Environment) -> None:
    assert (followed.work / "studies" / "photos" / "model" / "model.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("block", [b for b in BLOCKS if b["file"]], ids=lambda b: b["file"])
def test_a_file_in_the_guide_equals_the_written_one(block: dict[str, str], followed: Environment) -> None:
    assert (followed.work / block["file"]).read_text() == block["code"]


def test_all_blocks_of_the_guide_are_run_or_compared() -> None:
    languages = {(b["language"], bool(b["file"])) for b in BLOCKS}
    assert languages == {("sh", False), ("python", False), ("python", True), ("toml", True), ("", False)}
    (output,) = [b["code"] for b in BLOCKS if not b["language"]]
    assert "violates" in output


@pytest.mark.slow
def test_the_new_plugins_are_listed_with_their_distributions(followed: Environment) -> None:
    plugins = {p["name"]: p for p in json.loads(followed.run("autotl", "plugins", "--json"))}
    assert (plugins["our_network"]["distribution"], plugins["our_network"]["version"]) == (
        "autotl-our-network",
        "0.1.0",
    )
    assert plugins["our_network"]["components"] == {"backbone": ["our_network"]}
    assert plugins["naive_bayes"]["components"] == {"head": ["naive_bayes"]}
    assert not [p["name"] for p in plugins.values() if p["broken"]]


@pytest.mark.slow
def test_a_second_environment_requires_the_plugins_of_a_model(
    followed: Environment, linked_packages: Path, wheel: Path, tmp_path: Path
) -> None:
    model = str(followed.work / "studies" / "photos" / "model")
    image = str(followed.work / "photos" / "flower" / "00.png")
    second = fresh(tmp_path, linked_packages)
    second.run("pip", "install", "--quiet", str(wheel))
    refused = second.run("autotl", "predict", model, image, fails=True)
    assert "needs the head 'naive_bayes' of plugin 'naive_bayes' (autotl-naive-bayes 0.1.0)" in refused
    assert "pip install autotl-naive-bayes==0.1.0" in refused
    followed.run("pip", "wheel", "--quiet", "-w", "wheels", "./autotl-our-network", "./autotl-naive-bayes")
    wheels = sorted(map(str, (followed.work / "wheels").glob("autotl_*.whl")))
    second.run("pip", "install", "--quiet", *(w for w in wheels if "naive_bayes" in w))
    refused = second.run("autotl", "predict", model, image, fails=True)
    assert "needs the backbone 'our_network' of plugin 'our_network' (autotl-our-network 0.1.0)" in refused
    second.run("pip", "install", "--quiet", *wheels)
    assert "flower" in second.run("autotl", "predict", model, image).splitlines()[-1]


@pytest.mark.slow
def test_a_new_plugin_of_each_other_component_passes_its_own_tests(
    linked_packages: Path, wheel: Path, tmp_path: Path
) -> None:
    author = fresh(tmp_path, linked_packages)
    author.run("pip", "install", "--quiet", str(wheel))
    components = [name for name in COMPONENTS if name not in ("backbone", "head")]  # the guide has these
    folders = [str(new_plugin(f"my_{name}", name, author.work)) for name in components]
    author.run("pip", "install", "--quiet", *folders)
    output = author.run("pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", *folders)
    assert re.search(r"^\d+ passed", output, re.MULTILINE), output
    assert "skipped" not in output
    listed = author.run("autotl", "plugins")
    assert all(f"my_{name}" in listed for name in components)


def test_the_table_has_every_hook_and_its_arguments() -> None:
    specs = {name: spec for name, spec in vars(hookspecs).items() if name.startswith("autotl_")}
    signatures = {f"{n}({', '.join(s.__code__.co_varnames[: s.__code__.co_argcount])})" for n, s in specs.items()}
    assert set(re.findall(r"^\| `(autotl_\w+\(.*?\))`", GUIDE, re.MULTILINE)) == signatures


def test_every_hook_has_an_example_that_runs() -> None:
    code = "".join(block["code"] for block in BLOCKS if block["language"] == "python")
    assert not [name for name in vars(hookspecs) if name.startswith("autotl_") and f"def {name}(" not in code]
