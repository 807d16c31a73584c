"""A study's journal stays readable when a writer is killed, and opening it unpickles nothing."""

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


def new_study(folder):
    """A study with three complete trials; the last line of its journal tells the last of them."""
    study = open_study(folder, "cells", "maximize", 0)
    for value in (0.5, 0.6, 0.7):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.set_user_attr("description", "ein Versuch – № 1")
        study.tell(trial, value)
    return study


def values_of(folder):
    trials = open_study(folder, "cells", "maximize", 0).get_trials(states=(TrialState.COMPLETE,))
    return [trial.value for trial in trials]


@pytest.mark.slow
def test_a_journal_that_is_torn_at_any_byte_of_its_last_two_lines_can_be_continued(tmp_path):
    new_study(tmp_path)
    journal = tmp_path / "journal.log"
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    start = len(whole) - len(lines[-1]) - len(lines[-2])
    for cut in range(start, len(whole) + 1):
        journal.write_bytes(whole[:cut])
        assert values_of(tmp_path) == ([0.5, 0.6, 0.7] if cut == len(whole) else [0.5, 0.6])
        study = open_study(tmp_path, "cells", "maximize", 0)
        study.tell(study.ask(), 0.9)  # appending to a torn line would merge both
        assert values_of(tmp_path)[-1] == 0.9
        assert journal.read_bytes().startswith(whole[: whole.rfind(b"\n", 0, cut) + 1])


@pytest.mark.parametrize("torn", [b'{"op_code": 4, "wor', b"\x00\x00\x00", b"{"])
def test_a_copy_of_the_torn_journal_is_kept(torn, tmp_path):
    new_study(tmp_path)
    whole = (tmp_path / "journal.log").read_bytes()
    for name in ("journal.log.torn", "journal.log.torn-2"):
        (tmp_path / "journal.log").write_bytes(whole + torn)
        assert Journal(tmp_path).repair()
        assert (tmp_path / "journal.log").read_bytes() == whole
        assert (tmp_path / name).read_bytes() == whole + torn


def test_a_line_that_is_torn_while_others_write_is_cut_by_the_next_writer(tmp_path):
    study, other = new_study(tmp_path), open_study(tmp_path, "cells", "maximize", 1)
    with (tmp_path / "journal.log").open("ab") as file:
        file.write(b'{"op_code":8,"worker_id":"dead","trial')
    other.tell(other.ask(), 0.8)
    study.tell(study.ask(), 0.9)
    assert values_of(tmp_path) == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert [trial.value for trial in study.trials] == [trial.value for trial in other.trials]


@pytest.mark.parametrize("content", [None, b"", b'{"whole":1}\n'])
def test_a_whole_journal_needs_no_repair(content, tmp_path):
    if content is not None:
        (tmp_path / "journal.log").write_bytes(content)
    assert not Journal(tmp_path).repair()
    assert (tmp_path / "journal.log").read_bytes() == (content or b"")
    assert not (tmp_path / "journal.log.torn").exists()


def test_a_process_killed_while_it_holds_the_lock_blocks_no_writer(tmp_path):
    study = new_study(tmp_path)
    code = (
        "import sys, time; from pathlib import Path; from autotl.study.storage import Journal; "
        "journal = Journal(Path(sys.argv[1])); journal.lock.acquire(); print('locked', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"locked\n"
    writer = threading.Thread(target=lambda: study.tell(study.ask(), 0.8))
    writer.start()
    writer.join(0.3)
    assert writer.is_alive()  # the lock excludes it
    holder.kill()
    holder.wait()
    killed = time.monotonic()
    writer.join(10)
    assert time.monotonic() - killed < 2
    assert values_of(tmp_path)[-1] == 0.8


def test_opening_a_journal_unpickles_nothing(tmp_path, monkeypatch):
    new_study(tmp_path)

    def refuse(*_, **__):
        raise AssertionError("unpickled")

    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    assert values_of(tmp_path) == [0.5, 0.6, 0.7]
    assert not isinstance(Journal(tmp_path), BaseJournalSnapshot)


def test_a_backend_with_pickled_snapshots_is_refused_before_it_is_read(tmp_path):
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
def test_a_file_that_is_not_a_journal_is_refused(content, tmp_path):
    (tmp_path / "journal.log").write_bytes(content)
    with pytest.raises(AutotlError, match=r"journal.log is not a journal that Optuna can read"):
        open_storage(tmp_path)


def test_optuna_reads_the_journal_with_its_own_backend(tmp_path):
    new_study(tmp_path)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / "journal.log")))
    assert len(optuna.load_study(study_name="cells", storage=storage).trials) == 3
