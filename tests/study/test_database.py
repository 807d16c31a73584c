"""A study in a real PostgreSQL server, which each run starts for itself."""

import os
import shutil
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest

from autotl.clusters import Site
from autotl.config import StudyConfig, without_password
from autotl.coordinator.setup import _use_database
from autotl.errors import AutotlError, HostUnfit
from autotl.study import database
from autotl.study.kept_database import DatabaseLost, keep_database, kept_database
from autotl.study.study import StudyDeleted, load_study, open_study, take_trial
from autotl.trial.study_link import StudyLink

sys.path.insert(0, str(Path(__file__).parent))
from postgres import PASSWORD, Server, binaries


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if not (found := binaries()):
        pytest.skip("PostgreSQL isn't installed")
    folder = Path("/tmp") / f"autotl-postgres-{os.getpid()}"  # the path of a socket is short, and others may enter /tmp
    server = Server(found, folder)
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def kept(server, tmp_path, monkeypatch):
    """A study's folder that says that the study is in the database."""
    monkeypatch.setenv("AUTOTL_STORAGE", server.whole_url)
    folder = tmp_path / f"study-{time.monotonic_ns()}"
    folder.mkdir()
    keep_database(folder, server.url, folder.name)
    return folder


@pytest.mark.slow
def test_a_study_in_a_database_is_opened_by_its_folder(kept):
    study = open_study(kept, kept.name, "maximize", 0)
    trial = study.ask()
    trial.suggest_float("c", 0.0, 1.0)
    trial.set_user_attr("description", "a linear head")
    study.tell(trial, 0.5)
    again = load_study(kept)
    assert [t.value for t in again.trials] == [0.5]
    assert again.trials[0].user_attrs["description"] == "a linear head"
    assert not (kept / "journal.log").exists()


def test_another_process_runs_a_trial_that_this_one_has_begun(kept):
    study = open_study(kept, kept.name, "maximize", 0)
    study.enqueue_trial({"c": 0.5})
    number = study.ask().number
    trial = take_trial(load_study(kept), number)
    assert trial.suggest_float("c", 0.0, 1.0) == 0.5
    trial.report(0.25, 1)


def test_two_studies_of_one_database_keep_apart(kept, server):
    other = kept.parent / "other"
    other.mkdir()
    keep_database(other, server.url, f"{kept.name}-other")
    open_study(kept, kept.name, "maximize", 0).add_trial(optuna.trial.create_trial(value=0.25))
    open_study(other, f"{kept.name}-other", "maximize", 0)
    assert [len(load_study(folder).trials) for folder in (kept, other)] == [1, 0]


def test_a_call_waits_for_a_server_that_restarts(kept, server):
    study = open_study(kept, kept.name, "maximize", 0)
    trial = study.ask()
    server.stop()
    threading.Timer(1.0, server.start).start()
    began = time.monotonic()
    study.tell(trial, 0.75)
    assert time.monotonic() - began > 0.5
    assert [t.value for t in load_study(kept).trials] == [0.75]


def test_a_server_that_is_gone_for_good_is_named(kept, server, monkeypatch):
    monkeypatch.setattr(database, "PATIENCE", 0.5)
    study = open_study(kept, kept.name, "maximize", 0)
    server.stop()
    try:
        with pytest.raises(DatabaseLost, match="run the same command again"):
            study.ask()
        monkeypatch.setattr(database, "PATIENCE", 3600.0)
        monkeypatch.setattr(database, "_away_since", [time.monotonic() - 3601.0])
        with pytest.raises(DatabaseLost):  # a process waits once
            study.ask()
    finally:
        server.start()
    assert study.trials == []


def test_the_password_is_in_no_file_and_in_no_message(kept, server, monkeypatch):
    assert PASSWORD not in (kept / "storage.json").read_text()
    assert "s3cret" not in (kept / "storage.json").read_text()
    assert StudyConfig(data="photos").storage == server.url
    assert "s3cret" not in StudyConfig(data="photos").model_dump_json()
    monkeypatch.setenv("AUTOTL_STORAGE", server.whole_url.replace("s3cret", "wr0ng"))
    with pytest.raises(AutotlError, match="password") as refused:
        load_study(kept)
    assert "wr0ng" not in str(refused.value)


def test_pgpass_has_the_password_too(kept, server, tmp_path, monkeypatch):
    monkeypatch.delenv("AUTOTL_STORAGE")
    passwords = tmp_path / "pgpass"
    passwords.write_text(f"127.0.0.1:{server.port}:postgres:tuner:{PASSWORD}\n")
    passwords.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    assert open_study(kept, kept.name, "maximize", 0).trials == []


def test_who_looks_into_a_folder_too_early_does_not_keep_its_study_out_of_the_database(server, tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTL_STORAGE", server.whole_url)
    config = StudyConfig(data="photos", output=tmp_path, name=f"early-{time.monotonic_ns()}")
    config.folder.mkdir()
    with pytest.raises(StudyDeleted):
        load_study(config.folder)
    _use_database(config)
    assert kept_database(config.folder) == (server.url, config.name)


@pytest.fixture
def link(tmp_path):
    """A worker on another host, which has a folder of its own."""
    folder = tmp_path / "on another host"
    folder.mkdir()
    return StudyLink(None, Site(str(folder), str(tmp_path)))


def test_a_worker_on_another_host_opens_the_study_that_is_meant(kept, server, link, monkeypatch):
    open_study(kept, kept.name, "maximize", 0)  # the only one without trials
    other = kept.parent / "other"
    other.mkdir()
    keep_database(other, server.url, f"{kept.name}-other")
    open_study(other, f"{kept.name}-other", "maximize", 0).add_trial(optuna.trial.create_trial(value=0.25))
    # a host may know the server by another name
    monkeypatch.setenv("AUTOTL_STORAGE", server.whole_url.replace("127.0.0.1", "localhost"))
    storage = link.storage((server.url.replace("127.0.0.1", "no.such.host"), kept.name))
    study = load_study(link.folder, storage=storage)
    assert (study.study_name, study.trials) == (kept.name, [])


@pytest.mark.parametrize(("old", "new", "says"), [("s3cret", "wr0ng", "password"), ("tuner:", "tuner:", "no study")])
def test_a_host_that_does_not_reach_the_database_is_not_used(server, link, monkeypatch, old, new, says):
    monkeypatch.setenv("AUTOTL_STORAGE", server.whole_url.replace(old, new))
    began = time.monotonic()
    with pytest.raises(HostUnfit, match=says) as refused:
        link.storage((server.url, "gone"))
    assert time.monotonic() - began < 10  # no use to wait for a server that refuses this user
    assert "wr0ng" not in str(refused.value)


def test_a_password_that_would_be_read_as_the_host_is_not_shown(monkeypatch):
    monkeypatch.setenv("AUTOTL_STORAGE", "postgresql+psycopg://u:hun@ter2@h/d")
    with pytest.raises(AutotlError, match="%40") as refused:
        database.open_database(StudyConfig(data="photos").storage)
    assert "ter2" not in str(refused.value)


def test_a_url_with_a_password_is_refused_without_showing_it(capsys):
    from autotl.config import study_config

    with pytest.raises(AutotlError, match="AUTOTL_STORAGE") as refused:
        study_config("photos", storage="postgresql+psycopg://me:hunter2@host/db")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("whole", "without"),
    [
        ("postgresql+psycopg://u:p@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql+psycopg://u:p:q@h:5/d", "postgresql+psycopg://u@h:5/d"),
        ("postgresql+psycopg://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql+psycopg://h/d", "postgresql+psycopg://h/d"),
        ("postgresql+psycopg://u:p/@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql+psycopg://u:p@q@h/d", "postgresql+psycopg://u@h/d"),
        ("mysql+pymysql://u@h/d?passwd=p&charset=utf8", "mysql+pymysql://u@h/d?charset=utf8"),
        ("postgresql+psycopg://u@h/d?password=p&sslmode=require", "postgresql+psycopg://u@h/d?sslmode=require"),
        ("postgresql+psycopg://u@h/d?password=p", "postgresql+psycopg://u@h/d"),
    ],
)
def test_without_password(whole, without):
    assert without_password(whole) == without
