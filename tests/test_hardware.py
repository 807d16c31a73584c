"""What hardware is found, and what of it the installed PyTorch is built for, from stand-ins of driver files."""

import subprocess
import sys

import pytest

from autotl import hardware
from autotl.devices import parse_devices
from autotl.hardware import GIB, Gpu, TorchBuild, brief_waits, detect, install_command, torch_build

CUDA = TorchBuild("2.14.1+cu130", cuda="13.0")
LISTING = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa1111)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb2222)
"""
MIG_LISTING = """GPU 0: NVIDIA H200 (UUID: GPU-aaaa1111)
  MIG 1g.18gb     Device  0: (UUID: MIG-cccc3333)
  MIG 1g.18gb     Device  1: (UUID: MIG-dddd4444)
GPU 1: NVIDIA H200 (UUID: GPU-bbbb2222)
"""


@pytest.fixture(autouse=True)
def _no_gpu_and_cuda(monkeypatch, tmp_path):
    """No variable hides a GPU, no driver is here, and PyTorch is built for CUDA."""
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hardware, "SYS", tmp_path)
    monkeypatch.setattr(hardware, "torch_build", lambda: CUDA)
    monkeypatch.setattr(hardware, "_nvidia_smi", lambda *arguments: "")


def nvidia(monkeypatch, listing=LISTING, driver="13.0"):
    def smi(*arguments):
        return listing if arguments == ("-L",) else f"| Driver Version: 580  CUDA Version: {driver} |"

    monkeypatch.setattr(hardware, "_nvidia_smi", smi)


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
    nvidia(monkeypatch)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.visible for gpu in detect().gpus] == seen


def test_inherited_indices_keep_their_order(monkeypatch):
    nvidia(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    slot = parse_devices("cuda:0", detect())[0]
    assert slot.environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert "CUDA_DEVICE_ORDER" not in slot.environment


def test_mig_instances_stand_in_the_place_of_their_gpu(monkeypatch):
    nvidia(monkeypatch, MIG_LISTING)
    assert [gpu.visible for gpu in detect().gpus] == ["MIG-cccc3333", "MIG-dddd4444", "1"]


def test_without_nvidia_smi_the_drivers_files_are_read(tmp_path):
    for bus, uuid in (("0000:01:00.0", "GPU-aaaa1111"), ("0000:41:00.0", "GPU-bbbb2222")):
        (tmp_path / bus).mkdir()
        (tmp_path / bus / "information").write_text(f"Model: \t\t NVIDIA L4\nIRQ:   \t\t 90\nGPU UUID: \t {uuid}\n")
    assert hardware._from_driver(tmp_path) == [
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
    ("driver", "wheels"), [("13.1", "cu130"), ("12.9", "cu128"), ("12.4", "cu126"), ("11.8", "cu118")]
)
def test_with_a_torch_for_cpus_the_gpus_are_named_with_what_to_install(driver, wheels, monkeypatch):
    nvidia(monkeypatch, driver=driver)
    monkeypatch.setattr(hardware, "torch_build", lambda: TorchBuild("2.14.1+cpu"))
    machine = detect()
    assert (machine.gpus, len(machine.unused)) == ((), 2)
    assert machine.unused[0].model == "NVIDIA A100-SXM4-40GB"
    assert machine.unused[0].reason == (
        "torch 2.14.1+cpu is built without CUDA. Type: pip install --force-reinstall torch torchvision --index-url "
        f"https://download.pytorch.org/whl/{wheels}"
    )


def test_without_torch_it_is_to_be_installed(monkeypatch):
    nvidia(monkeypatch)
    monkeypatch.setattr(hardware, "torch_build", lambda: TorchBuild(""))
    assert detect().unused[0].reason == "PyTorch isn't installed. Type: pip install torch torchvision"


@pytest.fixture
def amd(tmp_path):
    """The kernel driver's nodes: a processor, an integrated GPU, and two GPUs."""
    nodes = {"0": (16, 0, ""), "1": (8, 12, "gfx1103"), "2": (0, 440, "gfx90a"), "10": (0, 440, "gfx942")}
    for number, (cpu_cores, simds, name) in nodes.items():
        node = tmp_path / "class/kfd/kfd/topology/nodes" / number
        node.mkdir(parents=True)
        (node / "properties").write_text(f"cpu_cores_count {cpu_cores}\nsimd_count {simds}\nvendor_id 4098\n")
        (node / "name").write_text(f"{name}\n")


@pytest.mark.usefixtures("amd")
def test_amds_gpus_are_found_and_named_cuda_where_pytorch_is_built_for_rocm(monkeypatch):
    monkeypatch.setattr(hardware, "torch_build", lambda: TorchBuild("2.14.1+rocm6.4", hip="6.4"))
    gpus = [Gpu("AMD gfx1103", "0", "amd"), Gpu("AMD gfx90a", "1", "amd"), Gpu("AMD gfx942", "2", "amd")]
    assert list(detect().gpus) == gpus
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "2,1")
    assert list(detect().gpus) == [gpus[2], gpus[1]]


@pytest.mark.usefixtures("amd")
def test_amds_gpus_are_named_where_pytorch_is_not_built_for_them():
    machine = detect()
    assert machine.gpus == ()
    assert [gpu.model for gpu in machine.unused] == ["AMD gfx90a", "AMD gfx942"]  # few can use an integrated one
    assert "built without ROCm" in machine.unused[0].reason
    assert "whl/rocm" in machine.unused[0].reason


@pytest.fixture
def intel(tmp_path):
    """The render nodes of an integrated GPU, another one, and one of another vendor."""
    found = (("0000:00:02.0", "0x8086"), ("0000:03:00.0", "0x8086"), ("0000:04:00.0", "0x10de"))
    for number, (address, vendor) in enumerate(found, 128):
        device = tmp_path / "devices" / address
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        render = tmp_path / "class/drm" / f"renderD{number}"
        render.mkdir(parents=True)
        (render / "device").symlink_to(device)


@pytest.mark.usefixtures("intel")
def test_intels_gpus_are_xpus_where_pytorch_is_built_for_them(monkeypatch):
    assert detect().xpus == ()
    assert [gpu.model for gpu in detect().unused] == ["Intel GPU"]
    assert "whl/xpu" in detect().unused[0].reason
    monkeypatch.setattr(hardware, "torch_build", lambda: TorchBuild("2.14.1+xpu", xpu="20250302"))
    machine = detect()
    assert (len(machine.xpus), machine.unused) == (2, ())
    assert machine.accelerators() == {"xpu:0": "Intel GPU", "xpu:1": "Intel GPU"}
    assert "xpu:1 (Intel GPU)" in machine.describe()


def test_the_build_of_the_installed_pytorch_is_that_which_it_states():
    import torch

    build = torch_build()
    assert build.version == torch.__version__
    assert (build.cuda, build.hip, build.xpu) == tuple(
        getattr(torch.version, name) or "" for name in ("cuda", "hip", "xpu")
    )


def test_what_to_install_without_a_driver_is_a_version_that_many_drivers_run():
    assert install_command().endswith("whl/cu126")


@pytest.mark.parametrize(
    ("environment", "added"),
    [
        ({}, {"GOMP_SPINCOUNT"}),
        ({"OMP_NUM_THREADS": "2"}, {"GOMP_SPINCOUNT"}),
        ({"OMP_WAIT_POLICY": "active"}, set()),
        ({"GOMP_SPINCOUNT": "5"}, set()),
    ],
)
def test_threads_wait_briefly_unless_the_user_has_decided(environment, added):
    assert set(brief_waits(environment)) == added
