"""The program `autotl`: help, errors, exit codes, and commands of plugins."""

import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import Result

from autotl.errors import AutotlError, NoTrialSucceeded


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=os.environ | environment, timeout=60
    )


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from autotl.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'optuna', 'sklearn', 'timm', 'numpy', 'pydantic', 'scipy', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert python("-c", code).stdout.splitlines()[-1] == "[]"


def test_the_version() -> None:
    import autotl

    assert python("-m", "autotl", "--version").stdout == f"autotl {autotl.__version__}\n"


def test_no_submodule_is_named_like_a_public_name() -> None:
    """Python binds a submodule's name in its package on import, which would replace the function of that name."""
    import autotl

    modules = {module.name for module in pkgutil.iter_modules(autotl.__path__)}
    assert not modules & set(autotl.__all__)


@pytest.mark.parametrize(
    "command", ["search", "predict", "evaluate", "replay", "dashboard", "backbones", "heads", "strategies", "plugins"]
)
def test_every_command_has_help(command: str, run: Callable[..., Result]) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_a_mistyped_command_suggests_the_nearest(run: Callable[..., Result]) -> None:
    result = run("serch", "photos")
    assert result.exit_code == 2
    assert "Did you mean 'search', 'serve'?" in result.stderr


def test_an_error_of_the_user_is_one_line_without_a_traceback() -> None:
    done = python("-m", "autotl", "search", "photos", "--time", "soon")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith('error: --time: time = "soon" is invalid')
    assert done.stderr.count("\n") == 1


def test_debug_shows_the_traceback() -> None:
    done = python("-m", "autotl", "--debug", "search", "photos", "--time", "soon")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_terminal_that_cannot_encode_a_name_shows_escapes() -> None:
    done = python("-m", "autotl", "heads", "--plugin", "x", "--sort", "naïve", PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert r"na\xefve" in done.stderr
    done = python("-m", "autotl", "search", "mañana.toml", PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    assert r"error: There is no study file ma\xf1ana.toml" in done.stderr


@pytest.mark.parametrize(
    ("error", "exit_code"), [(NoTrialSucceeded("all 3 trials failed"), 3), (AutotlError("no images"), 1)]
)
def test_each_error_has_an_exit_code(
    error: AutotlError, exit_code: int, run: Callable[..., Result], api: ModuleType
) -> None:
    api.search.side_effect = error
    result = run("search", "photos")
    assert result.exit_code == exit_code
    assert f"error: {error}" in result.stderr


def test_an_interrupt_exits_with_130(run: Callable[..., Result], api: ModuleType) -> None:
    api.search.side_effect = KeyboardInterrupt
    assert run("search", "photos").exit_code == 130


def test_a_bug_keeps_its_traceback(run: Callable[..., Result], api: ModuleType) -> None:
    api.search.side_effect = ZeroDivisionError
    assert isinstance(run("search", "photos").exception, ZeroDivisionError)


PLUGIN = """
from autotl import hookimpl
{body}
"""


@pytest.fixture
def installed(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Installs a plugin with this body; returns the environment for processes that have it."""

    def install(body: str) -> dict[str, str]:
        (tmp_path / "greeting.py").write_text(PLUGIN.format(body=body))
        info = tmp_path / "greeting-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[autotl]\ngreeting = greeting\n")
        return {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}

    return install


HELLO = """
@hookimpl
def autotl_register_commands(cli):
    @cli.command()
    def hello():
        "Greet."
        print("hello from a plugin")
"""


def test_a_plugin_adds_a_command(installed: Callable[[str], dict[str, str]]) -> None:
    assert python("-m", "autotl", "hello", **installed(HELLO)).stdout == "hello from a plugin\n"


def test_a_plugins_command_is_listed_and_suggested(installed: Callable[[str], dict[str, str]]) -> None:
    environment = installed(HELLO)
    assert "Greet." in python("-m", "autotl", "--help", **environment).stdout
    assert "Did you mean 'hello'" in python("-m", "autotl", "helo", **environment).stderr


def test_a_plugin_cannot_replace_a_built_in_command(installed: Callable[[str], dict[str, str]]) -> None:
    done = python("-m", "autotl", "--help", **installed(HELLO.replace("hello():", "search():")))
    assert done.returncode == 0
    assert "'search' is taken twice: by autotl itself and by plugin 'greeting'" in done.stderr
    assert "Greet." not in done.stdout


def test_a_broken_plugin_costs_one_line(installed: Callable[[str], dict[str, str]]) -> None:
    done = python("-m", "autotl", "--help", **installed("raise OSError('no licence file')"))
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if "OSError: no licence file" in line]


def test_strict_plugins_stops_at_a_broken_one(installed: Callable[[str], dict[str, str]]) -> None:
    done = python("-m", "autotl", "--strict-plugins", "heads", **installed("raise OSError('no licence file')"))
    assert done.returncode == 1
    assert "OSError: no licence file (--strict-plugins)" in done.stderr


def test_python_m_autotl_imports_nothing_from_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise SystemExit(7)")
    command = [sys.executable, "-m", "autotl", "--version"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0


NOISY = """import os
import autotl
print("loading")
os.write(1, b"from C\\n")
@autotl.hookimpl
def autotl_register_heads(register): print("registering")
"""


def test_json_is_alone_on_stdout_whatever_a_plugin_prints(install_plugin: Callable[..., None]) -> None:
    install_plugin("noisy", NOISY)
    for command in (["heads"], ["--strict-plugins", "plugins"]):
        done = python("-m", "autotl", *command, "--json")
        assert json.loads(done.stdout)
        assert "loading" in done.stderr
        assert "from C" in done.stderr


def test_json_is_written_into_a_file_while_messages_go_to_a_terminal(tmp_path: Path) -> None:
    """A file can be sought in, and a terminal, or a pipe, can't."""
    file = tmp_path / "heads.json"
    with file.open("w") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "autotl", "heads", "--json"], stdout=stdout, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(file.read_text())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a file that is always full")  # noqa: PTH110
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_full_disk_that_output_is_sent_to_is_an_error_in_one_line(options: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "autotl", "heads", *options],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("error: The output can't be written: No space left on device.")
    assert len(done.stderr.splitlines()) == 1


def test_a_current_folder_that_was_removed_is_an_error_in_one_line(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    result = run("search", "photos")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: The current folder was removed")


@pytest.mark.parametrize("columns", ["0", ""])
def test_a_terminal_of_no_width_shows_tables(columns: str) -> None:
    assert "ridge" in python("-m", "autotl", "heads", COLUMNS=columns).stdout


def test_a_file_that_cannot_be_used_is_an_error_without_traceback(run: Callable[..., Result], api: ModuleType) -> None:
    api.search.side_effect = PermissionError(13, "Permission denied", "/there")
    result = run("search", "photos")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: /there can't be used: Permission denied")


def test_errors_move_no_cursor(run: Callable[..., Result], api: ModuleType) -> None:
    api.search.side_effect = AutotlError("class \x1b[2J\r is bad")
    assert r"class \x1b[2J\r is bad" in run("search", "photos").stderr
