"""Workers find their coordinator through a socket that only their user may open, whatever TMPDIR is."""

import os
import stat
import tempfile
import threading
from multiprocessing.connection import Client
from pathlib import Path
from socket import AF_UNIX, socket

import pytest

from autotl.errors import AutotlError
from autotl.workers import rendezvous as module
from autotl.workers.rendezvous import Endpoint, Rendezvous, rendezvous_folder


@pytest.fixture
def temporary(monkeypatch):
    """`temporary(folder)` makes it the folder for temporary files."""

    def use(folder):
        folder.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        return folder

    return use


def connect(endpoint, message):
    with Client(endpoint.address, authkey=endpoint.key) as client:
        client.send_bytes(message)


def test_a_connection_with_the_key_arrives(tmp_path):
    meeting = Rendezvous(tmp_path)
    try:
        connect(Endpoint.find(tmp_path), b"hello")
        assert meeting.bell.poll(5)
        (connection,) = meeting.arrivals()
        assert connection.recv_bytes() == b"hello"
        assert not meeting.bell.poll()
    finally:
        meeting.close()


def test_a_connection_with_another_key_is_refused_and_others_still_arrive(tmp_path):
    meeting = Rendezvous(tmp_path)
    try:
        endpoint = Endpoint.find(tmp_path)
        with pytest.raises(Exception, match="digest"):
            Client(endpoint.address, authkey=b"another")
        connect(endpoint, b"hello")
        assert meeting.bell.poll(5)
    finally:
        meeting.close()


def test_closed_it_leaves_nothing_and_is_not_found(tmp_path):
    meeting = Rendezvous(tmp_path)
    meeting.close()
    meeting.close()
    assert not meeting.folder.exists()
    with pytest.raises(AutotlError, match="none to join"):
        Endpoint.find(tmp_path)


def test_it_closes_while_a_process_that_never_answers_is_being_accepted(tmp_path):
    meeting = Rendezvous(tmp_path)
    with socket(AF_UNIX) as silent:
        silent.connect(meeting.endpoint.address)
        assert silent.recv(64)  # the challenge: the thread waits for the answer
        closing = threading.Thread(target=meeting.close, daemon=True)
        closing.start()
        closing.join(20)
        assert not closing.is_alive()
    assert not meeting.folder.exists()


@pytest.mark.parametrize("length", [91, 200])
def test_a_long_temporary_folder_is_no_obstacle(length, temporary, tmp_path):
    folder = tmp_path / "x"
    while len(str(folder)) < length - 100:
        folder = folder / ("y" * 90)
    long = temporary(folder.with_name("z" * max(1, length - len(str(folder.parent)) - 1)))
    assert len(str(long)) >= min(length, 91) - 1
    meeting = Rendezvous(tmp_path)
    try:
        connect(Endpoint.find(tmp_path), b"hello")
        assert meeting.bell.poll(5)
    finally:
        meeting.close()


def test_without_a_folder_that_is_short_enough_the_error_names_tmpdir(temporary, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_SOCKET_PATH", 10)
    temporary(tmp_path)
    with pytest.raises(AutotlError, match="Set TMPDIR to a shorter folder"):
        rendezvous_folder(tmp_path)


@pytest.fixture
def short_folder():
    """A temporary folder whose path leaves room for a socket, however long pytest's own is."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_only_this_user_may_enter(temporary, tmp_path, short_folder):
    temporary(short_folder / "t")
    folder = rendezvous_folder(tmp_path)
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def test_a_folder_that_others_may_enter_is_refused(temporary, tmp_path, short_folder):
    root = temporary(short_folder / "t") / f"autotl-{os.getuid()}"
    root.mkdir()
    root.chmod(0o755)
    with pytest.raises(AutotlError, match="is open to other users"):
        rendezvous_folder(tmp_path)
