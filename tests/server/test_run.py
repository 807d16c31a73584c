"""A server on a socket: its port, how it ends, and requests that don't."""

import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from autotl.errors import AutotlError
from autotl.server.app import create_app
from autotl.server.run import bind, run_server, server_url

PROGRAM = """
from autotl.server.run import bind, run_server

async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

listening = bind("127.0.0.1", 0)
run_server(app, listening, lambda: print("ready", flush=True))
print("ended")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_cleanly(number):
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.read() == "ended\n"
    assert process.returncode == 0


def test_a_port_that_is_taken_is_an_error_that_says_what_to_type():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(AutotlError, match=f"Port {port} of 127.0.0.1 can't be used: .*--port 0"):
            bind("127.0.0.1", port)
    with pytest.raises(AutotlError, match="--host made up is no name or address"):
        bind("made up", 0)


def test_the_address_to_open():
    with bind("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        assert server_url(listening, None) == f"http://127.0.0.1:{port}/"
        assert server_url(listening, "a") == f"http://127.0.0.1:{port}/?token=a"
    with bind("0.0.0.0", 0) as listening:
        assert server_url(listening, None).startswith(f"http://{socket.gethostname()}:")


@pytest.fixture
def port(server, monkeypatch):
    """Of a server that gives a body 0.3 s."""
    import uvicorn

    monkeypatch.setattr(server, "settings", replace(server.settings, body_seconds=0.3))
    listening, ready, running = bind("127.0.0.1", 0), threading.Event(), []

    class Noted(uvicorn.Server):
        def __init__(self, config):
            super().__init__(config)
            running.append(self)

    monkeypatch.setattr(uvicorn, "Server", Noted)
    monkeypatch.setattr(server, "close", lambda: None)  # other tests ask it, too
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # only the main thread may
    thread = threading.Thread(target=run_server, args=(create_app(server), listening, ready.set))
    thread.start()
    assert ready.wait(20)
    yield listening.getsockname()[1]
    running[0].should_exit = True
    thread.join(10)
    assert not thread.is_alive()


def asked(port, head, body=b""):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head + body)
        return connection.recv(4000)


def test_bad_requests_on_the_wire_get_4xx(port):
    start = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
    requests = {
        "huge headers": start + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
        "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00" + bytes(200) + b"\r\n\r\n",
        "a length that is no number": start + b"Content-Length: -5\r\n\r\n",
        "two lengths": start + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "no host": b"POST /predict HTTP/1.1\r\n\r\n",
    }
    for name, request in requests.items():
        assert asked(port, request)[:10] in (b"HTTP/1.1 4", b""), name


def test_a_body_that_never_comes_is_given_up(port):
    began = time.monotonic()
    answer = asked(port, b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n", b"\xff\xd8")
    assert answer.startswith(b"HTTP/1.1 408")
    assert time.monotonic() - began < 8


def test_a_body_without_end_is_cut_off(port):
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert asked(port, head, chunk * 5).startswith(b"HTTP/1.1 413")
