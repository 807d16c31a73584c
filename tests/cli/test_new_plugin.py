"""`autotl plugin new`: what it writes, and which names it refuses. That it installs and passes: plugins/tests."""

import subprocess
import sys

import pytest

from autotl.cli.scaffold import COMPONENTS, new_plugin
from autotl.errors import AutotlError


@pytest.mark.parametrize("kind", COMPONENTS)
def test_a_package_has_a_project_a_page_a_module_and_tests(kind, tmp_path):
    folder = new_plugin(f"Our-{kind}", kind, tmp_path)
    assert folder == tmp_path / f"autotl-our-{kind}"
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == ["README.md", f"autotl_our_{kind}/__init__.py", "pyproject.toml", f"tests/test_our_{kind}.py"]
    text = "".join(path.read_text() for path in folder.rglob("*") if path.is_file())
    assert "$" not in text


@pytest.mark.parametrize("kind", COMPONENTS)
def test_what_it_writes_is_linted_as_our_own(kind, tmp_path):
    new_plugin("our_part", kind, tmp_path)
    (tmp_path / "ruff.toml").write_text('line-length = 120\n[lint]\nselect = ["E", "F", "W", "I", "B", "UP", "SIM"]\n')
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command, tmp_path], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("our_cells", "haed", r"no kind of plugin 'haed'\. Did you mean 'head'\?"),
        ("9 lives", "head", "can't be named '9 lives'.*Try: our_head"),
        ("../elsewhere", "head", "can't be named"),
        ("class", "head", "Python has that word. Try: our_class"),
        ("linear", "head", "'linear' is taken: plugin 'heads.dense' adds it. Choose another, our_linear"),
        ("elpv", "head", "'elpv' is taken: a plugin is named so"),
    ],
)
def test_a_name_that_will_not_do_is_refused(name, kind, words, tmp_path):
    with pytest.raises(AutotlError, match=words):
        new_plugin(name, kind, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    new_plugin("our_cells", "head", tmp_path)
    with pytest.raises(AutotlError, match="autotl-our-cells is there already"):
        new_plugin("our_cells", "metric", tmp_path)
