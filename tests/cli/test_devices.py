"""`autotl devices`: found, asked, and why not used."""

import json
from collections.abc import Callable

import pytest
from typer.testing import Result

from autotl import devices, hardware
from autotl.devices import Slot
from autotl.engines import probe
from autotl.engines.probe import ProbeResult
from autotl.hardware import GIB, Gpu, Machine, UnusedGpu

MACHINE = Machine(
    16, 128 * GIB, (Gpu("NVIDIA H200", "0"), Gpu("Tesla K80", "1")),
    unused=(UnusedGpu("AMD gfx942", "torch 2.14 is built without ROCm. Type: pip install torch"),),
)  # fmt: skip


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with one GPU that works, one that doesn't, and one that PyTorch isn't built for."""
    known = {
        "cpu:0": ProbeResult("cpu", usable=True, bf16=True, precision="bf16"),
        "cuda:0": ProbeResult("cuda:0", True, "", "NVIDIA H200", 140 * GIB, True, True, "bf16"),
        "cuda:1": ProbeResult("cuda:0", usable=False, reason="its driver is too old"),
    }
    monkeypatch.setattr(hardware, "detect", lambda: MACHINE)
    monkeypatch.setattr(devices, "detect", lambda: MACHINE)
    monkeypatch.setattr(probe, "probe_apart", lambda slots, time_limit: {s.place: known[s.place] for s in slots})


@pytest.mark.usefixtures("answers")
def test_each_device_is_shown_with_what_it_answered(run: Callable[..., Result]) -> None:
    shown = run("devices").stdout
    assert "✓ cuda:0  NVIDIA H200, 140 GiB, bf16" in shown
    assert "✗ cuda:1  Tesla K80" in shown
    assert "not used: its driver is too old" in shown
    assert "built without ROCm. Type: pip install torch" in " ".join(shown.split())
    assert "--devices auto starts 9 workers: cuda:0 (8 cores), cpu:0 (1 core)" in shown
    assert "cuda:1 (" not in shown


@pytest.mark.usefixtures("answers")
def test_a_program_reads_them_as_json(run: Callable[..., Result]) -> None:
    found = json.loads(run("devices", "--json").stdout)
    assert [(device["place"], device["usable"]) for device in found["devices"]] == [
        ("cpu", True),
        ("cuda:0", True),
        ("cuda:1", False),
        ("-", False),
    ]
    assert found["auto"][0] == {"name": "cuda:0", "threads": 8}
    assert found["torch"]["version"]


SLOT = Slot("cpu:0", "cpu", "cpu", 1)


@pytest.mark.slow
def test_a_device_is_asked_by_a_process_of_its_own() -> None:
    assert probe.probe_apart([SLOT]) == {"cpu:0": probe.probe("cpu")}


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.kill(os.getpid(), 11)", "ended with exit code -11"),
        ("import sys; sys.exit('no driver')", "ended with exit code 1: no driver"),
        ("import time; time.sleep(60)", "didn't answer within 1 s"),
    ],
)
def test_a_process_that_crashes_or_hangs_costs_a_line(
    program: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = probe.subprocess.run
    monkeypatch.setattr(probe.subprocess, "run", lambda command, **more: original([command[0], "-c", program], **more))
    answer = probe.probe_apart([SLOT], time_limit=1.0)["cpu:0"]
    assert not answer.usable
    assert reason in answer.reason
