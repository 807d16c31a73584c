"""What a server answers, and what it refuses."""

import io
import struct
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from autotl.server.app import SCREENS, ModelServer, create_app

sys.path.insert(0, str(Path(__file__).parent))
from hostile import HOSTILE, encoded, jpeg, multipart, picture


@pytest.fixture
def files(patches):
    dataset, split = patches
    return [dataset.paths[i] for i in split.test]


def post(client, content, **more):
    return client.post("/predict", content=content, **more)


def test_answers_are_those_of_predict(client, model, files):
    expected = [row for _, row in model.stream(files, many=True)]
    form = [("files", (path.name, path.read_bytes())) for path in files[:8]]
    answers = client.post("/predict?top=1000", files=form).json()["predictions"]
    assert [answer["name"] for answer in answers] == [path.name for path in files[:8]]
    for answer, row in zip(answers, expected, strict=False):
        assert answer["label"] == model.classes[row.argmax()]
        given = {top["label"]: top["probability"] for top in answer["top"]}
        np.testing.assert_allclose([given[name] for name in model.classes], row, atol=1e-6)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF"])
def test_each_format_is_answered_as_predict_answers_it(client, model, kind):
    content = encoded(picture(), kind)
    answer = post(client, content).json()["predictions"][0]
    assert answer["probability"] == pytest.approx(model.predict_proba([content]).max(), abs=1e-5)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_upload_is_refused(client, name):
    body, kind, status = HOSTILE[name]
    answer = post(client, body, headers={"content-type": kind})
    assert (answer.status_code, bool(answer.json()["detail"])) == (status, True)
    assert len(answer.content) < 2_000


def test_the_server_answers_after_all_of_them(client, model):
    assert len(HOSTILE) >= 50
    assert post(client, jpeg()).json()["predictions"][0]["label"] in model.classes


def test_deep_exif_is_skipped_and_the_picture_answered(client):
    loop = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    content = jpeg()
    marked = content[:2] + b"\xff\xe1" + struct.pack(">H", len(loop) + 2) + loop + content[2:]
    assert post(client, marked).json() == post(client, content).json()


def test_the_refused_image_of_a_form_is_named(client):
    form = multipart(("good.jpg", jpeg()), ("../bad\x07.jpg", jpeg()[:300]))
    answer = post(client, form, headers={"content-type": "multipart/form-data; boundary=frontier"}).json()
    assert answer["image"] == 1
    assert answer["detail"].startswith("Image 1, ../bad\\x07.jpg: it is broken")


def test_a_heat_map_is_a_picture(client, files):
    answer = client.post("/explain", content=files[0].read_bytes())
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (96, 96)
    assert client.post("/explain?label=tiger", content=files[0].read_bytes()).status_code == 422


def test_wrong_parameters_and_methods_are_refused(client):
    assert post(client, jpeg(), params={"top": 0}).status_code == 422
    assert client.get("/predict").status_code == 405
    assert client.get("/../../etc/passwd").status_code == 404


def test_other_hosts_and_origins_are_refused(client):
    for headers in ({"host": "evil.example"}, {"host": ""}, {"host": "[::1"}, {"origin": "http://evil.example"}):
        assert client.get("/healthz", headers=headers).status_code == 403
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "192.168.1.5:80"):
        assert client.get("/healthz", headers={"host": host}).status_code == 200


@pytest.fixture
def guarded(server, monkeypatch):
    monkeypatch.setattr(server, "settings", replace(server.settings, token="secret", hosts=frozenset(["box"])))
    return TestClient(create_app(server), base_url="http://box", follow_redirects=False)


def test_a_token_is_asked_for(guarded):
    assert guarded.get("/healthz").status_code == 200
    assert guarded.get("/").status_code == 401
    assert post(guarded, jpeg()).status_code == 401
    assert post(guarded, jpeg(), headers={"authorization": "Bearer other"}).status_code == 401
    assert post(guarded, jpeg(), headers={"authorization": "Bearer secret"}).status_code == 200


def test_the_printed_address_leaves_a_cookie(guarded):
    answer = guarded.get("http://box//evil.example/?token=secret&a=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/evil.example/?a=1")
    assert "HttpOnly; SameSite=Strict" in answer.headers["set-cookie"]
    guarded.cookies.update(answer.cookies)
    assert guarded.get("/").status_code == 200


def test_the_cookies_of_other_programs_on_this_host_do_no_harm(guarded):
    (own,) = guarded.get("http://box/?token=secret").cookies.items()
    guarded.cookies.clear()
    header = f'theme={{"dark": 1}}; lonely; {"=".join(own)}; _xsrf=a,b'
    assert guarded.get("/", headers={"cookie": header}).status_code == 200
    assert guarded.get("/", headers={"cookie": header.replace("secret", "other")}).status_code == 401
    assert guarded.get("/", headers={"cookie": header, "origin": "http://box"}).status_code == 200
    assert guarded.get("/", headers={"cookie": header, "origin": "http://["}).status_code == 403


def test_pages_ask_nobody_else(client):
    for path in ("/", "/docs"):
        page = client.get(path)
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "https://" not in page.text
    assert "POST" in client.get("/docs").text
    assert set(client.get("/openapi.json").json()["paths"]) == {
        "/predict",
        "/explain",
        "/model",
        "/healthz",
        "/metrics",
    }


def test_metrics_count_by_path_and_status(client):
    def count(line):
        found = [text for text in client.get("/metrics").text.splitlines() if text.startswith(line)]
        return float(found[0].rsplit(" ", 1)[1]) if found else 0.0

    line = 'autotl_requests_total{path="other",status="404"}'
    before = count(line)
    client.get("/made-up-" + "x" * 50)
    assert count(line) == before + 1
    assert count("autotl_batch_images_count") > 0


def test_urls_are_fetched_where_they_are_allowed(server, monkeypatch):
    monkeypatch.setattr(server, "settings", replace(server.settings, allow_urls=True))
    monkeypatch.setattr(server, "fetch", lambda url, most: jpeg())
    client = TestClient(create_app(server), base_url="http://localhost")
    answers = client.post("/predict", json={"urls": ["https://example.org/a.jpg"]}).json()["predictions"]
    assert answers[0]["name"] == "https://example.org/a.jpg"
    assert client.post("/predict", json={"urls": "a"}).status_code == 422
    assert client.post("/predict", json={"urls": ["https://example.org/"] * 9}).status_code == 413


def test_servers_that_answer_slowly_hold_up_no_other_request(server, client, monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(server, "settings", replace(server.settings, allow_urls=True))
    monkeypatch.setattr(server, "fetch", lambda url, most: jpeg() if ended.wait(20) else b"")
    asking = TestClient(create_app(server), base_url="http://localhost")
    with ThreadPoolExecutor(SCREENS) as pool:
        urls = {"urls": ["https://example.org/a.jpg"]}
        slow = [pool.submit(asking.post, "/predict", json=urls) for _ in range(SCREENS)]
        time.sleep(0.1)
        assert post(client, jpeg()).status_code == 200
        assert not any(answer.done() for answer in slow)
        ended.set()
        assert [answer.result().status_code for answer in slow] == [200] * SCREENS


def test_doubts_are_answered(model, server, monkeypatch):
    from autotl.model.doubt import Doubt, Doubts

    confident = np.linspace(0.3, 1, 50).astype(np.float32)
    monkeypatch.setattr(model, "doubt", Doubt(confident, confident, np.zeros(50, np.uint8)))
    monkeypatch.setattr(server, "doubts", Doubts(model, abstain_at=0.01, coverage=0.9))
    client = TestClient(create_app(server), base_url="http://localhost")
    answer = post(client, jpeg()).json()["predictions"][0]
    assert answer["answer"] == "unsure"
    assert answer["label"] in answer["classes"]


def test_a_fault_of_the_program_is_answered_and_costs_one_batch(model, server, monkeypatch):
    def broken(contents):
        raise ZeroDivisionError

    client = TestClient(create_app(server), base_url="http://localhost", raise_server_exceptions=False)
    with monkeypatch.context() as patched:
        patched.setattr(server.batcher, "answer", broken)
        assert post(client, jpeg()).status_code == 500
    assert post(client, jpeg()).status_code == 200


def test_a_server_ends_its_threads(model, server):
    other = ModelServer(model, "patches", server.settings)
    with TestClient(create_app(other), base_url="http://localhost") as client:
        assert client.get("/healthz").status_code == 200
    assert not any(thread.is_alive() for thread in other.batcher.threads)
