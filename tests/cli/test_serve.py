"""`autotl serve`: what it checks before the model is loaded."""

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from autotl.cli import serve


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "studies" / "pets" / "model"
    folder.mkdir(parents=True)
    (folder / "model.json").touch()
    return folder


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """The settings of each server that would have been started."""
    from autotl.model import image_model
    from autotl.server import app, run

    started: list[SimpleNamespace] = []
    loaded = SimpleNamespace(about={"study": "pets"})

    def note(model, name, settings, doubts):
        started.append(SimpleNamespace(name=name, settings=settings))

    monkeypatch.setattr(image_model, "load", lambda *_: loaded)
    monkeypatch.setattr(app, "ModelServer", note)
    monkeypatch.setattr(app, "create_app", lambda server: None)
    monkeypatch.setattr(run, "run_server", lambda app, listening, ready: (ready(), listening.close()))
    return started


def test_loopback_needs_no_token(run, folder, served) -> None:
    result = run("serve", folder, "--port", 0, "--max-size", "5MB", "--max-images", 4, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert served[0].name == "pets"
    assert (served[0].settings.max_bytes, served[0].settings.max_images) == (5_000_000, 4)
    assert served[0].settings.token is None
    assert result.stdout.startswith("http://127.0.0.1:")


def test_every_network_asks_for_a_token(run, folder, served, monkeypatch) -> None:
    result = run("serve", folder, "--port", 0, "--host", "0.0.0.0", "--allow-host", "Box.example", "--device", "cpu")
    token = served[0].settings.token
    assert len(token) > 30
    assert f"/?token={token} serves" in result.stdout
    assert "not encrypted" in result.stderr
    assert {"box.example", socket.gethostname().lower()} <= served[0].settings.hosts
    monkeypatch.setenv(serve.TOKEN, "mine")
    run("serve", folder, "--port", 0, "--token", "--device", "cpu")
    run("serve", folder, "--port", 0, "--host", "0.0.0.0", "--no-token", "--device", "cpu")
    assert [server.settings.token for server in served[1:]] == ["mine", None]


def test_what_is_wrong_is_said_before_torch_is_imported(run, folder, monkeypatch) -> None:
    from autotl.model import image_model

    monkeypatch.setattr(image_model, "load", lambda *_: pytest.fail("it loads"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert "Take a free one: --port 0" in run("serve", folder, "--port", port).stderr
    assert "nothing" in run("serve", "nothing").stderr
    assert "--max-size much is not a size" in run("serve", folder, "--max-size", "much").stderr
    assert "--coverage 2 is not a share" in run("serve", folder, "--coverage", "2").stderr
    monkeypatch.setitem(serve.PACKAGES, "no_such_module", "no-such-package")
    assert "no-such-package. Type: pip install 'autotl[serve]'" in run("serve", folder).stderr
