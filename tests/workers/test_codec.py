"""Messages survive the way through JSON, and nothing else is taken for a message."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from autotl.config import StudyConfig
from autotl.data.dataset import Finding, ImageDataset, Skipped
from autotl.data.splits import Split
from autotl.devices import Slot
from autotl.engines.probe import ProbeResult
from autotl.engines.recorded import FeatureSource
from autotl.features.progress import ExtractionProgress
from autotl.study.advice import Advice
from autotl.study.needs import Recording
from autotl.study.space import Choices
from autotl.workers.codec import ProtocolError, decode, encode
from autotl.workers.messages import (
    FROM_COORDINATOR,
    FROM_WORKER,
    Activity,
    Align,
    Aligned,
    Context,
    Crashed,
    DeviceError,
    DiskIsFull,
    Finalize,
    Finalized,
    Hello,
    HookCalled,
    Log,
    ModelSaved,
    PluginFailed,
    PluginIsBroken,
    Probed,
    Ready,
    Record,
    Recorded,
    RecordTest,
    RunTrial,
    SearchFacts,
    SetDeadline,
    Setup,
    Stop,
    TrialEnded,
    TrialProgress,
    TrialStarted,
)
from autotl.workers.requests import (
    Answer,
    ClaimBucket,
    ExchangeLogs,
    ListFiles,
    PlaceFiles,
    ReadFile,
    ReadImage,
    WriteFile,
)

SLOT = Slot("cuda:0#2", "cuda", "cuda:0", 4, {"CUDA_VISIBLE_DEVICES": "MIG-a b"})
MESSAGES = [
    SetDeadline(None),
    SetDeadline(1.5),
    RunTrial(7, 30.0),
    RunTrial(8, None, FeatureSource(Path("/cache"), "torch", "torch 2", "bf16", "cuda")),
    Record(Recording("resnet18", "dihedral", 7)),
    RecordTest({"resnet18": 0.02}, 12.5),
    Finalize(None, {"a backbone": 0.25}, SearchFacts(1.0, {"complete": 2}, {"torch": "2"}), False, True),
    Stop(),
    Hello("token", SLOT),
    Ready(),
    Probed(ProbeResult("cuda:0", usable=True, name="T4", memory_bytes=2**34, fp16=True, precision="fp16")),
    Recorded(FeatureSource(Path("/cache"), "torch", "torch 2", "fp16", "cuda")),
    Recorded(None, "RuntimeError: no", is_device_error=True),
    TrialStarted(7, "fine_tuning", "resnet18@/a folder/w · x.pth", "linear", "resnet18 · fine_tuning"),
    TrialProgress(7, 0.5, 0.875),
    TrialEnded(7),
    DeviceError(7, "CUDA error"),
    ExtractionProgress("a backbone", "prefix-3", "flip-0", 64, 128, 99.5),
    Activity("refitting"),
    HookCalled("mlflow", "autotl_trial_finished"),
    Log("line – with “quotes”\n"),
    PluginFailed("plugin", "autotl_trial_finished", "text"),
    PluginIsBroken("text"),
    DiskIsFull("text", Path("/full/disk")),
    ModelSaved({"test": None, "members": [{"trial": 1, "weight": 0.5}]}),
    Finalized({"seconds": 1.0}),
    Crashed("Traceback"),
    ExchangeLogs(1, ({"op_code": 6, "worker_id": "w", "trial_id": 3, "intermediate_value": 0.5},), 17),
    ListFiles(2, "trials"),
    ReadFile(3, "model/model.json", 0),
    WriteFile(4, "0123456789abcdef", "trials/00001/head.skops", "UEs=", 1 << 20),
    PlaceFiles(5, "0123456789abcdef", "trials/00001"),
    ReadImage(6, 41),
    ClaimBucket(8, "0" * 64, 31),
    ClaimBucket(9, "0" * 64, 31, release=True),
    Answer(6, "/9j/"),
    Answer(7, error="ValueError: not a file of a trial"),
    Align(("resnet18", "lite0"), 256, 6.5),
    Aligned(Advice(("lite0", "resnet18"), 2), "", is_device_error=False),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_json(message):
    content = encode(message)
    assert json.loads(content)["type"] == type(message).__name__
    assert decode(content, {**FROM_COORDINATOR, **FROM_WORKER}) == message


def test_every_message_of_the_protocol_is_tested():
    assert {type(message).__name__ for message in MESSAGES} | {"Setup"} == {*FROM_COORDINATOR, *FROM_WORKER}


def test_a_context_survives_with_names_that_are_not_unicode(tmp_path):
    strange = Path(os.fsdecode(b"/images/caf\xe9 and \xff.png"))
    dataset = ImageDataset(
        "cells",
        ("a", "b"),
        (strange, Path("/images/b.png")),
        np.array([0, 1]),
        ("0" * 32, "f" * 32),
        ("", "test"),
        ("", "patient 1"),
        (None, 1.5),
        (0, 1),
        skipped=(Skipped(Path("/images/c.png"), "it is empty"),),
        findings=(Finding("few_images", "Few.", 1, ("a",), serious=False),),
        warnings=("Few.",),
    )
    config = StudyConfig(data="cells", output=tmp_path, time="90s", backbones=["resnet18@/a folder/w.pth"])
    split = Split(np.array([0]), np.array([1]), np.array([], np.int64), 0, ("none",))
    context = Context(config, tmp_path, dataset, split, Choices(("b",), ("s",), ("h",), 1, 2), SLOT, 2)
    again = decode(encode(Setup(context, None)), FROM_COORDINATOR).context
    assert again.config == config
    assert again.dataset.paths == dataset.paths
    assert os.fsencode(again.dataset.paths[0]) == b"/images/caf\xe9 and \xff.png"
    for name in (
        "name",
        "classes",
        "digests",
        "subsets",
        "groups",
        "times",
        "lookalikes",
        "skipped",
        "findings",
        "warnings",
    ):
        assert getattr(again.dataset, name) == getattr(dataset, name)
    np.testing.assert_array_equal(again.dataset.labels, dataset.labels)
    assert again.split.to_dict() == split.to_dict()
    assert again.split.test.dtype == np.int64
    assert (again.choices, again.slot, again.cores, again.folder) == (context.choices, SLOT, 2, tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04]\x94.",  # a pickle
        b"[]",
        b'"Ready"',
        b'{"number": 1}',
        b'{"type": "TrialEnded"}',
        b'{"type": "TrialEnded", "number": "1"}',
        b'{"type": "TrialEnded", "number": true}',
        b'{"type": "TrialEnded", "number": 1, "more": 2}',
        b'{"type": "StudyConfig", "data": "x"}',
        b'{"type": "Hello", "token": "t", "slot": {"name": "cpu"}}',
        b'{"type": "SetDeadline", "remaining": "soon"}',
        b"[" * 100_000,
    ],
)
def test_anything_else_is_refused(content):
    with pytest.raises(ProtocolError):
        decode(content, {**FROM_COORDINATOR, **FROM_WORKER})


def test_a_worker_takes_no_message_of_a_worker():
    with pytest.raises(ProtocolError):
        decode(encode(Ready()), FROM_COORDINATOR)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_has_no_word_for_is_an_error_where_it_is_sent(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode(TrialProgress(1, 0.5, value))


def test_a_value_without_a_json_form_is_named():
    with pytest.raises(TypeError, match="A object has no JSON form"):
        encode(ModelSaved({"model": object()}))
