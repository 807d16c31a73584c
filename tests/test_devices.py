"""Device slots: what `--devices` means on machines with and without GPUs."""

import subprocess
import sys
from dataclasses import replace

import pytest

from autotl import devices
from autotl.devices import GIB, Gpu, Machine, detect, parse_devices
from autotl.errors import AutotlError

H200 = "NVIDIA H200"
TWO_GPUS = Machine(16, 128 * GIB, (Gpu(H200, "0"), Gpu(H200, "1")))
LISTING = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa1111)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb2222)
"""
MIG_LISTING = """GPU 0: NVIDIA H200 (UUID: GPU-aaaa1111)
  MIG 1g.18gb     Device  0: (UUID: MIG-cccc3333)
  MIG 1g.18gb     Device  1: (UUID: MIG-dddd4444)
GPU 1: NVIDIA H200 (UUID: GPU-bbbb2222)
"""


@pytest.fixture(autouse=True)
def _without_cuda_variables(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def named(text: str, machine: Machine) -> list[str]:
    return [slot.name for slot in parse_devices(text, machine)]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cpu", ["cpu:0"]),
        ("cpu*3", ["cpu:0", "cpu:1", "cpu:2"]),
        ("cuda:1", ["cuda:1"]),
        ("cuda:0,cuda:1", ["cuda:0", "cuda:1"]),
        ("cuda", ["cuda:0", "cuda:1"]),
        ("cuda:0*2, cpu", ["cuda:0", "cuda:0#2", "cpu:0"]),
        ("cuda:0,cuda:0", ["cuda:0", "cuda:0#2"]),
        ("auto", ["cuda:0", "cuda:1"]),
    ],
)
def test_names_of_slots(text, names):
    assert named(text, TWO_GPUS) == names


@pytest.mark.parametrize(
    ("machine", "names"),
    [
        (Machine(2, 24 * GIB), ["cpu:0", "cpu:1"]),
        (Machine(32, 256 * GIB), [f"cpu:{i}" for i in range(8)]),
        (Machine(16, 7 * GIB), ["cpu:0", "cpu:1"]),
        (Machine(1, 1 * GIB), ["cpu:0"]),
        (Machine(8, 16 * GIB, mps=True), ["mps"]),
    ],
)
def test_auto_without_a_gpu_fits_cores_and_memory(machine, names):
    assert named("auto", machine) == names


def test_all_cores_are_divided_among_the_slots():
    assert [slot.threads for slot in parse_devices("cpu*3", Machine(8, 64 * GIB))] == [3, 3, 2]


def test_every_slot_has_at_least_one_thread():
    assert [slot.threads for slot in parse_devices("cpu*3", Machine(2, 64 * GIB))] == [1, 1, 1]


def test_a_gpu_worker_sees_only_its_gpu():
    slot = parse_devices("cuda:1", TWO_GPUS)[0]
    assert slot.device == "cuda:0"
    assert slot.environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert slot.environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_a_cpu_worker_sees_no_gpu_and_its_libraries_use_its_threads():
    slot = parse_devices("cpu*4", TWO_GPUS)[0]
    assert slot.device == "cpu"
    assert slot.environment["CUDA_VISIBLE_DEVICES"] == ""
    assert {slot.environment[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")} == {"4"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu", "'gpu' is not a device"),
        ("cuda:0,cup", "Did you mean 'cpu'"),
        ("cpu*0", "cpu\\*0"),
        ("", "'' is not a device"),
        ("auto,cpu", "'auto,cpu': auto stands alone.*or devices separated by commas"),
        ("cuda:2", "no GPU 'cuda:2'.*Available.*cuda:1 \\(NVIDIA H200\\).*--devices auto"),
        ("mps", "Apple silicon"),
    ],
)
def test_a_missing_device_is_refused_with_the_available_ones(text, message):
    with pytest.raises(AutotlError, match=message):
        parse_devices(text, TWO_GPUS)


def test_a_hidden_gpu_is_refused_with_the_variable_that_hides_it(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(AutotlError, match="CUDA_VISIBLE_DEVICES is ''"):
        parse_devices("cuda:0", Machine(4, 16 * GIB))


@pytest.mark.parametrize(
    ("visible", "seen"),
    [
        (None, ["0", "1"]),
        ("1", ["1"]),
        ("1,0", ["1", "0"]),
        ("GPU-bbbb", ["GPU-bbbb"]),
        ("0,-1,1", ["0"]),
        ("", []),
    ],
)
def test_an_inherited_choice_of_gpus_is_kept(monkeypatch, visible, seen):
    monkeypatch.setattr(devices, "_nvidia_smi", lambda: LISTING)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.visible for gpu in detect().gpus] == seen


def test_inherited_indices_keep_their_order(monkeypatch):
    monkeypatch.setattr(devices, "_nvidia_smi", lambda: LISTING)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    slot = parse_devices("cuda:0", detect())[0]
    assert slot.environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert "CUDA_DEVICE_ORDER" not in slot.environment


def test_mig_instances_stand_in_the_place_of_their_gpu(monkeypatch):
    monkeypatch.setattr(devices, "_nvidia_smi", lambda: MIG_LISTING)
    assert [gpu.visible for gpu in detect().gpus] == ["MIG-cccc3333", "MIG-dddd4444", "1"]


def test_without_nvidia_smi_the_drivers_files_are_read(tmp_path):
    for bus, uuid in (("0000:01:00.0", "GPU-aaaa1111"), ("0000:41:00.0", "GPU-bbbb2222")):
        (tmp_path / bus).mkdir()
        (tmp_path / bus / "information").write_text(f"Model: \t\t NVIDIA L4\nIRQ:   \t\t 90\nGPU UUID: \t {uuid}\n")
    assert devices._from_driver(tmp_path) == [
        ("GPU-aaaa1111", Gpu("NVIDIA L4", "0")),
        ("GPU-bbbb2222", Gpu("NVIDIA L4", "1")),
    ]


def test_detects_cores_and_memory():
    machine = detect()
    assert machine.cores >= 1
    assert machine.memory > GIB // 4


def test_detection_does_not_import_torch():
    code = "import sys; from autotl.devices import detect; detect(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("text", "machine", "count"),
    [
        ("cpu*200", Machine(2, 24 * GIB), 4),
        ("cpu*100,cpu*100", Machine(2, 24 * GIB), 4),
        ("cpu*8", Machine(64, 6 * GIB), 2),
        ("cuda*50", replace(TWO_GPUS, cores=1), 2),  # every device keeps a worker
        ("cuda:0*9,cuda:1", replace(TWO_GPUS, cores=2, memory=64 * GIB), 4),
    ],
)
def test_more_workers_than_cores_and_memory_carry_are_left_out_with_a_warning(text, machine, count):
    with pytest.warns(UserWarning, match=f"{count} are started.*--force"):
        slots = parse_devices(text, machine)
    assert len(slots) == count
    if "cuda:1" in text:
        assert "cuda:1" in [slot.name for slot in slots]


def test_force_starts_all_workers():
    assert len(parse_devices("cpu*200", Machine(2, 24 * GIB), force=True)) == 200
