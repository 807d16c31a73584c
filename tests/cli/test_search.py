"""`autotl search`, `replay`, `dashboard`: flags and what is printed."""

import http.client
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import Result

from autotl.config import StudyConfig
from autotl.errors import AutotlError
from autotl.folders import claim_study
from autotl.recipe import Recipe
from autotl.ui.reporters import JsonReporter, PlainReporter, QuietReporter

FLAGS: dict[str, tuple[list[str], Any]] = {
    "name": (["--name", "mine"], "mine"),
    "output": (["--output", "elsewhere"], Path("elsewhere")),
    "time": (["--time", "90s"], 90.0),
    "trials": (["--trials", "7"], 7),
    "devices": (["--devices", "cpu*2"], "cpu*2"),
    "force": (["--force"], True),
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
    "align": (["--align"], True),
    "pool": (["--pool", "file:///nfs/pool"], "file:///nfs/pool"),
    "storage": (["--storage", "postgresql+psycopg://me@host/studies"], "postgresql+psycopg://me@host/studies"),
    "engine": (["--engine", "torch"], "torch"),
    "ensemble": (["--ensemble", "1"], 1),
    "joined": (["--joined", "1"], 1),
    "cache": (["--cache", "store"], Path("store")),
    "cache_size": (["--cache-size", "1GB"], 10**9),
    "trial_timeout": (["--trial-timeout", "2m"], 120.0),
    "offline": (["--offline"], True),
    "download": (["--download", "always"], "always"),
    "max_latency": (["--max-latency", "20ms"], 20.0),
    "max_size": (["--max-size", "50MB"], 50 * 10**6),
    "max_parameters": (["--max-parameters", "10M"], 10**7),
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
    claim_study(folder)
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


@pytest.fixture
def dashboard(study: Path) -> Iterator[Callable[..., tuple[int, str, dict[str, str]]]]:
    """Sends a request to a running dashboard: status, text and headers of the answer. `server` is its server."""
    pytest.importorskip("optuna_dashboard")
    from autotl.study.dashboard import dashboard_server

    with ExitStack() as servers:

        def ask(path: str, method: str = "GET", *, read_only: bool = False, **headers: str) -> Any:
            if read_only not in started:
                server = servers.enter_context(dashboard_server(study, 0, read_only=read_only))
                threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
                servers.callback(server.shutdown)
                started[read_only] = server
            server = started[read_only]
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
            fields = {key: value.format(server=server) for key, value in headers.items()}
            connection.request(method, path.format(server=server), headers=fields)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), dict(answer.getheaders())

        started: dict[bool, Any] = {}
        yield ask


COOKIE = "autotl-{server.server_port}={server.token}"


def test_the_dashboard_serves_the_study_to_the_address_with_its_token(dashboard: Callable[..., Any]) -> None:
    status, _, headers = dashboard("/dashboard?token={server.token}&a=b")
    assert (status, headers["Location"]) == (303, "/dashboard?a=b")
    assert "HttpOnly; SameSite=Strict" in headers["Set-Cookie"]
    status, page, _ = dashboard("/api/studies", Cookie=headers["Set-Cookie"].split(";")[0])
    assert [summary["study_name"] for summary in json.loads(page)["study_summaries"]] == ["cells"]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Cookie": "autotl-{server.server_port}=guessed"},
        {"Cookie": COOKIE, "Host": "evil.example"},
        {"Cookie": COOKIE, "Host": "127.0.0.1.evil.example:{server.server_port}"},
        {"Cookie": COOKIE, "Host": "[", "Origin": "null"},
        {"Cookie": COOKIE, "Origin": "http://evil.example"},
        {"Cookie": COOKIE, "Origin": "http://localhost:1"},
    ],
)
def test_the_dashboard_refuses_other_hosts_other_pages_and_requests_without_its_token(
    method: str, headers: dict[str, str], dashboard: Callable[..., Any]
) -> None:
    assert dashboard("/api/studies/0", method, **headers)[0] == 403
    assert dashboard("/api/studies", Cookie=COOKIE)[0] == 200  # the study is still there


def test_the_token_does_not_lead_to_another_host(dashboard: Callable[..., Any]) -> None:
    assert dashboard("//evil.example/?token={server.token}")[2]["Location"] == "/evil.example/"


def test_a_dashboard_that_reads_only_changes_nothing(dashboard: Callable[..., Any]) -> None:
    assert dashboard("/api/studies", read_only=True, Cookie=COOKIE)[0] == 200
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert dashboard("/api/studies/0", method, read_only=True, Cookie=COOKIE)[0] == 405
    assert json.loads(dashboard("/api/studies", read_only=True, Cookie=COOKIE)[1])["study_summaries"]


def test_the_dashboard_serves_the_report_in_a_sandbox(dashboard: Callable[..., Any], study: Path) -> None:
    status, text, _ = dashboard("/report", Cookie=COOKIE)
    assert (status, text) == (404, "There is no report here. Write it: autotl report NAME\n")
    (study / "report.html").write_text("<p>the report</p>")
    for path in ("/report", "/report/", "/report/cells"):
        status, text, headers = dashboard(path, Cookie=COOKIE)
        assert (status, text) == (200, "<p>the report</p>")
        assert headers["Content-Security-Policy"].startswith("sandbox allow-scripts; default-src 'none'")
    assert dashboard("/report/cells")[0] == 403
    assert dashboard("/artifacts/0/abc", Cookie=COOKIE)[2]["Content-Security-Policy"].startswith("sandbox")


def test_all_studies_side_by_side_can_only_be_read(study: Path) -> None:
    pytest.importorskip("optuna_dashboard")
    from autotl.study.dashboard import dashboard_server

    lines: list[str] = []
    broken = study.parent / "broken"
    broken.mkdir(exist_ok=True)
    (broken / "journal.log").write_text("no journal\n")
    with dashboard_server([broken, study], 0, log=lines.append) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        cookie = {"Cookie": COOKIE.format(server=server)}
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
        connection.request("GET", "/api/studies", headers=cookie)
        names = [summary["study_name"] for summary in json.loads(connection.getresponse().read())["study_summaries"]]
        connection.request("DELETE", "/api/studies/0", headers=cookie)
        assert connection.getresponse().status == 405
        server.shutdown()
    assert names == ["cells"]
    assert lines[0].startswith("broken is left out: ")


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
