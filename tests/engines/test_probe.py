"""A device's answers: on the CPU for real, and with stand-ins for PyTorch's answers about devices that aren't here."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from autotl.engines import probe as module
from autotl.engines.probe import ProbeResult, native_precision, probe
from autotl.hardware import GIB


@pytest.fixture(autouse=True)
def _forget():
    """Precisions are kept for each device and process."""
    native_precision.cache_clear()
    yield
    native_precision.cache_clear()


def test_the_cpu_works():
    result = probe("cpu")
    assert (result.usable, result.reason) == (True, "")
    assert result.bf16 == (result.precision == "bf16") == bool(torch.cpu._is_avx512_bf16_supported())
    assert not result.fp16


def test_wrong_numbers_are_noticed(monkeypatch):
    assert module._computes(torch, "cpu", "fp32")
    assert module._computes(torch, "cpu", "bf16")
    assert module._computes(torch, "cpu", "fp16")
    multiply = torch.matmul
    calls = []

    def faulty(a, b):
        calls.append(a)
        return multiply(a, b) * (1 if len(calls) == 1 else float("nan"))

    monkeypatch.setattr(torch, "matmul", faulty)
    result = probe("cpu")
    assert not result.usable
    assert "wrong results" in result.reason


# a GPU that isn't here: PyTorch's answers about it are the test's, and it computes on the CPU


@pytest.fixture
def gpu(monkeypatch):
    """The facts of the only CUDA device, which tests change: an H100 with a driver that works."""
    facts = SimpleNamespace(
        cuda="13.0", hip=None, capability=(9, 0), architectures=["sm_75", "sm_80", "sm_90", "compute_90"],
        bf16=True, free=70 * GIB, memory=80 * GIB, count=1, error=None,
    )  # fmt: skip

    def init():
        if facts.error:
            raise facts.error

    def memory(device):
        init()
        return facts.free, facts.memory

    monkeypatch.setattr(torch.version, "cuda", facts.cuda)
    monkeypatch.setattr(torch.version, "hip", facts.hip)
    for name, answer in {
        "is_available": lambda: facts.error is None,
        "init": init,
        "device_count": lambda: facts.count,
        "get_arch_list": lambda: facts.architectures,
        "get_device_capability": lambda device: facts.capability,
        "is_bf16_supported": lambda including_emulation: facts.bf16,
        "mem_get_info": memory,
        "get_device_name": lambda device: "NVIDIA H100",
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    computes = module._computes
    monkeypatch.setattr(module, "_computes", lambda torch, device, precision: computes(torch, "cpu", precision))
    return facts


def test_a_gpu_that_works_is_described(gpu):
    result = probe("cuda:0")
    assert result == ProbeResult("cuda:0", True, "", "NVIDIA H100", 80 * GIB, bf16=True, fp16=True, precision="bf16")
    assert result.describe() == "NVIDIA H100, 80 GiB, bf16"


@pytest.mark.parametrize(
    ("name", "capability", "bf16", "precision"),
    [
        ("T4", (7, 5), False, "fp16"),
        ("V100", (7, 0), False, "fp16"),
        ("GTX 1080", (6, 1), False, "fp32"),
        ("A100", (8, 0), True, "bf16"),
    ],
)
def test_the_native_precision_is_that_of_the_chip(gpu, name, capability, bf16, precision):
    gpu.capability, gpu.bf16 = capability, bf16
    assert native_precision("cuda:0") == precision
    assert native_precision("cuda:0") == precision  # kept


def test_a_precision_with_wrong_results_is_not_used(gpu, monkeypatch):
    """As fp16 convolutions on some chips, which give NaN."""
    gpu.bf16 = False
    monkeypatch.setattr(module, "_computes", lambda torch, device, precision: precision != "fp16")
    assert probe("cuda:0").precision == "fp32"


def test_a_full_gpu_keeps_its_precision(gpu):
    """The memory may be this process's own, later on."""
    gpu.free = 0
    assert native_precision("cuda:0") == "bf16"


def test_amds_gpus_have_fp16_whatever_their_capability(gpu, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    gpu.capability, gpu.bf16 = (0, 0), False
    assert probe("cuda:0").precision == "fp16"


def test_a_torch_for_cpus_is_named_with_what_to_install(gpu, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    result = probe("cuda:0")
    assert not result.usable
    assert "is built without CUDA. Type: pip install" in result.reason
    assert "--index-url https://download.pytorch.org/whl/cu" in result.reason


@pytest.mark.parametrize(
    ("capability", "architectures", "usable"),
    [
        ((7, 0), ["sm_75", "sm_80"], False),
        ((8, 9), ["sm_80"], True),  # machine code of the same major number
        ((12, 0), ["sm_80", "sm_90"], False),
        ((12, 0), ["sm_80", "compute_90"], True),  # PTX
        ((9, 0), ["sm_90a"], True),
        ((12, 0), ["sm_120"], True),
    ],
)
def test_a_gpu_that_torch_has_no_code_for_is_named_with_its_capability(gpu, capability, architectures, usable):
    gpu.capability, gpu.architectures = capability, architectures
    result = probe("cuda:0")
    assert result.usable is usable
    if not usable:
        assert f"compute capability {capability[0]}.{capability[1]} is not among" in result.reason
        assert "Type: pip install" in result.reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            "The NVIDIA driver on your system is too old (found version 11040)",
            "Update the driver, or type: pip install",
        ),
        ("Found no NVIDIA driver on your system.", "Found no NVIDIA driver"),
        ("CUDA error: out of memory", "End the process that uses it, which nvidia-smi lists"),
        ("CUDA error: no kernel image is available for execution", "not built for it. Type: pip install"),
    ],
)
def test_what_a_driver_says_is_the_reason(gpu, error, reason):
    gpu.error = RuntimeError(error)
    result = probe("cuda:0")
    assert not result.usable
    assert reason in result.reason


def test_a_gpu_that_another_process_fills_is_not_usable(gpu):
    gpu.free = GIB // 10
    result = probe("cuda:0")
    assert not result.usable
    assert result.reason.startswith("its memory is full: 0.1 of 80.0 GiB are free. End the process")


def test_a_gpu_that_this_process_does_not_see_is_not_usable(gpu):
    assert probe("cuda:1").reason == "PyTorch sees 1 such devices in this process"


def test_apples_gpu_computes_in_fp32(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    computes = module._computes
    monkeypatch.setattr(module, "_computes", lambda torch, device, precision: computes(torch, "cpu", precision))
    result = probe("mps")
    assert (result.usable, result.name, result.precision) == (True, "Apple silicon", "fp32")


def test_intels_gpus_need_a_torch_of_their_own(monkeypatch):
    monkeypatch.setattr(torch.version, "xpu", None)
    assert "built without Intel GPUs. Type: pip install" in probe("xpu:0").reason


@pytest.mark.slow
def test_an_answer_is_printed_as_json():
    command = [sys.executable, "-m", "autotl.engines.probe", "cpu"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert ProbeResult(**json.loads(printed)) == probe("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_real_gpu_works():
    result = probe("cuda:0")
    assert result.usable, result.reason
    assert result.name == torch.cuda.get_device_name(0)
    assert result.memory_bytes > GIB
    assert result.precision == native_precision("cuda:0") != "fp32"
    assert probe("cuda:99").reason.startswith("PyTorch sees")
