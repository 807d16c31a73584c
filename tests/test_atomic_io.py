"""Atomic writes, replaced folders, full disks."""

import errno
import json
import stat
import subprocess
import sys

import pytest

from autotl.atomic_io import DiskFull, as_disk_full, format_bytes, replaced_folder, write_atomically, write_json


def test_missing_folders_are_created(tmp_path):
    write_atomically(tmp_path / "a" / "b.bin", b"\x00\x01")
    assert (tmp_path / "a" / "b.bin").read_bytes() == b"\x00\x01"


def test_a_function_can_write_the_content(tmp_path):
    write_atomically(tmp_path / "x", lambda file: file.write(b"abc"))
    assert (tmp_path / "x").read_bytes() == b"abc"


def test_a_failure_while_writing_leaves_the_old_file(tmp_path):
    (tmp_path / "x").write_bytes(b"before")

    def fail(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "x", fail)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"x": b"before"}


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path):
    (tmp_path / "x").write_bytes(b"before")
    seen = []

    def write(file):
        file.write(b"after")
        file.flush()
        seen.append((tmp_path / "x").read_bytes())

    write_atomically(tmp_path / "x", write)
    assert [*seen, (tmp_path / "x").read_bytes()] == [b"before", b"after"]


def test_the_file_mode_follows_the_umask(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "x", b"")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_json_is_readable_and_ends_in_a_newline(tmp_path):
    write_json(tmp_path / "x.json", {"class": "hormiga león", "n": [1, None]})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"class": "hormiga león", "n": [1, None]}
    assert "león" in text
    assert text.endswith("}\n")


def test_numbers_that_json_lacks_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"score": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_reported_with_the_path_the_size_and_the_free_space(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: _raise(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(DiskFull, match=r"no room on the disk for .*x\.bin: it needs 5\.0 kB more, and [\d.,]+ .* free"):
        write_atomically(tmp_path / "x.bin", b"a" * 5000)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_a_disk_are_not_disk_full(tmp_path):
    assert as_disk_full(OSError(errno.EIO, "Input/output error"), tmp_path / "x") is None


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (20 * 10**9, "20.0 GB"), (3 * 10**15, "3,000.0 TB")],
)
def test_sizes_are_formatted(num_bytes, text):
    assert format_bytes(num_bytes) == text


def _raise(error):
    raise error


def test_a_folder_is_replaced_whole_and_drafts_of_dead_processes_are_deleted(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    (tmp_path / f".model.{dead.stdout.strip()}.partial").mkdir()
    with replaced_folder(tmp_path / "model") as draft:
        write_atomically(draft / "new", b"")
        assert [path.name for path in (tmp_path / "model").iterdir()] == ["old"]
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_stays_unchanged_when_its_draft_fails(tmp_path):
    (tmp_path / "model").mkdir()

    def fail():
        with replaced_folder(tmp_path / "model") as draft:
            write_atomically(draft / "new", b"")
            raise OSError("no luck")

    with pytest.raises(OSError, match="no luck"):
        fail()
    assert [path.name for path in tmp_path.rglob("*")] == ["model"]


DEAD = 2**22 + 1  # larger than any process number of Linux


def test_a_folder_comes_back_when_its_process_was_killed_between_the_two_moves(tmp_path):
    old = tmp_path / f".model.{DEAD}.old"
    old.mkdir()
    (old / "kept").touch()
    (tmp_path / f".model.{DEAD}.partial").mkdir()

    def fail():
        with replaced_folder(tmp_path / "model"):
            raise OSError("no luck")

    with pytest.raises(OSError, match="no luck"):
        fail()
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["model", "model/kept"]


HOSTILE = "cat\x1b]0;owned\x07\r\u202etac\x9b2J"


def test_control_characters_are_escaped_for_terminals_notes_and_csv():
    from autotl.escaping import csv_cell, escape, escape_lines, escape_markdown

    for escaped in (escape(HOSTILE), escape_lines(HOSTILE), escape_markdown(HOSTILE), csv_cell(HOSTILE)):
        assert escaped.isprintable()
    assert escape_lines("one\ntwo") == "one\ntwo"
    assert escape("one\ntwo") == "one\\ntwo"
    assert escape_markdown("![x](http://a) <img>") == r"\!\[x\](http://a) \<img\>"


def test_formulas_get_an_apostrophe_and_numbers_stay():
    from autotl.escaping import csv_cell

    for text in ("=1+1", "+cmd", "-cmd", "@SUM(A1)"):
        assert csv_cell(text) == f"'{text}"
    for value in ("-1", "+1", "-0.5e3", "a=b", "", 3, -0.5, "caf\udce9.png"):
        assert csv_cell(value) == value


def test_an_error_names_the_file_and_not_the_partial_one(tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OSError, match="report") as caught:
        write_atomically(tmp_path / "report.html", b"new")
    assert (caught.value.filename, caught.value.filename2) == (str(tmp_path / "report.html"), None)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
