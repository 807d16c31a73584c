"""What a coordinator answers to workers that can't read its study's folder, and what it refuses."""

import base64
import json
import random

import optuna
import pytest

from autotl.study.served import ServedJournal
from autotl.study.storage import Journal, storage_on
from autotl.workers.codec import ProtocolError, decode, encode
from autotl.workers.messages import FROM_WORKER
from autotl.workers.requests import (
    ClaimBucket,
    ExchangeLogs,
    ListFiles,
    PlaceFiles,
    ReadFile,
    ReadImage,
    WriteFile,
)
from autotl.workers.service import StudyService

UPLOAD = "0123456789abcdef"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "study"
    (folder / "trials" / "00001").mkdir(parents=True)
    (folder / "trials" / "00001" / "member.json").write_text("{}")
    (folder / "secret.txt").write_text("secret")
    return folder


@pytest.fixture
def service(folder, tmp_path):
    image = tmp_path / "image.png"
    image.write_bytes(b"pixels")
    return StudyService(folder, Journal(folder), [image])


def served_journal(service):
    """A served journal, and the requests that it makes."""
    requests = []

    def exchange(logs, first):
        requests.append(ExchangeLogs(len(requests), tuple(logs), first))
        answer = service.answer("w", decode(encode(requests[-1]), FROM_WORKER))
        if answer.error:
            raise OSError(answer.error)
        return [json.loads(line) for line in answer.value.splitlines()]

    return ServedJournal(exchange), requests


def served(service):
    """Optuna's storage on a served journal, and the requests that it makes."""
    journal, requests = served_journal(service)
    return storage_on(journal), requests


def test_a_trial_runs_over_a_served_journal(service, folder):
    study = optuna.create_study(study_name="s", storage=storage_on(Journal(folder)), direction="maximize")
    study.enqueue_trial({"c": 0.5})
    number = study.ask().number
    storage, requests = served(service)
    remote = optuna.load_study(study_name="s", storage=storage)
    trial = optuna.Trial(remote, remote._storage.get_trial_id_from_study_id_trial_number(remote._study_id, number))
    before = len(requests)
    assert trial.suggest_float("c", 0.0, 1.0) == 0.5
    for i in range(10):
        trial.set_user_attr(f"score-{i}", i)
    trial.report(0.25, 1)
    assert len(requests) == before  # they wait for the next operation of another sort
    remote.tell(trial, 0.75)
    assert len(requests) <= before + 2
    (finished,) = study.get_trials()
    assert (finished.value, finished.intermediate_values, finished.user_attrs["score-9"]) == (0.75, {1: 0.25}, 9)
    assert finished.datetime_complete is not None


def test_what_waits_is_sent_by_a_flush_and_read_back(service, folder):
    study = optuna.create_study(study_name="s", storage=storage_on(Journal(folder)))
    study.ask()
    journal, requests = served_journal(service)
    remote = optuna.load_study(study_name="s", storage=storage_on(journal))
    trial = optuna.Trial(remote, 0)
    trial.suggest_float("c", 0.0, 1.0)
    assert study.trials[0].params == {}
    journal.flush()
    assert study.trials[0].params == trial.params  # its worker may be lost now: the trial is tried again with them
    assert remote.trials[0].params == trial.params
    num = len(requests)
    journal.flush()
    assert len(requests) == num


def test_reads_in_a_row_are_one_exchange_until_they_expire(service, folder, monkeypatch):
    monkeypatch.setattr("autotl.study.served.FRESH_SECONDS", 60.0)
    study = optuna.create_study(study_name="s", storage=storage_on(Journal(folder)))
    journal, requests = served_journal(service)
    remote = optuna.load_study(study_name="s", storage=storage_on(journal))
    study.ask()
    journal.expire()
    num = len(requests)
    assert [len(remote.get_trials()) for _ in range(3)] == [1, 1, 1]
    assert len(requests) == num + 1
    optuna.Trial(remote, 0).report(0.5, 1)
    assert remote.trials[0].intermediate_values == {1: 0.5}  # one's own writes are always read back


def test_a_worker_can_neither_create_nor_delete_studies(service, folder):
    optuna.create_study(study_name="s", storage=storage_on(Journal(folder)))
    storage, _ = served(service)
    with pytest.raises(OSError, match="may not do this"):
        storage.delete_study(storage.get_study_id_from_name("s"))
    assert optuna.get_all_study_names(storage_on(Journal(folder))) == ["s"]


def write(service, path, content, offset=0, upload=UPLOAD):
    return service.answer("w", WriteFile(1, upload, path, base64.b64encode(content).decode(), offset))


def test_a_folder_replaces_the_one_before_once_it_is_whole(service, folder):
    assert not write(service, "trials/00001/head.skops", b"head").error
    assert not write(service, "trials/00001/head.skops", b" and more", 4).error
    assert (folder / "trials" / "00001" / "member.json").exists()
    assert not service.answer("w", PlaceFiles(2, UPLOAD, "trials/00001")).error
    assert [p.name for p in (folder / "trials" / "00001").iterdir()] == ["head.skops"]
    assert (folder / "trials" / "00001" / "head.skops").read_bytes() == b"head and more"
    listed = service.answer("w", ListFiles(3, "trials")).value
    assert listed == {"trials/00001/head.skops": 13}
    assert base64.b64decode(service.answer("w", ReadFile(4, "trials/00001/head.skops", 5)).value) == b"and more"


def test_small_files_are_placed_in_one_message(service, folder):
    files = {"trials/00001/head.skops": base64.b64encode(b"head").decode(), "trials/00001/empty": ""}
    assert not service.answer("w", PlaceFiles(1, UPLOAD, "trials/00001", files)).error
    assert {p.name: p.read_bytes() for p in (folder / "trials" / "00001").iterdir()} == {
        "head.skops": b"head",
        "empty": b"",
    }
    for path in ("../x", "journal.log"):
        assert service.answer("w", PlaceFiles(2, UPLOAD, "trials/00001", {path: ""})).error


def test_a_chunk_that_is_missing_is_noticed(service):
    assert "has 0 bytes, not 5" in write(service, "model/model.json", b"x", 5).error


@pytest.mark.parametrize(
    "path",
    ["../x", "secret.txt", "trials/../../x", "/etc/passwd", "trials//x", "journal.log", "model/./x", "", "trials/1/x"],
)
def test_no_other_files_are_read_or_written(service, path):
    assert write(service, path, b"x").error
    assert service.answer("w", ReadFile(1, path, 0)).error
    assert service.answer("w", PlaceFiles(1, UPLOAD, path)).error
    assert service.answer("w", ListFiles(1, path)).error


def test_links_are_not_followed(service, folder):
    (folder / "model").symlink_to(folder.parent)
    assert service.answer("w", ReadFile(1, "model/image.png", 0)).error
    (folder / "trials" / "00001" / "link").symlink_to(folder / "secret.txt")
    assert service.answer("w", ReadFile(1, "trials/00001/link", 0)).error
    assert "trials/00001/link" not in service.answer("w", ListFiles(1, "trials")).value


def test_images_are_read_by_their_number(service):
    assert base64.b64decode(service.answer("w", ReadImage(1, 0)).value) == b"pixels"
    assert service.answer("w", ReadImage(1, 1)).error
    assert service.answer("w", ReadImage(1, -1)).error


def test_a_bucket_is_extracted_by_one_worker_until_that_is_gone(service):
    assert service.answer("a", ClaimBucket(1, "table", 3)).value
    assert service.answer("a", ClaimBucket(2, "table", 3)).value
    assert not service.answer("b", ClaimBucket(1, "table", 3)).value
    service.forget("a")
    assert service.answer("b", ClaimBucket(2, "table", 3)).value


def test_a_bucket_is_given_back_by_whoever_holds_it(service):
    assert service.answer("a", ClaimBucket(1, "table", 3)).value
    assert not service.answer("b", ClaimBucket(1, "table", 3, release=True)).value
    assert not service.answer("b", ClaimBucket(2, "table", 3)).value
    service.answer("a", ClaimBucket(2, "table", 3, release=True))
    assert service.answer("b", ClaimBucket(3, "table", 3)).value


def test_a_file_of_which_nothing_was_uploaded_is_removed(service, folder):
    (folder / "test_images.csv").write_text("of another model")
    assert not service.answer("w", PlaceFiles(1, UPLOAD, "test_images.csv")).error
    assert not (folder / "test_images.csv").exists()


def test_one_file_is_listed_alone(service):
    listed = service.answer("w", ListFiles(1, "trials/00001/member.json")).value
    assert listed == {"trials/00001/member.json": 2}


def test_a_thousand_mutated_messages_are_refused_or_harmless(service, folder):
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and "lock" not in p.name}
    messages = [
        WriteFile(1, UPLOAD, "trials/00001/member.json", "e30=", 0),
        ReadFile(2, "trials/00001/member.json", 0),
        ExchangeLogs(3, ({"op_code": 1, "worker_id": "w"},), 0),
        ReadImage(4, 0),
        PlaceFiles(5, UPLOAD, "secret.txt"),
    ]
    rng = random.Random(0)
    for _ in range(1000):
        content = bytearray(encode(rng.choice(messages)))
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        try:
            message = decode(bytes(content), FROM_WORKER)
        except ProtocolError:
            continue
        service.answer("w", message)
    after = {p: p.read_bytes() for p in before if p.exists()}
    assert after == before


def journal_of_a_trial(service, folder):
    """The logs that a worker appends for a whole trial, whose study they leave as it was before."""
    study = optuna.create_study(study_name="s", storage=storage_on(Journal(folder)), direction="maximize")
    study.ask()
    before = (folder / "journal.log").read_bytes()
    storage, requests = served(service)
    remote = optuna.load_study(study_name="s", storage=storage)
    trial = optuna.Trial(remote, 0)
    trial.suggest_float("c", 0.0, 1.0)
    trial.suggest_categorical("d", ["x", "y"])
    trial.set_user_attr("device", "cpu")
    storage.set_trial_system_attr(0, "a", 1)
    trial.report(0.25, 1)
    remote.set_user_attr("note", "x")
    remote.tell(trial, 0.75)
    (folder / "journal.log").write_bytes(before)
    return [json.loads(json.dumps(log)) for request in requests for log in request.logs]


def test_logs_of_any_other_form_never_enter_the_journal(service, folder):
    logs = journal_of_a_trial(service, folder)
    assert {log["op_code"] for log in logs} == {2, 5, 6, 7, 8, 9}
    service = StudyService(folder, Journal(folder), [])
    rng, refused = random.Random(0), 0
    values = [None, True, -1, 10**30, 1e308, "x", "", [], [1, 2], {}, {"a": 1, "b": 2}, float("nan"), "2026-01-01"]
    for _ in range(1000):
        log = dict(rng.choice(logs))
        name = rng.choice(list(log))
        log[name] = rng.choice(values)
        if log[name] is None and rng.random() < 0.5:
            del log[name]
        refused += bool(service.answer("w", ExchangeLogs(1, (log,), 0)).error)
    (trial,) = optuna.load_study(study_name="s", storage=storage_on(Journal(folder))).trials
    assert 500 < refused < 1000  # some values are those that a worker may send
    assert trial.value in {None, 0.75}
    assert trial.params.get("c", 0.5) <= 1.0


@pytest.mark.parametrize(
    "request_", [ReadFile(1, "trials/00001/member.json", 10**30), ReadImage(1, 10**30), ExchangeLogs(1, (), 10**30)]
)
def test_no_number_of_a_worker_ends_the_search(service, folder, request_):
    (folder / "journal.log").write_bytes(b"")
    answer = service.answer("w", request_)
    assert answer.error or answer.value == ""
