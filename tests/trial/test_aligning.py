"""The alignment job of a worker: what it sends, what it leaves, and that it fails without harm."""

import json
from types import SimpleNamespace

import pytest

from autotl.clock import Deadline
from autotl.trial.aligning import align
from autotl.workers.messages import Align


@pytest.fixture
def state(patches, extractor, tiny, tmp_path):
    dataset, split = patches
    sent = []
    return SimpleNamespace(
        context=SimpleNamespace(
            dataset=dataset,
            split=split,
            folder=tmp_path,
            config=SimpleNamespace(seed=0),
            choices=SimpleNamespace(backbones=("test_resnet",)),
        ),
        registry=SimpleNamespace(backbone=tiny),
        extractor=extractor,
        deadline=Deadline(),
        send=sent.append,
        publish=lambda *names: None,
        sent=sent,
    )


@pytest.mark.slow
def test_the_order_is_sent_and_the_file_is_written(state, tmp_path):
    assert align(state, Align(("test_resnet",), 24, 600.0))
    (message,) = state.sent
    kept = json.loads((tmp_path / "alignment.json").read_text())
    assert message.advice.backbones == tuple(card["backbone"] for card in kept["cards"])
    assert kept["cards"][0]["num_images"] == 24
    assert len(state.extractor.split.train) == 36  # trials go on with their own split


def test_a_job_that_is_out_of_time_changes_nothing(state, tmp_path):
    assert align(state, Align(("test_resnet",), 24, 0.0))
    (message,) = state.sent
    assert message.advice.backbones == ()
    assert "the time was up" in message.cause
    assert not (tmp_path / "alignment.json").exists()
