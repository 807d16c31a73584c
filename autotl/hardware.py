"""The hardware that this process may use, and what the installed PyTorch is built for. Nothing here imports torch."""

import contextlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

__all__ = [
    "GIB",
    "Gpu",
    "Machine",
    "TorchBuild",
    "UnusedGpu",
    "brief_waits",
    "detect",
    "install_command",
    "torch_build",
]

GIB = 2**30
SYS = Path("/sys")
WHEELS = "https://download.pytorch.org/whl/"
INTEGRATED_INTEL_GPU = "0000:00:02.0"
"""The PCI address of every integrated one, few of which PyTorch can use."""
SPINS = "1000"
"""Rounds of a loop in which a thread of OpenMP waits for the next operation before the thread sleeps. The default is
300,000, some milliseconds: on cores that another process uses, too, a network takes 2.5 times as long. On idle cores
both take the same (`tests/bench/waiting.py`)."""


def brief_waits(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables to add to a process's environment before it imports PyTorch or scikit-learn, so that its threads leave
    the cores to others while they wait; none where the user has decided on it."""
    decided = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(environment)
    return {} if decided else {"GOMP_SPINCOUNT": SPINS}


@dataclass(frozen=True)
class Gpu:
    """A GPU that this process may use."""

    model: str
    """As its driver names it."""
    visible: str
    """Value of CUDA_VISIBLE_DEVICES (AMD: HIP_VISIBLE_DEVICES; Intel: ZE_AFFINITY_MASK) that makes it the only visible
    GPU."""
    vendor: Literal["nvidia", "amd", "intel"] = "nvidia"


@dataclass(frozen=True)
class UnusedGpu:
    """A GPU that the installed PyTorch isn't built for."""

    model: str
    reason: str
    """Why it isn't used, and what to install."""


@dataclass(frozen=True)
class Machine:
    """The hardware that this process may use."""

    cores: int
    memory: int
    """In bytes."""
    gpus: tuple[Gpu, ...] = ()
    """Those that PyTorch calls cuda:N: NVIDIA's, or AMD's where it is built for ROCm."""
    mps: bool = False
    """Whether this is a Mac with Apple silicon."""
    xpus: tuple[Gpu, ...] = ()
    """Intel's, where PyTorch is built for them."""
    unused: tuple[UnusedGpu, ...] = ()

    def accelerators(self) -> dict[str, str]:
        """Place on `--devices` to model: `{"cuda:0": "NVIDIA H200"}`."""
        gpus = {f"cuda:{i}": gpu.model for i, gpu in enumerate(self.gpus)}
        xpus = {f"xpu:{i}": gpu.model for i, gpu in enumerate(self.xpus)}
        return gpus | xpus | ({"mps": "Apple silicon"} if self.mps else {})

    def describe(self) -> str:
        """`cpu (16 cores), cuda:0 (NVIDIA H200)`."""
        accelerators = [place if place == "mps" else f"{place} ({m})" for place, m in self.accelerators().items()]
        return ", ".join([f"cpu ({self.cores} cores)", *accelerators])


@dataclass(frozen=True)
class TorchBuild:
    """What the installed PyTorch is built for: version numbers, "" where it is not."""

    version: str
    cuda: str = ""
    hip: str = ""
    xpu: str = ""


@cache
def torch_build() -> TorchBuild:
    """The installed PyTorch, from the file in which it states its versions."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return TorchBuild("")
    with contextlib.suppress(OSError):
        text = Path(spec.origin).with_name("version.py").read_text()
        found = dict(re.findall(r"^(__version__|cuda|hip|xpu)\b[^=\n]*= '([^']*)'", text, re.MULTILINE))
        return TorchBuild(*(found.get(name, "") for name in ("__version__", "cuda", "hip", "xpu")))
    return TorchBuild("")


def detect() -> Machine:
    """Detect this machine's hardware. Takes up to a second with an NVIDIA driver."""
    from joblib import cpu_count  # respects CPU affinity and cgroups

    build = torch_build()
    nvidia = tuple(_nvidia_gpus(os.environ.get("CUDA_VISIBLE_DEVICES")))
    amd = tuple(_amd_gpus(SYS / "class/kfd/kfd/topology/nodes", integrated=bool(build.hip)))
    intel = tuple(_intel_gpus(SYS / "class/drm", integrated=bool(build.xpu)))
    gpus, xpus = (amd if build.hip else nvidia if build.cuda else ()), (intel if build.xpu else ())
    unused = [UnusedGpu(gpu.model, _not_built_for(gpu, build)) for gpu in (*nvidia, *amd, *intel)
              if gpu not in gpus and gpu not in xpus]  # fmt: skip
    mps = sys.platform == "darwin" and platform.machine() == "arm64"
    return Machine(cpu_count(), _memory(), gpus, mps, xpus, tuple(unused))


def _not_built_for(gpu: Gpu, build: TorchBuild) -> str:
    if not build.version:
        return "PyTorch isn't installed. Type: pip install torch torchvision"
    names = {"nvidia": "CUDA", "amd": "ROCm", "intel": "Intel GPUs"}
    return f"torch {build.version} is built without {names[gpu.vendor]}. Type: {install_command(gpu.vendor)}"


def install_command(vendor: Literal["nvidia", "amd", "intel"] = "nvidia") -> str:
    """What to type to get a PyTorch that can use the vendor's GPUs with this machine's driver."""
    index = {"amd": "rocm6.4", "intel": "xpu"}.get(vendor) or _cuda_wheels()
    return f"pip install --force-reinstall torch torchvision --index-url {WHEELS}{index}"


def _cuda_wheels() -> str:
    """The newest of PyTorch's CUDA versions that the driver can run."""
    match = re.search(r"CUDA Version: (\d+)\.(\d+)", _nvidia_smi())
    version = (int(match[1]), int(match[2])) if match else (12, 6)
    newest = {(13, 0): "cu130", (12, 8): "cu128", (12, 0): "cu126"}  # a driver for 12.0 runs all of 12
    return next((wheels for first, wheels in newest.items() if version >= first), "cu118")


def _memory() -> int:
    """Bytes of memory: the machine's, or the container's limit if that is less."""
    limits = [64 * GIB]  # if nothing can be read, memory does not limit the number of slots
    with contextlib.suppress(ValueError, OSError):  # the name is unknown to some systems
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(ValueError, OSError):  # "max" is no limit
            limits.append(int((SYS / "fs/cgroup" / path).read_text()))
    return min(limits)


def _nvidia_gpus(visible: str | None) -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES (None: not set) makes visible, in its order."""
    if visible is not None and not visible.strip():
        return []
    present = _listed(_nvidia_smi("-L")) or _from_driver(Path("/proc/driver/nvidia/gpus"))
    if visible is None:
        return [gpu for _, gpu in present]
    chosen = []
    for entry in (e.strip() for e in visible.split(",")):
        by_uuid = entry.startswith(("GPU-", "MIG-"))
        matching = [gpu for uuid, gpu in present if (uuid.startswith(entry) if by_uuid else entry == gpu.visible)]
        if not matching:
            break  # like CUDA: an invalid entry hides itself and all entries after it
        chosen.append(Gpu(matching[0].model, entry))
    return chosen


def _nvidia_smi(*arguments: str) -> str:
    program = shutil.which("nvidia-smi")
    if not program:
        return ""
    with contextlib.suppress(subprocess.SubprocessError, OSError):  # a driver that hangs or is broken counts as no GPU
        return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=5, check=True).stdout
    return ""


def _listed(listing: str) -> list[tuple[str, Gpu]]:
    """(UUID, GPU) from the output of `nvidia-smi -L`. MIG instances stand in the place of their GPU."""
    gpus: list[tuple[str, Gpu]] = []
    whole = "NVIDIA GPU"
    for line in listing.splitlines():
        if match := re.match(r"GPU (\d+): (.+) \(UUID: (GPU-[^)]+)\)", line):
            gpus.append((match[3], Gpu(match[2], match[1])))
        elif match := re.match(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-[^)]+)\)", line):
            if gpus and gpus[-1][0].startswith("GPU-"):
                whole = gpus.pop()[1].model
            gpus.append((match[2], Gpu(f"{whole} MIG {match[1]}", match[2])))
    return gpus


def _from_driver(folder: Path) -> list[tuple[str, Gpu]]:
    """(UUID, GPU) from the Linux driver's files, in PCI order, for containers without nvidia-smi."""
    gpus = []
    with contextlib.suppress(OSError):
        for number, path in enumerate(sorted(folder.glob("*/information"))):
            facts = dict(re.findall(r"^([^:\n]+):\s*(.*?)\s*$", path.read_text(), re.MULTILINE))
            gpus.append((facts.get("GPU UUID", ""), Gpu(facts.get("Model", "NVIDIA GPU"), str(number))))
    return gpus


def _amd_gpus(nodes: Path, *, integrated: bool) -> list[Gpu]:
    """The compute nodes of AMD's kernel driver that HIP_VISIBLE_DEVICES makes visible.

    Args:
        integrated: also those that are part of a processor, few of which PyTorch can use.
    """
    present: list[Gpu] = []
    for node in sorted(nodes.glob("*"), key=lambda path: (len(path.name), path.name)):
        with contextlib.suppress(OSError):
            facts = dict(line.split() for line in (node / "properties").read_text().splitlines() if " " in line)
            is_gpu, is_cpu = facts.get("simd_count", "0") != "0", facts.get("cpu_cores_count", "0") != "0"
            if is_gpu and (integrated or not is_cpu):
                name = (node / "name").read_text().strip()
                present.append(Gpu(f"AMD {name}".strip() if name else "AMD GPU", str(len(present)), "amd"))
    visible = os.environ.get("HIP_VISIBLE_DEVICES")
    if visible is None:
        return present
    return [gpu for entry in visible.split(",") for gpu in present if gpu.visible == entry.strip()]


def _intel_gpus(folder: Path, *, integrated: bool) -> list[Gpu]:
    """Intel's GPUs that ZE_AFFINITY_MASK makes visible.

    Args:
        integrated: also those that are part of a processor.
    """
    present: list[Gpu] = []
    for render in sorted(folder.glob("renderD*")):
        with contextlib.suppress(OSError):
            device = (render / "device").resolve()
            is_intel = (device / "vendor").read_text().strip() == "0x8086"
            if is_intel and (integrated or device.name != INTEGRATED_INTEL_GPU):
                present.append(Gpu("Intel GPU", str(len(present)), "intel"))
    visible = os.environ.get("ZE_AFFINITY_MASK")
    if visible is None:
        return present
    return [gpu for entry in visible.split(",") for gpu in present if gpu.visible == entry.strip()]
