"""The dashboard in Chromium: one that reads only shows no button that it would refuse."""

import functools
import threading
from contextlib import ExitStack

import pytest

from autotl.study.artifacts import upload_picture
from autotl.study.dashboard import CHANGING, dashboard_server
from autotl.study.study import open_study

dashboard = pytest.importorskip("optuna_dashboard")
pytestmark = pytest.mark.slow

ICONS = """return [...document.querySelectorAll("[data-testid$=Icon]")]
    .filter(icon => icon.closest("button")).map(icon => [icon.dataset.testid, icon.closest("button").offsetWidth > 0])
"""
PAGES = {"": "RELOAD", "/studies/0/note": "A note", "/studies/0/trials?numbers=0": "Note"}
"""And a text that is there once the page is complete."""


@pytest.fixture
def icons(tmp_path, chromium, until):
    """`icons(read_only=True)`: whether each kind of button of the dashboard's pages is shown."""
    study = open_study(tmp_path, "cells", "maximize", 0)
    trial = study.ask()
    dashboard.save_note(study, "A note on the study.")
    upload_picture(study, trial, tmp_path, "curve.svg", "<svg/>")

    def shows(text):
        return text in chromium.find_element("id", "dashboard").text

    def look(*, read_only):
        shown = {}
        server = servers.enter_context(dashboard_server(tmp_path, 0, read_only=read_only))
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.callback(server.shutdown)
        chromium.get(server.url)
        for page, text in PAGES.items():
            chromium.get(f"http://127.0.0.1:{server.server_port}/dashboard{page}")
            until(functools.partial(shows, text), 30)
            for name, is_shown in chromium.execute_script(ICONS):
                shown[name] = shown.get(name, False) or is_shown
        return shown

    with ExitStack() as servers:
        yield look


def test_one_that_reads_only_hides_the_buttons_that_change_a_study(icons):
    usual, read_only = icons(read_only=False), icons(read_only=True)
    hidden = {name for name in usual if usual[name] and not read_only[name]}
    assert hidden == {f"{name}Icon" for name in (*CHANGING, "UploadFile")}
