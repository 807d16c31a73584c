"""Device slots: what `--devices` means on machines with and without GPUs."""

from dataclasses import replace

import pytest

from autotl.devices import parse_devices, slots_without
from autotl.errors import AutotlError
from autotl.hardware import GIB, Gpu, Machine, UnusedGpu

H200 = "NVIDIA H200"
GPU = Gpu(H200, "0")
TWO_GPUS = Machine(16, 128 * GIB, (Gpu(H200, "0"), Gpu(H200, "1")))


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
        ("auto", ["cuda:0", "cuda:1", *(f"cpu:{i}" for i in range(8))]),
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
    ],
)
def test_auto_without_a_gpu_fits_cores_and_memory(machine, names):
    assert named("auto", machine) == names


@pytest.mark.parametrize(
    ("machine", "threads"),
    [
        (Machine(1, 8 * GIB, (GPU,)), {"cuda:0": [1]}),
        (Machine(2, 16 * GIB, (GPU,)), {"cuda:0": [1], "cpu": [1]}),
        (Machine(4, 16 * GIB, (GPU,)), {"cuda:0": [2], "cpu": [1] * 2}),
        (Machine(16, 128 * GIB, (GPU,)), {"cuda:0": [8], "cpu": [1] * 8}),
        (Machine(64, 512 * GIB, (GPU,)), {"cuda:0": [32], "cpu": [4] * 8}),
        (Machine(64, 512 * GIB, (GPU,) * 2), {"cuda:0": [16], "cuda:1": [16], "cpu": [4] * 8}),
        (Machine(16, 9 * GIB, (GPU,)), {"cuda:0": [8], "cpu": [4] * 2}),
        (Machine(16, 4 * GIB, (GPU,)), {"cuda:0": [16]}),
        (Machine(8, 16 * GIB, mps=True), {"mps": [4], "cpu": [1] * 4}),
        (Machine(8, 32 * GIB, xpus=(GPU,)), {"xpu:0": [4], "cpu": [1] * 4}),
    ],
)
def test_auto_gives_each_accelerator_a_worker_and_most_cores_and_the_others_to_cpu_workers(machine, threads):
    slots = parse_devices("auto", machine)
    found = {}
    for slot in slots:
        found.setdefault(slot.place if slot.is_accelerator else "cpu", []).append(slot.threads)
    assert found == threads
    assert len(slots) == sum(map(len, threads.values()))
    assert sum(slot.threads for slot in slots) <= machine.cores


def test_by_hand_an_accelerators_worker_has_most_cores_too():
    assert [slot.threads for slot in parse_devices("cpu*4,cuda:0", TWO_GPUS)] == [2, 2, 2, 2, 8]


def test_cpu_workers_take_the_place_of_accelerators_that_do_not_work():
    slots = parse_devices("auto", TWO_GPUS)
    left = slots_without(slots, {"cuda:0"}, TWO_GPUS)
    assert [slot.name for slot in left] == ["cuda:1", *(f"cpu:{i}" for i in range(8))]
    assert left[0].environment["CUDA_VISIBLE_DEVICES"] == "1"
    none = slots_without(slots, {"cuda:0", "cuda:1"}, TWO_GPUS)
    assert [slot.name for slot in none] == [f"cpu:{i}" for i in range(8)]
    assert [slot.threads for slot in none] == [2] * 8


def test_intels_gpus_are_named_xpu():
    machine = Machine(8, 32 * GIB, xpus=(Gpu("Intel GPU", "0", "intel"), Gpu("Intel GPU", "1", "intel")))
    assert named("xpu", machine) == ["xpu:0", "xpu:1"]
    (slot,) = parse_devices("xpu:1", machine)
    assert (slot.device_type, slot.device, slot.environment["ZE_AFFINITY_MASK"]) == ("xpu", "xpu:0", "1")
    with pytest.raises(AutotlError, match="no GPU 'xpu:2'"):
        parse_devices("xpu:2", machine)


def test_amds_gpus_are_chosen_by_a_variable_of_their_own():
    machine = Machine(8, 32 * GIB, (Gpu("AMD gfx90a", "0", "amd"), Gpu("AMD gfx90a", "1", "amd")))
    slot = parse_devices("cuda:1", machine)[0]
    assert slot.environment["HIP_VISIBLE_DEVICES"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in slot.environment
    assert parse_devices("cpu", machine)[0].environment["HIP_VISIBLE_DEVICES"] == ""


def test_a_gpu_that_pytorch_is_not_built_for_is_left_out_of_auto_with_what_to_install():
    unused = (UnusedGpu(H200, "torch 2.14.1+cpu is built without CUDA. Type: pip install torch"),) * 2
    machine = Machine(2, 24 * GIB, unused=unused)
    with pytest.warns(UserWarning, match="NVIDIA H200, NVIDIA H200 is not used: torch .* Type: pip install"):
        slots = parse_devices("auto", machine)
    assert [slot.name for slot in slots] == ["cpu:0", "cpu:1"]
    with pytest.raises(AutotlError, match=r"no GPU 'cuda:0'.*built without CUDA. Type: pip install"):
        parse_devices("cuda:0", machine)


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
