"""The page to drop images on, in Chromium, asked through a real server."""

import threading
import time

import pytest

from autotl.server.app import create_app
from autotl.server.run import bind

pytestmark = pytest.mark.slow


@pytest.fixture
def url(server, monkeypatch):
    import uvicorn

    monkeypatch.setattr(server, "close", lambda: None)  # other tests ask it, too
    listening = bind("127.0.0.1", 0)
    running = uvicorn.Server(uvicorn.Config(create_app(server), log_level="error"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    running.should_exit = True
    thread.join(10)


@pytest.fixture
def browser(open_chromium):
    """One of its own: it changes the size of its screen."""
    with open_chromium() as opened:
        yield opened


def test_a_dropped_image_is_answered_and_explained_and_nothing_else_is_asked(url, browser, patches):
    browser.get(url)
    browser.find_element("id", "files").send_keys(str(patches[0].paths[0]))
    end = time.monotonic() + 60
    while browser.find_element("id", "status").text != "1 image":
        assert time.monotonic() < end
        time.sleep(0.1)
    assert browser.find_element("css selector", ".answer h2").text.split()[0] in patches[0].classes
    images = "return [...document.images].map(image => [image.naturalWidth > 0, image.alt.length > 3])"
    assert browser.execute_script(images) == [[True, True], [True, True]]
    assert browser.get_log("browser") == []
    asked = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert asked
    assert not [address for address in asked if not address.startswith((url, "blob:"))]
    for width in (390, 1440):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
