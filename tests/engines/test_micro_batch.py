"""When memory runs out the micro-batch halves until it fits, and nothing else about training changes.

The device is a stub that raises what a GPU raises when a batch exceeds its capacity.
"""

import json

import numpy as np
import pytest
import torch
from torch import nn

from autotl.devices import is_device_error, is_out_of_memory
from autotl.engines import micro_batch
from autotl.engines.micro_batch import MicroBatch, persist_to
from autotl.engines.torch import TorchEngine
from autotl.recipe import Recipe
from autotl.strategies.fine_tuning import FineTuning, _Net
from autotl.strategies.head_training import train_head

pytestmark = pytest.mark.slow

CUDA_ERROR = "CUDA error: an illegal memory access was encountered"
PARAMS = {"lr": 1e-2, "weight_decay": 0.01, "epochs": 3}


class StubMemory:
    """The memory of a device, with a capacity in samples. Records the batches that fitted, and those that did not."""

    def __init__(self, capacity: int):
        self.capacity, self.fitted, self.refused = capacity, [], []

    def limit(self, module: nn.Module) -> nn.Module:
        module.register_forward_pre_hook(lambda module, inputs: self.take(len(inputs[0])))
        return module

    def take(self, batch: int) -> None:
        if batch > self.capacity:
            self.refused.append(batch)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.fitted.append(batch)


@pytest.fixture(autouse=True)
def _no_remembered_sizes(monkeypatch):
    monkeypatch.setattr(micro_batch, "_fitting_sizes", {})
    monkeypatch.setattr(micro_batch, "_until_growth", {})
    monkeypatch.setattr(micro_batch, "_files", [])


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    return rng.normal(size=(64, 6)).astype(np.float32), rng.integers(0, 3, 64)


def trained(samples, task, device, **params):
    """The weights of a head after training with batches of 64."""
    features, labels = samples
    torch.manual_seed(0)
    head = device.limit(nn.Linear(6, 3))
    validation = [np.zeros((4, 6), np.float32)]
    train_head(head, features, labels, validation, {**PARAMS, **params}, task, "cpu", lambda *_: None, 0)
    return head.weight.detach()


@pytest.fixture
def problem(task, tiny, samples):
    lines = []
    problem = task(tiny("test_resnet"), "linear", log=lines.append)
    problem.train_labels, problem.validation_labels = samples[1], np.zeros(4, np.int64)
    problem.lines = lines
    return problem


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"class_weight": "balanced", "label_smoothing": 0.1},
        {"mixup": 0.8},
        {"mixup": 0.8, "class_weight": "balanced"},
    ],
    ids=str,
)
def test_out_of_memory_at_64_32_and_16_trains_the_same_batch_in_micro_batches_of_8(params, samples, problem):
    whole, small = StubMemory(64), StubMemory(8)
    expected = trained(samples, problem, whole, **params)
    actual = trained(samples, problem, small, **params)
    assert small.refused == [64, 32, 16]  # once each: the size that fits is remembered for the following steps
    assert whole.fitted[:3] == [64, 4, 64]
    assert small.fitted[:9] == [8] * 8 + [4]
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)
    assert [line.split()[-1] for line in problem.lines] == ["32", "16", "8"]


def test_the_size_is_remembered_for_one_network_on_one_device(samples, problem):
    trained(samples, problem, StubMemory(8))
    again = StubMemory(8)
    trained(samples, problem, again)
    assert again.refused == []
    assert MicroBatch("linear on features", "cuda:0").size_for(64) == 64
    assert MicroBatch("another", "cpu").size_for(64) == 64


def test_the_size_grows_again_once_there_is_memory(monkeypatch):
    monkeypatch.setattr(micro_batch, "GROW_AFTER", 4)
    device, tried = StubMemory(capacity=16), []
    micro = MicroBatch("network", "cuda:0")

    def call() -> None:
        tried.append(micro.size_for(64))
        micro.forward(64, lambda samples: device.take(len(range(64)[samples])))

    for _ in range(16):
        call()
    assert tried[:4] == [64, 16, 16, 16]
    assert device.refused.count(32) < 4  # after each failure it waits twice as long
    device.capacity = 64
    for _ in range(64):
        call()
    assert micro.size_for(64) == 64
    assert tried[-1] == 64


def test_the_size_is_remembered_for_later_processes(tmp_path, monkeypatch):
    file = tmp_path / "micro_batches.json"
    persist_to(file)
    MicroBatch("resnet18", "cuda:0").forward(64, lambda samples: StubMemory(20).take(samples.stop - samples.start))
    assert json.loads(file.read_text()) == {"resnet18 on cuda:0": 16}
    monkeypatch.setattr(micro_batch, "_fitting_sizes", {})
    monkeypatch.setattr(micro_batch, "_until_growth", {})
    persist_to(file)
    assert MicroBatch("resnet18", "cuda:0").size_for(64) == 16


@pytest.mark.parametrize(
    "content", ["", "[]", '{"a on cpu": "8", "b on cpu": -1}', "\x00", "[" * 100_000], ids=range(5)
)
def test_a_damaged_file_of_sizes_is_ignored(content, tmp_path):
    (tmp_path / "sizes.json").write_text(content)
    persist_to(tmp_path / "sizes.json")
    assert MicroBatch("a", "cpu").size_for(64) == MicroBatch("b", "cpu").size_for(64) == 64


def test_a_single_sample_that_does_not_fit_is_an_error(samples, problem):
    with pytest.raises(torch.OutOfMemoryError):
        trained(samples, problem, StubMemory(0))


def test_other_errors_are_not_retried():
    attempts = []

    def run(samples):
        attempts.append(samples)
        raise RuntimeError(CUDA_ERROR)

    with pytest.raises(RuntimeError, match="illegal"):
        MicroBatch("resnet18", "cuda:0").forward(64, run)
    assert len(attempts) == 1


def test_fine_tuning_completes_where_memory_runs_out(tiny, task, monkeypatch):
    device, whole = StubMemory(5), _Net._network
    monkeypatch.setattr(_Net, "_network", lambda self, start: device.limit(whole(self, start)))
    params = {**FineTuning().defaults(None), "epochs": 1}
    problem = task(tiny("test_resnet"), "linear")
    recipe = Recipe("test_resnet", "fine_tuning", "linear", 0, params, problem.head.defaults())
    result = FineTuning().fit(recipe, problem, "cpu", lambda *_: None)
    assert device.refused == [32, 16, 8, 12, 6]  # training; then scoring the 12 validation images
    assert {**result.recipe.strategy_params, **params} == result.recipe.strategy_params
    assert len(result.history) == 1


def test_extraction_completes_where_memory_runs_out():
    device = StubMemory(10)
    module = device.limit(nn.Flatten())
    images = np.arange(32 * 12, dtype=np.uint8).reshape(32, 2, 2, 3)
    features = TorchEngine(bf16=False).compile(module, 2, "cpu", 1, "fp32")(images)
    np.testing.assert_array_equal(features, images.reshape(32, 12))
    assert device.fitted == [8] * 4


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.97 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=str,
)
def test_out_of_memory_errors_are_recognised(error):
    assert is_out_of_memory(error)
    assert not is_device_error(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(CUDA_ERROR),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: unspecified launch failure"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasSgemm`"),
        type("AcceleratorError", (RuntimeError,), {})("something else"),
    ],
    ids=str,
)
def test_device_errors_are_recognised(error):
    assert is_device_error(error)
    assert not is_out_of_memory(error)


def test_the_cause_of_an_error_is_also_checked():
    error = ValueError("no head")
    error.__cause__ = RuntimeError(CUDA_ERROR)
    assert is_device_error(error)


@pytest.mark.parametrize("error", [ValueError("no memory of that"), RuntimeError("shapes differ"), None])
def test_other_errors_are_neither(error):
    assert not is_device_error(error)
    assert not is_out_of_memory(error)
