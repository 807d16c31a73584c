"""Devices and slots: each slot is a place for one worker process. Nothing here imports torch."""

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autotl.errors import AutotlError, nearest

__all__ = ["Gpu", "Machine", "Slot", "detect", "is_device_error", "is_out_of_memory", "parse_devices"]

GIB = 2**30
MEMORY_PER_SLOT = 3 * GIB
"""Peak memory of a worker."""
MAX_CPU_SLOTS = 8
"""With more trials at once, the sampler has seen fewer results when it draws the next."""
MAX_SLOTS_PER_CORE = 2
"""More workers than this on a core only wait for each other."""
OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|STATUS_ALLOC_FAILED", re.IGNORECASE)
DEVICE_ERROR = re.compile(
    r"(CUDA|HIP) (driver )?error|illegal memory access|illegal instruction|misaligned address|device-side assert"
    r"|launch failure|launch timed out|uncorrectable ECC|STATUS_(EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR)",
    re.IGNORECASE,
)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True)
class Slot:
    """One place for a worker process."""

    name: str
    """For users: `cpu:0`, `cuda:1`, `cuda:0#2` (the second slot on that GPU), `mps`."""
    device_type: str
    """`cpu`, `cuda` or `mps`."""
    device: str
    """The torch device inside the worker, where the only visible GPU is always `cuda:0`."""
    threads: int
    """The worker's share of the CPU cores."""
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Variables to set in the worker's environment before torch is imported."""

    @property
    def place(self) -> str:
        """The device without the slot's number: `cuda:0` for `cuda:0#2`."""
        return self.name.split("#")[0]


@dataclass(frozen=True)
class Gpu:
    """A GPU that this process may use."""

    model: str
    """As `nvidia-smi` names it."""
    visible: str
    """Value of CUDA_VISIBLE_DEVICES that makes it the only visible GPU."""


@dataclass(frozen=True)
class Machine:
    """The hardware that this process may use."""

    cores: int
    memory: int
    """In bytes."""
    gpus: tuple[Gpu, ...] = ()
    mps: bool = False
    """Whether this is a Mac with Apple silicon."""

    def describe(self) -> str:
        """`cpu (16 cores), cuda:0 (NVIDIA H200)`."""
        gpus = [f"cuda:{i} ({gpu.model})" for i, gpu in enumerate(self.gpus)]
        return ", ".join([f"cpu ({self.cores} cores)", *gpus, *(["mps"] if self.mps else [])])


def parse_devices(text: str, machine: Machine | None = None, *, force: bool = False) -> list[Slot]:
    """Parse the value of `--devices` to slots. The cores are divided among all slots.

    More slots than cores and memory carry are left out with a warning; each device keeps at least one.

    Args:
        text: devices separated by commas: `cpu`, `cpu*4`, `cuda` (all GPUs), `cuda:0*2`, `mps`. Or `auto`: every GPU,
            else MPS, else as many CPU slots as cores and memory allow.
        machine: the hardware; detected without it.
        force: leave none out.

    Raises:
        AutotlError: `text` can't be parsed, or names a device that this machine lacks.
    """
    machine = machine or detect()
    if text.strip() == "auto":
        places = _auto(machine)
    else:
        places = [place for item in text.split(",") for place in _places(item, text, machine)]
    if not force:
        places = _bounded(places, text, machine)
    slots, counts = [], Counter[str]()
    for number, place in enumerate(places):
        threads = max(1, machine.cores // len(places) + (number < machine.cores % len(places)))
        counts[place] += 1
        device_type = place.split(":")[0]
        numbered = f"{place}#{counts[place]}" if counts[place] > 1 else place
        slots.append(
            Slot(
                name=f"cpu:{counts[place] - 1}" if device_type == "cpu" else numbered,
                device_type=device_type,
                device="cuda:0" if device_type == "cuda" else device_type,
                threads=threads,
                environment=dict.fromkeys(THREAD_VARIABLES, str(threads)) | _visibility(place, machine),
            )
        )
    return slots


def _auto(machine: Machine) -> list[str]:
    if machine.gpus:
        return [f"cuda:{i}" for i in range(len(machine.gpus))]
    if machine.mps:
        return ["mps"]
    return ["cpu"] * max(1, min(machine.cores, machine.memory // MEMORY_PER_SLOT, MAX_CPU_SLOTS))


def _bounded(places: list[str], text: str, machine: Machine) -> list[str]:
    """Leave out places beyond what cores and memory carry, those of the device with the most places first."""
    carried = max(1, min(MAX_SLOTS_PER_CORE * machine.cores, machine.memory // MEMORY_PER_SLOT))
    limit = max(carried, len(set(places)))
    if len(places) <= limit:
        return places
    seen, rank = Counter[str](), []
    for place in places:
        rank.append(seen[place])
        seen[place] += 1
    kept = sorted(sorted(range(len(places)), key=rank.__getitem__)[:limit])
    warnings.warn(
        f"--devices {text!r} asks for {len(places)} workers; {limit} are started, since this machine has "
        f"{machine.cores} cores and {machine.memory / GIB:.0f} GiB of memory, and a worker takes up to "
        f"{MEMORY_PER_SLOT // GIB} GiB. "
        "To start all of them, add --force.",
        stacklevel=3,
    )
    return [places[i] for i in kept]


def _places(item: str, text: str, machine: Machine) -> list[str]:
    """The places that one item of `--devices` stands for: `cuda:0*2` twice `cuda:0`."""
    available = f"Available: {machine.describe()}."
    match = re.fullmatch(r"\s*(cpu|mps|cuda(?::(\d+))?)\s*(?:\*\s*([1-9]\d{0,2}))?\s*", item)
    if not match:
        known = ["auto", "cpu", "mps", "cuda", "cuda:0", "cpu*4", "cuda:0*2"]
        wrong = f"{item.strip()!r} is not a device.{nearest(item.strip(), known)}"
        raise AutotlError(
            f"--devices {text!r}: {'auto stands alone.' if item.strip() == 'auto' else wrong} {available} Type "
            "--devices auto, or devices separated by commas, each with *N for N workers: cpu*2 or cuda:0,cuda:1*2"
        )
    name, index, times = match[1], match[2], int(match[3] or 1)
    if name.startswith("cuda") and int(index or 0) >= len(machine.gpus):
        raise AutotlError(
            f"--devices {text!r}: there is no GPU {name!r}. {available}{_why_no_gpu(machine)} "
            "Type --devices auto to use what is available."
        )
    if name == "mps" and not machine.mps:
        raise AutotlError(f"--devices {text!r}: MPS needs a Mac with Apple silicon. {available} Type --devices auto.")
    names = [f"cuda:{i}" for i in range(len(machine.gpus))] if name == "cuda" else [name]
    return [n for n in names for _ in range(times)]


def _why_no_gpu(machine: Machine) -> str:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    return f" (CUDA_VISIBLE_DEVICES is {hidden!r}.)" if hidden is not None and not machine.gpus else ""


def _visibility(place: str, machine: Machine) -> dict[str, str]:
    if not place.startswith("cuda"):
        return {"CUDA_VISIBLE_DEVICES": ""}  # a CPU worker that initialises CUDA allocates memory on every GPU
    variables = {"CUDA_VISIBLE_DEVICES": machine.gpus[int(place.split(":")[1])].visible}
    if os.environ.get("CUDA_VISIBLE_DEVICES") is None:
        variables["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the order of nvidia-smi; CUDA's default is fastest first
    return variables


def detect() -> Machine:
    """Detect this machine's hardware. Takes up to a second with an NVIDIA driver."""
    from joblib import cpu_count  # respects CPU affinity and cgroups

    mps = sys.platform == "darwin" and platform.machine() == "arm64"
    return Machine(cpu_count(), _memory(), tuple(_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))), mps)


def _memory() -> int:
    """Bytes of memory: the machine's, or the container's limit if that is less."""
    limits = [64 * GIB]  # if nothing can be read, memory does not limit the number of slots
    with contextlib.suppress(ValueError, OSError):  # the name is unknown to some systems
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(ValueError, OSError):  # "max" is no limit
            limits.append(int((Path("/sys/fs/cgroup") / path).read_text()))
    return min(limits)


def _gpus(visible: str | None) -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES (None: not set) makes visible, in its order."""
    if visible is not None and not visible.strip():
        return []
    present = _listed(_nvidia_smi()) or _from_driver(Path("/proc/driver/nvidia/gpus"))
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


def _nvidia_smi() -> str:
    program = shutil.which("nvidia-smi")
    if not program:
        return ""
    with contextlib.suppress(subprocess.SubprocessError, OSError):  # a driver that hangs or is broken counts as no GPU
        return subprocess.run([program, "-L"], capture_output=True, text=True, timeout=5, check=True).stdout
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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of a device or of the machine was exhausted, so that a smaller batch may fit.

    PyTorch has an exception type for it on some devices only, so the message decides.
    """
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and bool(OUT_OF_MEMORY.search(str(error)))
    )


def is_device_error(error: BaseException | None) -> bool:
    """Whether an exception, or one in its chain of causes, is an accelerator error such as an illegal memory access.

    After one, all later results of this process on the device are unreliable.
    """
    while error is not None:
        named = type(error).__name__ == "AcceleratorError"
        if (named or DEVICE_ERROR.search(str(error))) and not is_out_of_memory(error):
            return True
        error = error.__cause__ or error.__context__
    return False
