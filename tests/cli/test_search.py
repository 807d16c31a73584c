"""`autotl search`, `replay`, `dashboard`: flags and what is printed."""

import json
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import Result

from autotl.config import StudyConfig
from autotl.errors import AutotlError
from autotl.recipe import Recipe
from autotl.ui.reporters import JsonReporter, PlainReporter, QuietReporter

FLAGS: dict[str, tuple[list[str], Any]] = {
    "name": (["--name", "mine"], "mine"),
    "output": (["--output", "elsewhere"], Path("elsewhere")),
    "time": (["--time", "90s"], 90.0),
    "trials": (["--trials", "7"], 7),
    "devices": (["--devices", "cpu*2"], "cpu*2"),
    "backbones": (["--backbone", "a", "--backbone", "b"], ["a", "b"]),
    "strategies": (["--strategy", "fine_tuning"], ["fine_tuning"]),
    "heads": (["--head", "linear"], ["linear"]),
    "augmentations": (["--augmentation", "flip", "--augmentation", "crop"], ["flip", "crop"]),
    "losses": (["--loss", "cross_entropy"], ["cross_entropy"]),
    "levels": (["--levels", "last", "--levels", "stages"], ["last", "stages"]),
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


def searched_config(api: ModuleType) -> StudyConfig:
    """The config of the last search."""
    config = api.search.call_args.args[0]
    assert isinstance(config, StudyConfig)
    return config


@pytest.mark.parametrize("field", FLAGS)
def test_a_flag_of_search_reaches_the_config(field: str, run: Callable[..., Result], api: ModuleType) -> None:
    flags, value = FLAGS[field]
    result = run("search", "photos", *flags)
    assert result.exit_code == 0, result.stderr
    assert getattr(searched_config(api), field) == value


def test_every_field_of_a_study_has_a_flag() -> None:
    # data is the argument; flags for plugins stand before the command, since they hold for all commands
    assert set(FLAGS) | {"data", "without_plugins", "strict_plugins"} == set(StudyConfig.model_fields)


def test_flags_replace_values_of_a_study_file(run: Callable[..., Result], api: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "cells.toml").write_text('data = "elpv"\ntime = "5m"\nseed = 3\n')
    run("search", "cells.toml", "--time", "90s")
    config = searched_config(api)
    assert (config.data, config.name, config.time, config.seed) == ("elpv", "cells", 90, 3)
    run("search", "cells.toml", "--data", "other")
    assert searched_config(api).data == "other"


@pytest.mark.parametrize(
    ("flags", "reporter"), [([], PlainReporter), (["--quiet"], QuietReporter), (["--json"], JsonReporter)]
)
def test_the_progress_display_follows_the_flags(
    flags: list[str], reporter: type, run: Callable[..., Result], api: ModuleType
) -> None:
    run("search", "photos", *flags)
    assert type(api.search.call_args.kwargs["progress"]) is reporter


def test_extend_reaches_the_search(run: Callable[..., Result], api: ModuleType) -> None:
    run("search", "photos", "--extend")
    assert api.search.call_args.kwargs["extend"] is True


def test_join_joins_instead_of_searching(run: Callable[..., Result], api: ModuleType) -> None:
    run("search", "photos", "--join", "--devices", "cpu")
    assert api.join.call_args.args[0].devices == "cpu"
    api.search.assert_not_called()


@pytest.mark.parametrize("flags", [("--quiet", "--json"), ("--join", "--extend")])
def test_flags_that_exclude_each_other(flags: tuple[str, str], run: Callable[..., Result], api: ModuleType) -> None:
    result = run("search", "photos", *flags)
    assert result.exit_code == 2
    assert "exclude each other" in result.stderr
    api.search.assert_not_called()


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


def test_replay_prints_whether_the_score_is_the_same(run: Callable[..., Result], study: Path, api: ModuleType) -> None:
    api.replay.return_value = {
        "recorded": 0.875,
        "replayed": 0.875,
        "metric": "accuracy",
        "recipe": Recipe("resnet34", "fast_extraction", "knn", seed=1).to_dict(),
    }
    result = run("replay", "cells", 0)
    assert "resnet34 · fast_extraction · knn" in result.stdout
    assert "recorded 0.875, replayed 0.875: the same" in result.stdout


@pytest.mark.parametrize("command", [["replay", "cels", "0"], ["dashboard", "cels"]])
def test_a_missing_study_suggests_the_nearest(command: list[str], run: Callable[..., Result], study: Path) -> None:
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
            names = [summary["study_name"] for summary in json.load(answer)["study_summaries"]]
        server.shutdown()
    assert names == ["cells"]


def test_a_port_that_is_taken_is_an_error(study: Path) -> None:
    pytest.importorskip("optuna_dashboard")
    from autotl.study.dashboard import dashboard_server

    with dashboard_server(study, 0) as server, pytest.raises(AutotlError, match=f"Port {server.server_port} can't"):
        dashboard_server(study, server.server_port)


def test_a_missing_dashboard_is_an_error_with_the_command_to_install_it(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autotl.study.dashboard import dashboard_server

    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(AutotlError, match=r"pip install 'autotl\[dashboard\]'"):
        dashboard_server(study, 0)
