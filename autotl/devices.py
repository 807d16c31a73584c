"""Device slots: where trials run. One worker process for each slot. Nothing in here imports torch."""

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autotl.errors import AutotlError, nearest

__all__ = ["Gpu", "Machine", "Slot", "detect", "is_device_error", "out_of_memory", "parse_devices"]

GIB = 2**30
MEMORY_A_SLOT = 3 * GIB  # what a worker may take at its peak
MOST_CPU_SLOTS = 8  # more trials side by side teach the sampler less a trial
OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|STATUS_ALLOC_FAILED", re.IGNORECASE)
SPOILED = re.compile(
    r"(CUDA|HIP) (driver )?error|illegal memory access|illegal instruction|misaligned address|device-side assert"
    r"|launch failure|launch timed out|uncorrectable ECC|STATUS_(EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR)",
    re.IGNORECASE,
)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True)
class Slot:
    """One place for a worker process."""

    name: str
    """As a user reads it: `cpu:0`, `cuda:1`, `cuda:0#2` (the second slot on that GPU), `mps`."""
    device_type: str
    """`cpu`, `cuda` or `mps`."""
    device: str
    """The torch device inside the worker: the one GPU that it sees is always `cuda:0`."""
    threads: int
    """This worker's share of the cores."""
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)
    """To be set in the worker before torch is imported."""

    @property
    def place(self) -> str:
        """The device, whichever of its slots this is: `cuda:0` for `cuda:0#2`."""
        return self.name.split("#")[0]


@dataclass(frozen=True)
class Gpu:
    """A GPU as `nvidia-smi` names it, and the word that makes it the only visible one."""

    model: str
    visible: str


@dataclass(frozen=True)
class Machine:
    """What there is to run on: cores and bytes of memory that this process may use, GPUs, Apple's MPS."""

    cores: int
    memory: int
    gpus: tuple[Gpu, ...] = ()
    mps: bool = False

    def describe(self) -> str:
        gpus = [f"cuda:{i} ({gpu.model})" for i, gpu in enumerate(self.gpus)]
        return ", ".join([f"cpu ({self.cores} cores)", *gpus, *(["mps"] if self.mps else [])])


def parse_devices(text: str, machine: Machine | None = None) -> list[Slot]:
    """The slots that `--devices` asks for: words such as `cpu`, `cpu*4`, `cuda` (all GPUs), `cuda:0*2`, `mps`, with
    commas between them, or `auto`: every GPU, else MPS, else the CPU in as many slots as cores and memory carry.

    The cores are shared out between all slots. Raises AutotlError for what isn't here.
    """
    machine = machine or detect()
    if text.strip() == "auto":
        places = _auto(machine)
    else:
        places = [place for word in text.split(",") for place in _places(word, text, machine)]
    slots, seen = [], Counter[str]()
    for number, place in enumerate(places):
        threads = max(1, machine.cores // len(places) + (number < machine.cores % len(places)))
        seen[place] += 1
        device_type = place.split(":")[0]
        numbered = f"{place}#{seen[place]}" if seen[place] > 1 else place
        slots.append(
            Slot(
                name=f"cpu:{seen[place] - 1}" if device_type == "cpu" else numbered,
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
    return ["cpu"] * max(1, min(machine.cores, machine.memory // MEMORY_A_SLOT, MOST_CPU_SLOTS))


def _places(word: str, text: str, machine: Machine) -> list[str]:
    """`cuda:0*2` to its two places. Every remedy names what is here."""
    here = f"Here are: {machine.describe()}."
    match = re.fullmatch(r"\s*(cpu|mps|cuda(?::(\d+))?)\s*(?:\*\s*([1-9]\d{0,2}))?\s*", word)
    if not match:
        known = ["auto", "cpu", "mps", "cuda", "cuda:0", "cpu*4", "cuda:0*2"]
        raise AutotlError(
            f"--devices {text!r}: {word.strip()!r} is no device.{nearest(word.strip(), known)} {here} Type "
            "--devices auto, or devices with commas between them, each with *N for N workers: cpu*2 or cuda:0,cuda:1*2"
        )
    name, index, times = match[1], match[2], int(match[3] or 1)
    if name.startswith("cuda") and int(index or 0) >= len(machine.gpus):
        raise AutotlError(
            f"--devices {text!r}: there is no GPU {name!r}. {here}{_why_no_gpu(machine)} "
            "Type --devices auto for what is here."
        )
    if name == "mps" and not machine.mps:
        raise AutotlError(f"--devices {text!r}: MPS is for Macs with Apple silicon. {here} Type --devices auto.")
    names = [f"cuda:{i}" for i in range(len(machine.gpus))] if name == "cuda" else [name]
    return [n for n in names for _ in range(times)]


def _why_no_gpu(machine: Machine) -> str:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    return f" (CUDA_VISIBLE_DEVICES is {hidden!r}.)" if hidden is not None and not machine.gpus else ""


def _visibility(place: str, machine: Machine) -> dict[str, str]:
    if not place.startswith("cuda"):
        return {"CUDA_VISIBLE_DEVICES": ""}  # a CPU worker that starts CUDA holds memory on every GPU
    seen = {"CUDA_VISIBLE_DEVICES": machine.gpus[int(place.split(":")[1])].visible}
    if os.environ.get("CUDA_VISIBLE_DEVICES") is None:
        seen["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as nvidia-smi counts; CUDA itself puts the fastest first
    return seen


def detect() -> Machine:
    """Look at this machine. Takes up to a second where there is an NVIDIA driver."""
    from joblib import cpu_count  # knows affinity and cgroups

    mps = sys.platform == "darwin" and platform.machine() == "arm64"
    return Machine(cpu_count(), _memory(), tuple(_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))), mps)


def _memory() -> int:
    """Bytes: the machine's, or what a container allows where that is less."""
    limits = [64 * GIB]  # where nothing can be read, memory isn't what bounds the slots
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(ValueError, OSError):  # "max" is no limit
            limits.append(int((Path("/sys/fs/cgroup") / path).read_text()))
    return min(limits)


def _gpus(visible: str | None) -> list[Gpu]:
    """Those that CUDA_VISIBLE_DEVICES, which may be None, leaves to us, in its order."""
    if visible is not None and not visible.strip():
        return []
    present = _listed(_nvidia_smi()) or _from_driver(Path("/proc/driver/nvidia/gpus"))
    if visible is None:
        return [gpu for _, gpu in present]
    chosen = []
    for word in (w.strip() for w in visible.split(",")):
        by_uuid = word.startswith(("GPU-", "MIG-"))
        found = [gpu for uuid, gpu in present if (uuid.startswith(word) if by_uuid else word == gpu.visible)]
        if not found:
            break  # as CUDA reads it: what stands behind an unknown word is hidden
        chosen.append(Gpu(found[0].model, word))
    return chosen


def _nvidia_smi() -> str:
    program = shutil.which("nvidia-smi")
    if not program:
        return ""
    with contextlib.suppress(subprocess.SubprocessError, OSError):  # a driver that hangs or is broken has no GPUs
        return subprocess.run([program, "-L"], capture_output=True, text=True, timeout=5, check=True).stdout
    return ""


def _listed(listing: str) -> list[tuple[str, Gpu]]:
    """(UUID, GPU) from `nvidia-smi -L`. A GPU that is cut into MIG instances is represented by them."""
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
    """The same from the Linux driver's own files, in PCI order, for containers without nvidia-smi."""
    gpus = []
    with contextlib.suppress(OSError):
        for number, path in enumerate(sorted(folder.glob("*/information"))):
            facts = dict(re.findall(r"^([^:\n]+):\s*(.*?)\s*$", path.read_text(), re.MULTILINE))
            gpus.append((facts.get("GPU UUID", ""), Gpu(facts.get("Model", "NVIDIA GPU"), str(number))))
    return gpus


def out_of_memory(error: BaseException) -> bool:
    """Whether the memory of a device, or of the machine, did not suffice: less at once may fit. PyTorch has a type for
    it on some devices, and words on all."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and bool(OUT_OF_MEMORY.search(str(error)))
    )


def is_device_error(error: BaseException | None) -> bool:
    """Whether an accelerator failed so that nothing more that this process asks of it can be trusted: an illegal
    memory access and its kin. Looks at what caused the error, too."""
    while error is not None:
        named = type(error).__name__ == "AcceleratorError"
        if (named or SPOILED.search(str(error))) and not out_of_memory(error):
            return True
        error = error.__cause__ or error.__context__
    return False
