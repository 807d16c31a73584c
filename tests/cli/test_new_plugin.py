"""`autotl plugin new`: the files it writes and the names it refuses. plugins/tests installs and tests the packages."""

import importlib
import subprocess
import sys

import pytest

from autotl.cli.scaffold import COMPONENTS, new_plugin
from autotl.errors import AutotlError
from autotl.registry import Registry
from autotl.testing import CHECKS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_package_has_a_project_a_readme_a_module_and_tests(component, tmp_path):
    folder = new_plugin(f"Our-{component}", component, tmp_path)
    assert folder == tmp_path / f"autotl-our-{component}"
    written = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert written == [
        "README.md",
        f"autotl_our_{component}/__init__.py",
        "pyproject.toml",
        f"tests/test_our_{component}.py",
    ]
    text = "".join(path.read_text() for path in folder.rglob("*") if path.is_file())
    assert "$" not in text


@pytest.mark.parametrize("component", COMPONENTS)
def test_its_files_pass_our_lint(component, tmp_path):
    new_plugin("our_own", component, tmp_path)
    (tmp_path / "ruff.toml").write_text('line-length = 120\n[lint]\nselect = ["E", "F", "W", "I", "B", "UP", "SIM"]\n')
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command, tmp_path], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "component", "message"),
    [
        ("our_cells", "haed", r"no component 'haed'\. Did you mean 'head'\?"),
        ("9 lives", "head", "'9 lives' is not a name for a plugin.*Try: our_head"),
        ("../elsewhere", "head", "is not a name for a plugin"),
        ("class", "head", "it is a keyword of Python. Try: our_class"),
        ("linear", "head", "'linear' is taken: plugin 'heads.dense' adds it. Choose another, for example our_linear"),
        ("elpv", "head", "'elpv' is taken: a plugin has it"),
    ],
)
def test_an_invalid_or_taken_name_is_refused(name, component, message, tmp_path):
    with pytest.raises(AutotlError, match=message):
        new_plugin(name, component, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_not_overwritten(tmp_path):
    new_plugin("our_cells", "head", tmp_path)
    with pytest.raises(AutotlError, match="autotl-our-cells exists"):
        new_plugin("our_cells", "metric", tmp_path)


@pytest.mark.parametrize("component", [name for name in COMPONENTS if name not in ("backbone", "dataset", "strategy")])
def test_what_it_adds_passes_the_checks_of_its_component(component, tmp_path, monkeypatch):
    new_plugin("our_own", component, tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "autotl-our-own"))
    monkeypatch.delitem(sys.modules, "autotl_our_own", raising=False)
    registry = Registry()
    registry.add("our_own", importlib.import_module("autotl_our_own"), "autotl-our-own", "0.1.0")
    assert registry.plugins[0].components == {component: ["our_own"]}
    added = {
        **registry.augmentations,
        **registry.losses,
        **registry.levels,
        **registry.heads,
        **registry.engines,
        **registry.metrics,
        **registry.scores,
        **registry.callbacks,
        **registry.exporters,
        **registry.report_sections,
    }["our_own"]
    for check in CHECKS[component]:
        check(added)
