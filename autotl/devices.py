"""Devices and slots: each slot is a place for one worker process. Nothing here imports torch."""

import os
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from autotl.errors import AutotlError, nearest
from autotl.hardware import GIB, Machine, detect

__all__ = [
    "Slot",
    "is_device_error",
    "is_out_of_memory",
    "parse_devices",
    "slots_without",
    "threads_by_type",
    "with_threads",
]

MEMORY_PER_SLOT = 3 * GIB
"""Peak memory of a worker."""
MAX_CPU_SLOTS = 8
"""With more trials at once, the sampler has seen fewer results when it draws the next."""
MAX_CORES_PER_ACCELERATOR = 8
"""Cores that an accelerator's worker has for decoding images, where CPU workers run beside it: half of all, at most
this many for each accelerator, unless more are left over."""
MAX_CORES_BESIDE_ACCELERATOR = 4
"""Cores of one CPU worker beside an accelerator: it fits heads on recorded features, which few cores do as fast."""
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
    """For users: `cpu:0`, `cuda:1`, `cuda:0#2` (the second slot on that GPU), `mps`; `node7/cuda:1` on a cluster."""
    device_type: str
    """`cpu`, `cuda` (NVIDIA's GPUs, and AMD's with PyTorch for ROCm), `mps` or `xpu` (Intel's GPUs)."""
    device: str
    """The torch device inside the worker, where the only visible GPU is always `cuda:0` or `xpu:0`."""
    threads: int
    """The worker's share of the CPU cores."""
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Variables to set in the worker's environment before torch is imported."""

    @property
    def place(self) -> str:
        """The device without the slot's number: `cuda:0` for `cuda:0#2`."""
        return self.name.split("#")[0]

    @property
    def is_accelerator(self) -> bool:
        return self.device_type != "cpu"

    @property
    def host(self) -> str:
        """The host of a cluster's slot: `node7` for `node7/cuda:0`; "" on the coordinator's machine."""
        return self.name.rpartition("/")[0]


def parse_devices(text: str, machine: Machine | None = None, *, force: bool = False) -> list[Slot]:
    """Parse the value of `--devices` to slots. The cores are divided among all slots.

    More slots than cores and memory carry are left out with a warning; each device keeps at least one.

    Args:
        text: devices separated by commas: `cpu`, `cpu*4`, `cuda` (all GPUs), `cuda:0*2`, `mps`, `xpu`. Or `auto`: a
            slot on each accelerator, and CPU slots as far as cores and memory allow. A GPU that the installed PyTorch
            isn't built for is left out of `auto` with a warning.
        machine: the hardware; detected without it.
        force: leave none out.

    Raises:
        AutotlError: `text` can't be parsed, or names a device that this machine lacks.
    """
    machine = machine or detect()
    if text.strip() == "auto":
        places = _auto(list(machine.accelerators()), machine)
        for reason, models in _grouped(machine).items():
            warnings.warn(f"{', '.join(models)} is not used: {reason}", stacklevel=2)
    else:
        places = [place for item in text.split(",") for place in _places(item, text, machine)]
    if not force:
        places = _bounded(places, text, machine)
    return _slots(places, machine)


def slots_without(slots: Sequence[Slot], failed: Collection[str], machine: Machine | None = None) -> list[Slot]:
    """The slots of `auto` where the places `failed` turned out to be unusable: CPU slots take over their cores."""
    machine = machine or detect()
    sound = [slot.place for slot in slots if slot.is_accelerator and slot.place not in failed]
    return _slots(_auto(sound, machine), machine)


def with_threads(slot: Slot, threads: int) -> Slot:
    """The slot with another share of the CPU cores."""
    environment = {**slot.environment, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
    return replace(slot, threads=threads, environment=environment)


def threads_by_type(slots: Iterable[Slot]) -> dict[str, int]:
    """Threads of all slots of each device type."""
    threads: Counter[str] = Counter()
    for slot in slots:
        threads[slot.device_type] += slot.threads
    return dict(threads)


def _grouped(machine: Machine) -> dict[str, list[str]]:
    """The models of unused GPUs by the reason why they are not used."""
    grouped: dict[str, list[str]] = {}
    for gpu in machine.unused:
        grouped.setdefault(gpu.reason, []).append(gpu.model)
    return grouped


def _slots(places: Sequence[str], machine: Machine) -> list[Slot]:
    slots, counts = [], Counter[str]()
    for place, threads in zip(places, _threads(places, machine.cores), strict=True):
        counts[place] += 1
        device_type = place.split(":")[0]
        numbered = f"{place}#{counts[place]}" if counts[place] > 1 else place
        slots.append(
            Slot(
                name=f"cpu:{counts[place] - 1}" if device_type == "cpu" else numbered,
                device_type=device_type,
                device=f"{device_type}:0" if device_type in ("cuda", "xpu") else device_type,
                threads=threads,
                environment=dict.fromkeys(THREAD_VARIABLES, str(threads)) | _visibility(place, machine),
            )
        )
    return slots


def _threads(places: Sequence[str], cores: int) -> list[int]:
    """Each place's share of the cores: equal shares; where CPU workers run beside accelerators, most go to the
    accelerators' workers, since they decode all images."""
    num_cpu = sum(place == "cpu" for place in places)
    num_accelerators = len(places) - num_cpu
    if not num_cpu or not num_accelerators:
        return [max(1, cores // len(places) + (number < cores % len(places))) for number in range(len(places))]
    beside = (cores - _reserved(num_accelerators, cores)) // num_cpu
    beside = max(1, min(beside, MAX_CORES_BESIDE_ACCELERATOR))
    left, number, threads = max(0, cores - num_cpu * beside), 0, []
    for place in places:
        if place == "cpu":
            threads.append(beside)
        else:
            threads.append(max(1, left // num_accelerators + (number < left % num_accelerators)))
            number += 1
    return threads


def _reserved(num_accelerators: int, cores: int) -> int:
    """Cores that are kept for the workers of accelerators, at most."""
    return min(max(num_accelerators, cores // 2), MAX_CORES_PER_ACCELERATOR * num_accelerators)


def _auto(accelerators: list[str], machine: Machine) -> list[str]:
    """One place for each accelerator, and CPU places for what is left of cores and memory."""
    carried = machine.memory // MEMORY_PER_SLOT - len(accelerators)
    cores = machine.cores - (_reserved(len(accelerators), machine.cores) if accelerators else 0)
    num_cpu = min(cores, carried, MAX_CPU_SLOTS)
    return [*accelerators, *["cpu"] * max(0 if accelerators else 1, num_cpu)]


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
    match = re.fullmatch(r"\s*(cpu|mps|(cuda|xpu)(?::(\d+))?)\s*(?:\*\s*([1-9]\d{0,2}))?\s*", item)
    if not match:
        known = ["auto", "cpu", "mps", "cuda", "cuda:0", "cpu*4", "cuda:0*2", "xpu"]
        wrong = f"{item.strip()!r} is not a device.{nearest(item.strip(), known)}"
        raise AutotlError(
            f"--devices {text!r}: {'auto stands alone.' if item.strip() == 'auto' else wrong} {available} Type "
            "--devices auto, or devices separated by commas, each with *N for N workers: cpu*2 or cuda:0,cuda:1*2"
        )
    name, kind, index, times = match[1], match[2], match[3], int(match[4] or 1)
    present = [place for place in machine.accelerators() if place.split(":")[0] == kind]
    if kind and int(index or 0) >= len(present):
        raise AutotlError(
            f"--devices {text!r}: there is no GPU {name!r}. {available}{_why_no_gpu(machine)} "
            "Type --devices auto to use what is available."
        )
    if name == "mps" and not machine.mps:
        raise AutotlError(f"--devices {text!r}: MPS needs a Mac with Apple silicon. {available} Type --devices auto.")
    return [place for place in (present if name == kind else [name]) for _ in range(times)]


def _why_no_gpu(machine: Machine) -> str:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    unused = "".join(f" {', '.join(models)}: {reason}." for reason, models in _grouped(machine).items())
    return f" (CUDA_VISIBLE_DEVICES is {hidden!r}.)" if hidden is not None and not machine.gpus else unused


def _visibility(place: str, machine: Machine) -> dict[str, str]:
    """Variables that make the place's GPU the only visible one, and none visible to a CPU worker: one that
    initialises CUDA allocates memory on every GPU."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    kind, _, index = place.partition(":")
    if kind == "xpu":
        return hidden | {"ZE_AFFINITY_MASK": machine.xpus[int(index)].visible}
    if kind != "cuda":
        return hidden | ({"HIP_VISIBLE_DEVICES": ""} if any(gpu.vendor == "amd" for gpu in machine.gpus) else {})
    gpu = machine.gpus[int(index)]
    if gpu.vendor == "amd":
        return {"HIP_VISIBLE_DEVICES": gpu.visible}
    variables = {"CUDA_VISIBLE_DEVICES": gpu.visible}
    if os.environ.get("CUDA_VISIBLE_DEVICES") is None:
        variables["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the order of nvidia-smi; CUDA's default is fastest first
    return variables


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
