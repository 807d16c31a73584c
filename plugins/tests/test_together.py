"""The plugins of this folder, installed together as pip installs them; and with broken plugins beside them."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from autotl_elpv import Elpv, four_classes

PLUGINS = Path(__file__).resolve().parents[1]
PROJECTS = sorted(PLUGINS.glob("autotl-*/pyproject.toml"))

HEAD = """
import autotl

class Third(autotl.Head):
    name, type = {name!r}, "estimator"
    def suggest(self, space):
        return {{}}
    def build(self, params, num_features, num_classes, seed):
        from sklearn.naive_bayes import GaussianNB
        return GaussianNB()

@autotl.hookimpl
def autotl_register_heads(register):
    register(Third())
"""
BROKEN = {
    "import_error": "import a_module_that_is_nowhere",
    "syntax_error": "def broken(:",
    "wrong_argument": "import autotl\n@autotl.hookimpl\ndef autotl_register_heads(registry):\n    pass\n",
    "unknown_hook": "import autotl\n@autotl.hookimpl\ndef autotl_register_hats(register):\n    pass\n",
    "duplicate_name": HEAD.format(name="linear"),
    "raises_in_register": HEAD.format(name="late") + "    raise RuntimeError('no luck')\n",
    "registers_garbage": HEAD.format(name="half") + "    register('a head, honestly')\n",
    "raises_in_event": "import autotl\n@autotl.hookimpl\ndef autotl_search_finished(model):\n    1 / 0\n",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the metadata of all plugins, and links to their modules."""
    folder = tmp_path_factory.mktemp("site")
    for file in PROJECTS:
        project = tomllib.loads(file.read_text())["project"]
        for name, module in project["entry-points"]["autotl"].items():
            (folder / module).symlink_to(file.parent / module)
            describe(folder, project["name"], project["version"], f"{name} = {module}")
    return folder


def describe(folder: Path, distribution: str, version: str, entry: str) -> None:
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[autotl]\n{entry}\n")


def python(*arguments: str, site: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(site), "COLUMNS": "200"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)


def test_importing_autotl_is_quick_and_loads_no_torch(site: Path) -> None:
    code = (
        "import sys, time; began = time.perf_counter(); import autotl\n"
        "print(time.perf_counter() - began, sorted({'torch', 'numpy', 'timm', 'sklearn'} & set(sys.modules)))"
    )
    runs = [python("-c", code, site=site).stdout.partition(" ") for _ in range(3)]
    assert min(float(seconds) for seconds, _, _ in runs) < 0.3
    assert {loaded.strip() for _, _, loaded in runs} == {"[]"}


def test_all_register_together_and_import_nothing_heavy(site: Path) -> None:
    code = (
        "import json, sys; from autotl.registry import load_registry\n"
        "registry = load_registry(strict=True)\n"
        "heavy = ('torch', 'timm', 'torchvision', 'transformers', 'sklearn', 'lightgbm', 'xgboost', 'mlflow')\n"
        "print(json.dumps([[p.distribution for p in registry.plugins], [m for m in heavy if m in sys.modules]]))"
    )
    done = python("-c", code, site=site)
    assert done.returncode == 0, done.stderr
    distributions, loaded = json.loads(done.stdout)
    assert {file.parent.name for file in PROJECTS} <= set(distributions)
    assert loaded == []


def test_a_trace_shows_the_import_of_each(site: Path) -> None:
    code = "import os; os.environ['AUTOTL_TRACE_PLUGINS'] = '1'\nfrom autotl.registry import load_registry as l; l()"
    lines = python("-c", code, site=site).stderr.splitlines()
    imported = [line for line in lines if re.match(r"trace +\d+\.\d\d ms  \w+  import autotl_", line)]
    assert len(imported) == len(PROJECTS)


@pytest.fixture(scope="module")
def eight_broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("broken")
    for name, code in BROKEN.items():
        (folder / f"{name}.py").write_text(code)
        describe(folder, name, "1.0", f"{name} = {name}")
    return folder


def test_eight_broken_plugins_cost_a_line_each(eight_broken: Path) -> None:
    done = python("-m", "autotl", "heads", site=eight_broken)
    assert done.returncode == 0
    assert "logistic_regression" in done.stdout
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    # the eighth fails when a search ends: tests/coordinator/test_plugins.py
    causes = {
        "duplicate_name": "AutotlError: The head name 'linear' is taken twice: by plugin 'heads.dense' of autotl",
        "import_error": "ModuleNotFoundError: No module named 'a_module_that_is_nowhere'",
        "raises_in_register": "RuntimeError: no luck",
        "registers_garbage": "TypeError: register() takes a Head, got 'a head, honestly'",
        "syntax_error": "SyntaxError: invalid syntax (syntax_error.py, line 1)",
        "unknown_hook": "PluginValidationError: unknown hook 'autotl_register_hats'",
        "wrong_argument": "PluginValidationError: Plugin 'wrong_argument' for hook 'autotl_register_heads'",
    }
    for line, (name, cause) in zip(lines, causes.items(), strict=True):
        assert line.startswith(f"warning: plugin '{name}' of {name} 1.0 is disabled: {cause}")


@pytest.mark.slow
def test_a_search_with_all_eight_has_a_line_for_each_and_succeeds(eight_broken: Path, tmp_path: Path) -> None:
    left = {"functional": 20, "defective": 20}
    for image in Elpv("elpv", four_classes).images("elpv"):
        if left.get(image.label):
            left[image.label] -= 1
            folder = tmp_path / "cells" / image.label
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(image.path, folder)
    done = python(
        "-m", "autotl", "search", str(tmp_path / "cells"), "--trials", "2", "--devices", "cpu*1", "--engine", "torch",
        "--backbone", "efficientnet_lite0", "--strategy", "fast_extraction", "--head", "logistic_regression",
        "--output", str(tmp_path / "studies"), "--cache", str(tmp_path / "cache"),
        site=eight_broken,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    output = done.stdout + done.stderr
    for name in BROKEN:
        (line,) = [line for line in output.splitlines() if f"plugin '{name}'" in line]
        assert line.startswith("warning: ") or "failed in autotl_search_finished: ZeroDivisionError" in line
    trials = json.loads((tmp_path / "studies" / "cells" / "result.json").read_text())["trials"]
    assert (trials["failed"], sum(trials.values())) == (0, 2)


def test_the_list_of_plugins_has_each_cause_once(eight_broken: Path) -> None:
    done = python("-m", "autotl", "plugins", site=eight_broken)
    assert (done.returncode, done.stderr) == (0, "")
    assert "  disabled: SyntaxError: invalid syntax" in done.stdout
    assert "hooks  autotl_search_finished" in done.stdout


@pytest.mark.parametrize("command", [["plugins", "--json"], ["heads"]])
def test_strict_stops_at_the_first_broken_plugin(command: list[str], eight_broken: Path) -> None:
    done = python("-m", "autotl", "--strict-plugins", *command, site=eight_broken)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: plugin 'duplicate_name' of duplicate_name 1.0 is disabled: ")
    assert line.endswith("(--strict-plugins)")
