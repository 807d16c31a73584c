"""The torch device for "auto", for a name, and for a GPU that doesn't work."""

import os

import pytest

from autotl import devices
from autotl.engines.probe import ProbeResult
from autotl.errors import AutotlError
from autotl.hardware import Gpu, Machine
from autotl.model import device
from autotl.model.device import resolve_device, take_device


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """A machine with two GPUs. The test fills the set with the torch devices that work."""
    working: set[str] = set()
    machine = Machine(cores=4, memory=2**34, gpus=(Gpu("H100", "0"), Gpu("H100", "1")))
    monkeypatch.setattr(devices, "detect", lambda: machine)
    monkeypatch.setattr(
        device,
        "probe",
        lambda name: ProbeResult(name, name in working, "it is full"),
    )
    return working


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "detect", lambda: Machine(cores=4, memory=2**34))


@pytest.mark.usefixtures("no_gpu")
def test_auto_is_the_cpu_without_a_gpu() -> None:
    assert resolve_device("auto") == "cpu"


def test_auto_is_the_first_gpu_that_works(gpus: set[str]) -> None:
    gpus.update({"cuda:0", "cuda:1"})
    assert resolve_device("auto") == "cuda:0"
    gpus.remove("cuda:0")
    assert resolve_device("auto") == "cuda:1"


def test_auto_is_the_cpu_with_a_warning_if_no_gpu_works(gpus: set[str]) -> None:
    with pytest.warns(UserWarning, match=r"cuda:\d is not used: it is full. Predictions run on the CPU"):
        assert resolve_device("auto") == "cpu"


def test_a_named_gpu_is_taken_and_the_environment_stays_as_it_is(
    gpus: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changed visibility would hide the other GPUs from the workers that a later search starts."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus.update({"cuda:0", "cuda:1"})
    assert resolve_device("cuda:1") == "cuda:1"
    assert resolve_device("cuda") == "cuda:0"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_named_gpu_that_does_not_work_is_an_error(gpus: set[str]) -> None:
    with pytest.raises(AutotlError, match=r"can't use 'cuda:1'.*cuda:1 is not used: it is full.*device='cpu'"):
        resolve_device("cuda:1")


@pytest.mark.usefixtures("no_gpu")
def test_a_device_that_the_machine_does_not_have_is_an_error() -> None:
    with pytest.raises(AutotlError, match="no GPU 'cuda:0'"):
        resolve_device("cuda:0")


def test_take_device_names_the_cpu() -> None:
    assert take_device("cpu*2") == "cpu"


def test_take_device_makes_a_gpu_the_only_visible_one(gpus: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ) | {"CUDA_VISIBLE_DEVICES": "0,1"})
    gpus.add("cuda:0")
    assert take_device("cuda:1") == "cuda:0"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


def test_take_device_skips_a_gpu_that_does_not_work(gpus: set[str]) -> None:
    gpus.add("cuda:1")
    assert take_device("auto") == "cuda:1"


def test_auto_is_apples_gpu_or_intels_where_they_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "probe", lambda name: ProbeResult(name, usable=True))
    monkeypatch.setattr(devices, "detect", lambda: Machine(8, 2**34, mps=True))
    assert resolve_device("auto") == take_device("auto") == "mps"
    monkeypatch.setattr(devices, "detect", lambda: Machine(8, 2**34, xpus=(Gpu("Intel GPU", "0", "intel"),)))
    assert resolve_device("auto") == resolve_device("xpu") == "xpu:0"
