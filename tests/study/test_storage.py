"""A study's journal survives whoever dies while writing it, and nothing in it is ever unpickled."""

import pickle
import subprocess
import sys
import threading
import time

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._base import BaseJournalSnapshot
from optuna.trial import TrialState

from autotl.errors import AutotlError
from autotl.study.storage import Journal, open_storage, storage_on
from autotl.study.study import open_study


def a_study(folder):
    """A study with a few finished trials, whose last one is told in the journal's last line."""
    study = open_study(folder, "cells", "maximize", 0)
    for value in (0.5, 0.6, 0.7):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.set_user_attr("description", "ein Versuch – № 1")
        study.tell(trial, value)
    return study


def finished(folder):
    trials = open_study(folder, "cells", "maximize", 0).get_trials(states=(TrialState.COMPLETE,))
    return [trial.value for trial in trials]


def test_a_journal_cut_at_any_byte_of_its_last_two_lines_goes_on(tmp_path):
    a_study(tmp_path)
    journal = tmp_path / "journal.log"
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    start = len(whole) - len(lines[-1]) - len(lines[-2])
    for cut in range(start, len(whole) + 1):
        journal.write_bytes(whole[:cut])
        assert finished(tmp_path) == ([0.5, 0.6, 0.7] if cut == len(whole) else [0.5, 0.6])
        study = open_study(tmp_path, "cells", "maximize", 0)
        study.tell(study.ask(), 0.9)  # appending is what merges lines
        assert finished(tmp_path)[-1] == 0.9
        assert journal.read_bytes().startswith(whole[: whole.rfind(b"\n", 0, cut) + 1])


@pytest.mark.parametrize("torn", [b'{"op_code": 4, "wor', b"\x00\x00\x00", b"{"])
def test_what_was_cut_stays_beside_the_journal(torn, tmp_path):
    a_study(tmp_path)
    whole = (tmp_path / "journal.log").read_bytes()
    for name in ("journal.log.torn", "journal.log.torn-2"):
        (tmp_path / "journal.log").write_bytes(whole + torn)
        assert Journal(tmp_path).repair()
        assert (tmp_path / "journal.log").read_bytes() == whole
        assert (tmp_path / name).read_bytes() == whole + torn


def test_a_line_torn_while_others_write_is_cut_by_the_next_writer(tmp_path):
    mine, other = a_study(tmp_path), open_study(tmp_path, "cells", "maximize", 1)
    with (tmp_path / "journal.log").open("ab") as file:
        file.write(b'{"op_code":8,"worker_id":"dead","trial')
    other.tell(other.ask(), 0.8)
    mine.tell(mine.ask(), 0.9)
    assert finished(tmp_path) == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert [trial.value for trial in mine.trials] == [trial.value for trial in other.trials]


@pytest.mark.parametrize("content", [None, b"", b'{"whole":1}\n'])
def test_a_whole_journal_needs_no_repair(content, tmp_path):
    if content is not None:
        (tmp_path / "journal.log").write_bytes(content)
    assert not Journal(tmp_path).repair()
    assert (tmp_path / "journal.log").read_bytes() == (content or b"")
    assert not (tmp_path / "journal.log.torn").exists()


def test_a_process_killed_while_it_held_the_lock_holds_up_nobody(tmp_path):
    study = a_study(tmp_path)
    code = (
        "import sys, time; from pathlib import Path; from autotl.study.storage import Journal; "
        "journal = Journal(Path(sys.argv[1])); journal.lock.acquire(); print('locked', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"locked\n"
    writer = threading.Thread(target=lambda: study.tell(study.ask(), 0.8))
    writer.start()
    writer.join(0.3)
    assert writer.is_alive()  # the lock is one
    holder.kill()
    holder.wait()
    began = time.monotonic()
    writer.join(10)
    assert time.monotonic() - began < 2
    assert finished(tmp_path)[-1] == 0.8


def test_opening_a_journal_unpickles_nothing(tmp_path, monkeypatch):
    a_study(tmp_path)

    def refuse(*_, **__):
        raise AssertionError("unpickled")

    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    assert finished(tmp_path) == [0.5, 0.6, 0.7]
    assert not isinstance(Journal(tmp_path), BaseJournalSnapshot)


def test_a_backend_that_keeps_pickled_snapshots_is_refused_before_it_is_read(tmp_path):
    class Hostile(JournalFileBackend, BaseJournalSnapshot):
        def load_snapshot(self):
            raise AssertionError("read")

        def save_snapshot(self, snapshot): ...

    with pytest.raises(AutotlError, match="Hostile keeps pickled snapshots"):
        storage_on(Hostile(str(tmp_path / "journal.log")))


@pytest.mark.parametrize(
    "content",
    [
        b'not json\n{"op_code":0}\n',
        b'{"op_code":0}\n',
        b'{"op_code":99,"worker_id":"x"}\n',
        b"[]\n[]\n",
        b"\xff\xfe\n\xff\n",
    ],
)
def test_what_is_no_journal_is_named(content, tmp_path):
    (tmp_path / "journal.log").write_bytes(content)
    with pytest.raises(AutotlError, match=r"journal.log is no journal that Optuna can read"):
        open_storage(tmp_path)


def test_optuna_reads_it_as_its_own(tmp_path):
    a_study(tmp_path)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / "journal.log")))
    assert len(optuna.load_study(study_name="cells", storage=storage).trials) == 3
