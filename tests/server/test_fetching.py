"""Images behind URLs, and no way into a private network."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from autotl.server import fetching
from autotl.server.fetching import connect_publicly, fetch_image
from autotl.server.refusals import Refused

PRIVATE = (
    "127.0.0.1",
    "localhost",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
)
COATS = ("[::1]", "[::ffff:127.0.0.1]", "[fe80::1]", "[fd00::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "224.0.0.1")
SPELT = ("2130706433", "0x7f.1", "127.1")


class Pages(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        self.send_response(404 if self.path == "/gone" else 200)
        self.end_headers()
        if self.path == "/slow":
            for _ in range(50):
                try:
                    self.wfile.write(b"x")
                    self.wfile.flush()
                except OSError:
                    return
                threading.Event().wait(0.05)
        else:
            self.wfile.write(b"x" * 1000)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def public():
    """Connects public.test to a server of this test, and everything else as usual."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def connect(host, port, seconds):
        if host == "public.test":
            return socket.create_connection(server.server_address, timeout=seconds)
        return connect_publicly(host, port, seconds)

    yield connect
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("host", [*PRIVATE, *COATS, *SPELT])
def test_private_addresses_are_refused_before_a_connection(host, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("it connects"))
    with pytest.raises(Refused, match="not on the public internet"):
        fetch_image(f"http://{host}/", 1000)


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://example.org/", "file:///etc/passwd", "//example.org/", "http://", "", "gopher://example.org/"),
        *("http://user:secret@example.org/", "http://example.org:22/", "https://example.org:80/", "http://a b/"),
        *("http://example.org/\r\nX: y", "http://ex\u00e4mple.org/", "http://[::1", "http://example.org/" + "a" * 3000),
    ],
)
def test_odd_urls_are_refused(url):
    with pytest.raises(Refused) as refused:
        fetch_image(url, 1000, lambda *_: pytest.fail("it connects"))
    assert refused.value.status == 422
    assert "secret" not in refused.value.reason


def test_an_image_is_fetched_also_behind_a_redirect(public):
    assert fetch_image("http://public.test/a", 1000, public) == b"x" * 1000
    assert fetch_image("http://public.test/to//a", 1000, public) == b"x" * 1000


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/a", 413, "larger than 999 bytes"),
        ("/gone", 422, "answers 404"),
        ("/to/http://127.0.0.1/", 422, "not on the public internet"),
        ("/to/http://169.254.169.254/latest", 422, "not on the public internet"),
        ("/to/file:///etc/passwd", 422, "A URL looks like"),
        ("/to//to//to//to//to//a", 422, "redirects more than 3"),
    ],
)
def test_what_leads_elsewhere_or_is_too_large_is_refused(public, path, status, reason):
    with pytest.raises(Refused, match=reason) as refused:
        fetch_image(f"http://public.test{path}", 999, public)
    assert refused.value.status == status


def test_drops_that_never_end_are_cut_off(public, monkeypatch):
    monkeypatch.setattr(fetching, "SECONDS", 0.3)
    with pytest.raises(Refused, match="than 0"):
        fetch_image("http://public.test/slow", 10_000, public)
