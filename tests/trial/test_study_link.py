"""A worker on another host must have the coordinator's weights."""

from types import SimpleNamespace

import pytest

from autotl.clusters import Site
from autotl.errors import AutotlError, HostUnfit
from autotl.study.storage import Journal
from autotl.trial import study_link
from autotl.trial.study_link import StudyLink, require_same_weights
from autotl.trial.worker import _last_message
from autotl.workers.messages import Probed
from autotl.workers.requests import PlaceFiles, WriteFile
from autotl.workers.service import StudyService


class Registry:
    """Backbones whose digests are their names; "gone" has no weights."""

    def backbone(self, name):
        if name == "gone":
            raise AutotlError("its weights are not on this machine")
        return SimpleNamespace(digest=f"digest of {name}")


def context(**digests):
    return SimpleNamespace(backbone_digests=digests)


def test_the_same_weights_are_taken():
    require_same_weights(context(a="digest of a", b="digest of b"), Registry())


@pytest.mark.parametrize(
    ("digests", "expected"),
    [({"a": "another"}, "a has other weights"), ({"gone": "digest of gone"}, "its weights are not on this machine")],
)
def test_others_are_refused_and_the_coordinator_hears_why(digests, expected):
    with pytest.raises(HostUnfit, match=expected) as raised:
        require_same_weights(context(**digests), Registry())
    message = _last_message(raised.value, None)
    assert isinstance(message, Probed)
    assert not message.probe.usable
    assert expected in message.probe.reason


def test_a_folder_is_published_in_one_message_but_for_large_files(tmp_path, monkeypatch):
    monkeypatch.setattr(study_link, "CHUNK_BYTES", 100)
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "trials" / "00003").mkdir(parents=True)
    there.mkdir()
    contents = {"a": b"a" * 60, "b": b"", "c": bytes(250), "d": b"d" * 30}
    for name, content in contents.items():
        (here / "trials" / "00003" / name).write_bytes(content)
    service, requests = StudyService(there, Journal(there), []), []

    def ask(request):
        requests.append(request(len(requests)))
        answer = service.answer("w", requests[-1])
        assert not answer.error
        return answer.value

    StudyLink(ask, Site(str(here), str(here))).publish("trials/00003")
    assert {path.name: path.read_bytes() for path in (there / "trials" / "00003").iterdir()} == contents
    assert [type(request) for request in requests] == [WriteFile, WriteFile, WriteFile, PlaceFiles]
