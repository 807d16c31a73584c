"""A worker on another host must have the coordinator's weights."""

from types import SimpleNamespace

import pytest

from autotl.errors import AutotlError, HostUnfit
from autotl.trial.study_link import require_same_weights
from autotl.trial.worker import _last_message
from autotl.workers.messages import Probed


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
