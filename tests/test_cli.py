"""The command line: what it parses, hands on, prints and how it exits. The Python API behind it has its own tests."""

import json
import os
import pkgutil
import subprocess
import sys
import threading
import urllib.request
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from autotl.cli import app
from autotl.config import StudyConfig
from autotl.errors import AutotlError, NoTrialSucceeded
from autotl.recipe import Recipe


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Result]]:
    """In this process, in an empty folder; what the command line sets in the process is taken back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUTOTL_PLUGINS", "")
    monkeypatch.setenv("COLUMNS", "120")
    with warnings.catch_warnings():
        yield lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Stands where the Python API is imported from."""
    module = ModuleType("autotl.api")
    monkeypatch.setitem(sys.modules, "autotl.api", module)
    monkeypatch.setattr("autotl.api", module, raising=False)
    return module


@pytest.fixture
def searched(api: ModuleType) -> list[tuple[StudyConfig, Any]]:
    """What `autotl.api.search` was called with."""
    calls: list[tuple[StudyConfig, Any]] = []
    api.search = lambda config, *, progress, extend: calls.append((config, progress))  # type: ignore[attr-defined]
    return calls


def python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=os.environ | environment, timeout=60
    )


def test_help_loads_neither_torch_nor_optuna_nor_sklearn() -> None:
    code = (
        "import sys\n"
        "from autotl.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'optuna', 'sklearn', 'timm', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    assert python("-c", code).stdout.splitlines()[-1] == "[]"


def test_the_version() -> None:
    import autotl

    assert python("-m", "autotl", "--version").stdout == f"autotl {autotl.__version__}\n"


def test_a_public_name_stays_itself_whatever_is_imported_later() -> None:
    """Python binds a package's name in its parent on import: a package of autotl's named like a function would win."""
    import autotl

    packages = {package.name for package in pkgutil.iter_modules(autotl.__path__)}
    assert not packages & set(autotl.__all__)


@pytest.mark.parametrize(
    "command", ["search", "predict", "evaluate", "replay", "dashboard", "backbones", "heads", "strategies", "plugins"]
)
def test_every_command_explains_itself(command: str, run: Callable[..., Result]) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_a_mistyped_command_suggests_the_nearest(run: Callable[..., Result]) -> None:
    result = run("serch", "photos")
    assert result.exit_code == 2
    assert "Did you mean 'search'?" in result.stderr


def test_what_a_user_can_mend_is_one_line_without_a_traceback() -> None:
    done = python("-m", "autotl", "search", "photos", "--time", "soon")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith('error: --time: time = "soon" won\'t do')
    assert done.stderr.count("\n") == 1


def test_debug_shows_the_traceback() -> None:
    done = python("-m", "autotl", "--debug", "search", "photos", "--time", "soon")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_an_error_brings_its_own_exit_code(run: Callable[..., Result], api: ModuleType) -> None:
    def search(config: StudyConfig, *, progress: Any, extend: bool) -> None:
        raise NoTrialSucceeded("all 3 trials failed")

    api.search = search  # type: ignore[attr-defined]
    result = run("search", "photos")
    assert result.exit_code == 3
    assert "error: all 3 trials failed" in result.stderr


def test_an_interrupt_exits_with_130(run: Callable[..., Result], api: ModuleType) -> None:
    def search(config: StudyConfig, *, progress: Any, extend: bool) -> None:
        raise KeyboardInterrupt

    api.search = search  # type: ignore[attr-defined]
    assert run("search", "photos").exit_code == 130


def test_a_bug_keeps_its_traceback(run: Callable[..., Result], api: ModuleType) -> None:
    def search(config: StudyConfig, *, progress: Any, extend: bool) -> None:
        raise ZeroDivisionError

    api.search = search  # type: ignore[attr-defined]
    assert isinstance(run("search", "photos").exception, ZeroDivisionError)


FLAGS: dict[str, tuple[list[str], Any]] = {
    "name": (["--name", "mine"], "mine"),
    "output": (["--output", "elsewhere"], Path("elsewhere")),
    "time": (["--time", "90s"], 90.0),
    "trials": (["--trials", "7"], 7),
    "devices": (["--devices", "cpu*2"], "cpu*2"),
    "backbones": (["--backbone", "a", "--backbone", "b"], ["a", "b"]),
    "strategies": (["--strategy", "fine_tuning"], ["fine_tuning"]),
    "heads": (["--head", "linear"], ["linear"]),
    "metric": (["--metric", "auroc"], "auroc"),
    "seed": (["--seed", "5"], 5),
    "test": (["--test", "none"], "none"),
    "strict_images": (["--strict-images"], True),
    "engine": (["--engine", "torch"], "torch"),
    "ensemble": (["--ensemble", "1"], 1),
    "cache": (["--cache", "store"], Path("store")),
    "cache_size": (["--cache-size", "1GB"], 10**9),
    "trial_timeout": (["--trial-timeout", "2m"], 120.0),
    "offline": (["--offline"], True),
}


@pytest.mark.parametrize("field", FLAGS)
def test_a_flag_of_search_reaches_the_config(
    field: str, run: Callable[..., Result], searched: list[tuple[StudyConfig, Any]]
) -> None:
    flags, value = FLAGS[field]
    result = run("search", "photos", *flags)
    assert result.exit_code == 0, result.stderr
    assert getattr(searched[0][0], field) == value


def test_every_field_of_a_study_has_a_flag() -> None:
    # data is the argument; plugins are chosen before the command, for all commands
    assert set(FLAGS) | {"data", "without_plugins", "strict_plugins"} == set(StudyConfig.model_fields)


def test_flags_go_over_a_study_file(
    run: Callable[..., Result], searched: list[tuple[StudyConfig, Any]], tmp_path: Path
) -> None:
    (tmp_path / "cells.toml").write_text('data = "elpv"\ntime = "5m"\nseed = 3\n')
    run("search", "cells.toml", "--time", "90s")
    config = searched[0][0]
    assert (config.data, config.name, config.time, config.seed) == ("elpv", "cells", 90, 3)
    run("search", "cells.toml", "--data", "other")
    assert searched[1][0].data == "other"


@pytest.mark.parametrize(
    ("flags", "kind"), [([], "PlainProgress"), (["--quiet"], "QuietProgress"), (["--json"], "JsonProgress")]
)
def test_the_progress_follows_the_flags(
    flags: list[str], kind: str, run: Callable[..., Result], searched: list[tuple[StudyConfig, Any]]
) -> None:
    run("search", "photos", *flags)
    assert type(searched[0][1]).__name__ == kind


def test_quiet_and_json_exclude_each_other(run: Callable[..., Result], searched: list[tuple[StudyConfig, Any]]) -> None:
    assert run("search", "photos", "--quiet", "--json").exit_code == 2


def test_a_plugin_that_is_left_out_takes_no_part(run: Callable[..., Result]) -> None:
    listed = run("-p", "no:heads.sklearn", "plugins", "--json")
    assert "heads.sklearn" not in [plugin["name"] for plugin in json.loads(listed.stdout)]


def test_leaving_out_is_spelled_with_no(run: Callable[..., Result]) -> None:
    result = run("-p", "heads.sklearn", "plugins")
    assert result.exit_code == 2
    assert "no:NAME" in result.stderr


def test_plugins_lists_what_each_adds(run: Callable[..., Result]) -> None:
    adds = {plugin["name"]: plugin["adds"] for plugin in json.loads(run("plugins", "--json").stdout)}
    assert adds["metrics"]["metric"][0] == "accuracy"


@pytest.mark.parametrize(
    ("command", "said"),
    [("heads", "rbf_svm"), ("strategies", "fine_tuning"), ("plugins", "heads.sklearn"), ("backbones", "resnet34")],
)
def test_the_parts_are_listed(command: str, said: str, run: Callable[..., Result]) -> None:
    assert said in run(command).stdout


def test_a_backbone_is_shown_with_its_blocks(run: Callable[..., Result]) -> None:
    shown = run("backbones", "show", "test_resnet.r160_in1k")
    assert shown.exit_code == 0, shown.stderr
    assert "160 px" in shown.stdout
    assert "layer4" in shown.stdout


PLUGIN = """
from autotl import hookimpl
{body}
"""


@pytest.fixture
def installed(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Installs a plugin of that body, for a process with the environment that is returned."""

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


def test_a_plugin_can_not_take_a_built_in_command(installed: Callable[[str], dict[str, str]]) -> None:
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


class TwoClasses:
    """Reads names instead of pixels: what the command line does with a model is looked at here."""

    classes = ("cat", "dog")

    def stream(
        self, paths: Iterable[Path], on_skip: Callable[[Path, str], None], many: bool
    ) -> Iterator[tuple[Path, np.ndarray]]:
        for path in paths:
            if "broken" in path.name:
                on_skip(path, "it ends too early")
            else:
                yield path, np.array([0.25, 0.75])


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of a model, which loads as TwoClasses, beside photos/."""
    module = ModuleType("autotl.model.image_model")
    module.load, module.FEW = lambda path, device: TwoClasses(), 256  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "autotl.model.image_model", module)
    (tmp_path / "photos").mkdir()
    for name in ("1.png", "2.png", "broken.png"):
        (tmp_path / "photos" / name).touch()
    folder = tmp_path / "studies" / "pets" / "model"
    folder.mkdir(parents=True)
    (folder / "model.json").touch()
    return folder


def test_predict_prints_a_line_an_image(run: Callable[..., Result], model: Path) -> None:
    result = run("predict", "pets", "photos", "--top", "1")
    assert result.stdout.splitlines() == ["photos/1.png  dog 0.750", "photos/2.png  dog 0.750"]


def test_predict_names_what_it_skips_below_a_folder_and_succeeds(run: Callable[..., Result], model: Path) -> None:
    result = run("predict", model, "photos")
    assert result.exit_code == 0
    assert "skipped photos/broken.png: it ends too early" in result.stderr


def test_predict_fails_where_a_named_file_was_skipped(run: Callable[..., Result], model: Path) -> None:
    assert run("predict", model, "photos/1.png", "photos/broken.png").exit_code == 1


def test_predict_writes_a_csv(run: Callable[..., Result], model: Path, tmp_path: Path) -> None:
    run("predict", model, "photos", "--csv", "out.csv")
    assert (tmp_path / "out.csv").read_text().splitlines() == [
        "path,label,probability,label2,probability2",
        "photos/1.png,dog,0.750000,cat,0.250000",
        "photos/2.png,dog,0.750000,cat,0.250000",
    ]


def test_evaluate_prints_scores_classes_and_confusions(
    run: Callable[..., Result], model: Path, api: ModuleType
) -> None:
    api.evaluate = lambda path, data, part, device: {  # type: ignore[attr-defined]
        "part": "all",
        "scores": {"accuracy": 0.875, "n": 8},
        "classes": ["cat", "dog"],
        "per_class": [
            {"class": "cat", "precision": 1.0, "recall": 0.75, "f1": 0.857, "n": 4},
            {"class": "dog", "precision": 0.8, "recall": 1.0, "f1": 0.889, "n": 4},
        ],
        "confusion": [[3, 1], [0, 4]],
    }
    lines = [line.split() for line in run("evaluate", "pets", "photos").stdout.splitlines()]
    assert ["accuracy", "0.8750"] in lines
    assert ["cat", "1.000", "0.750", "0.857", "4"] in lines
    assert ["(1)", "cat", "3", "1"] in lines


def test_many_classes_show_their_worst_confusions(run: Callable[..., Result], model: Path, api: ModuleType) -> None:
    classes = [f"kind{i}" for i in range(60)]
    matrix = np.diag(np.full(60, 9))
    matrix[7, 12] = 5
    rows = [{"class": name, "recall": 1.0, "n": 9} for name in classes]
    api.evaluate = lambda path, data, part, device: {  # type: ignore[attr-defined]
        "part": "all",
        "scores": {"accuracy": 0.9, "n": 545},
        "classes": classes,
        "per_class": rows,
        "confusion": matrix.tolist(),
    }
    result = run("evaluate", "pets", "photos")
    assert ["5", "kind7", "kind12"] in [line.split() for line in result.stdout.splitlines()]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A real study of one finished trial, studies/cells."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    folder = tmp_path / "studies" / "cells"
    folder.mkdir(parents=True)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    optuna.create_study(storage=storage, study_name="cells").optimize(lambda trial: trial.suggest_float("x", 0, 1), 1)
    return folder


def test_replay_says_whether_the_score_is_the_same(run: Callable[..., Result], study: Path, api: ModuleType) -> None:
    api.replay = lambda folder, number: {  # type: ignore[attr-defined]
        "recorded": 0.875,
        "replayed": 0.875,
        "metric": "accuracy",
        "recipe": Recipe("resnet34", "fast_extraction", "knn", seed=1).to_dict(),
    }
    result = run("replay", "cells", 0)
    assert "resnet34 · fast_extraction · knn" in result.stdout
    assert "recorded 0.875, replayed 0.875: the same" in result.stdout


@pytest.mark.parametrize("command", [["replay", "cels", "0"], ["dashboard", "cels"]])
def test_a_study_that_is_not_there_suggests_the_nearest(
    command: list[str], run: Callable[..., Result], study: Path
) -> None:
    result = run(*command)
    assert result.exit_code == 1
    assert "Did you mean 'cells'" in result.stderr


def test_the_dashboard_serves_the_study_on_loopback(study: Path) -> None:
    pytest.importorskip("optuna_dashboard")
    from autotl.study.dashboard import dashboard_server

    with dashboard_server(study, 0) as server:
        assert server.server_address[0] == "127.0.0.1"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/api/studies", timeout=20) as answer:
            names = [found["study_name"] for found in json.load(answer)["study_summaries"]]
        server.shutdown()
    assert names == ["cells"]


def test_a_taken_port_is_told(study: Path) -> None:
    pytest.importorskip("optuna_dashboard")
    from autotl.study.dashboard import dashboard_server

    with dashboard_server(study, 0) as server, pytest.raises(AutotlError, match=f"Port {server.server_port} can't"):
        dashboard_server(study, server.server_port)


def test_a_missing_dashboard_says_what_to_install(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autotl.study.dashboard import dashboard_server

    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(AutotlError, match=r"pip install 'autotl\[dashboard\]'"):
        dashboard_server(study, 0)
