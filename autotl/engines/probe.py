"""Ask a device whether it works: allocate, multiply, convolve, and compare the numbers with the CPU's.

`python -m autotl.engines.probe cuda:0` prints the answer as JSON, for whoever doesn't want to wait for a driver that
hangs, or to hold memory on a GPU.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from autotl.data.sandbox import child_environment
from autotl.devices import Slot, is_out_of_memory
from autotl.hardware import GIB, install_command
from autotl.imports import without_collection

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Precision", "ProbeResult", "native_precision", "probe", "probe_apart"]

Precision = Literal["bf16", "fp16", "fp32"]
MIN_FREE = GIB // 2
"""Bytes of free memory without which a device is of no use."""
MIN_FP16_CAPABILITY = (7, 0)
"""CUDA's compute capability from which fp16 is several times faster than fp32: V100, T4, RTX 20."""
CHILD_SECONDS = 60.0
"""Seconds that a process of its own has for its answer; importing PyTorch from a slow disk takes most of them."""
MAX_ERROR = {"fp32": 2e-2, "bf16": 6e-2, "fp16": 2e-2}
"""Largest difference to the CPU's numbers in fp32, relative to the largest of them. GPUs may round fp32 to TF32."""


@dataclass(frozen=True)
class ProbeResult:
    """What a device answered."""

    device: str
    """The torch device."""
    usable: bool
    reason: str = ""
    """Why it isn't usable, and what to do about it."""
    name: str = ""
    """As the driver calls it."""
    memory_bytes: int = 0
    """Memory of its own; 0 where it shares the machine's."""
    bf16: bool = False
    """Whether it multiplies bf16 natively, with the right results."""
    fp16: bool = False
    precision: Precision = "fp32"
    """The fastest of the precisions that it has natively."""

    def describe(self) -> str:
        """`NVIDIA H200, 140 GiB, bf16`."""
        memory = f"{self.memory_bytes / GIB:.0f} GiB" if self.memory_bytes else ""
        return ", ".join(filter(None, (self.name, memory, self.precision)))


def probe(device: str) -> ProbeResult:
    """Whether this process can use a torch device, and what it is. Never raises, but may hang where a driver does."""
    import torch

    kind = device.split(":")[0]
    try:
        if reason := _why_absent(torch, kind, device):
            return ProbeResult(device, usable=False, reason=reason)
        name, memory, free = _about(torch, kind, device)
        if memory and free < MIN_FREE:
            return ProbeResult(device, usable=False, reason=_full(free, memory), name=name, memory_bytes=memory)
        if not _computes(torch, device, "fp32"):
            reason = "it computes wrong results: its memory or its driver is faulty"
            return ProbeResult(device, usable=False, reason=reason, name=name, memory_bytes=memory)
        bf16, fp16 = (_has(torch, kind, device, precision) for precision in ("bf16", "fp16"))
        return ProbeResult(
            device,
            usable=True,
            name=name,
            memory_bytes=memory,
            bf16=bf16,
            fp16=fp16,
            precision=native_precision(device),
        )
    except Exception as error:  # whatever a driver raises, the device isn't usable
        return ProbeResult(device, usable=False, reason=_explain(error))


@cache
def native_precision(device: str) -> Precision:
    """The precision in which a device computes fastest with its own instructions: "bf16", else "fp16", else "fp32".

    Emulated precisions are several times slower than fp32 and don't count. Found out once for each device and process.
    "fp32" for a device that this process doesn't have, and for MPS, where the others weren't found to be faster.
    """
    import torch

    kind = device.split(":")[0]
    has: list[Precision] = [p for p in ("bf16", "fp16") if kind != "mps" and _has(torch, kind, device, p)]
    return has[0] if has else "fp32"


def probe_apart(slots: Sequence[Slot], time_limit: float = CHILD_SECONDS) -> dict[str, ProbeResult]:
    """The answers of the slots' devices, by place, each from a process of its own, all at the same time.

    A process that ends without an answer, or has none after `time_limit` seconds, means that its device isn't usable.
    """
    by_place = {slot.place: slot for slot in slots}
    with ThreadPoolExecutor(max(1, len(by_place))) as threads:
        return dict(zip(by_place, threads.map(lambda slot: _apart(slot, time_limit), by_place.values()), strict=True))


def _apart(slot: Slot, time_limit: float) -> ProbeResult:
    command = [sys.executable, "-P", "-m", "autotl.engines.probe", slot.device]
    try:
        ended = subprocess.run(
            command,
            env={**child_environment(), **slot.environment},
            capture_output=True,
            timeout=time_limit,
            check=False,
        )
        return ProbeResult(**json.loads(ended.stdout))
    except subprocess.TimeoutExpired:
        return ProbeResult(slot.device, usable=False, reason=f"it didn't answer within {time_limit:.0f} s")
    except ValueError:
        lines = ended.stderr.decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        reason = f"the process that asked it ended with exit code {ended.returncode}: {last[:300]}"
        return ProbeResult(slot.device, usable=False, reason=reason)


# -- why not


def _why_absent(torch: ModuleType, kind: str, device: str) -> str:
    """Why PyTorch doesn't offer the device at all; "" where it does."""
    if kind == "cpu":
        return ""
    if kind == "mps":
        return "" if torch.backends.mps.is_available() else f"torch {torch.__version__} has no MPS, or macOS is too old"
    if kind == "xpu":
        if not torch.version.xpu:
            return f"torch {torch.__version__} is built without Intel GPUs. Type: {install_command('intel')}"
        count = torch.xpu.device_count()
    else:
        if not (torch.version.cuda or torch.version.hip):
            return f"torch {torch.__version__} is built without CUDA. Type: {install_command()}"
        if not torch.cuda.is_available():
            torch.cuda.init()  # raises with the reason
        count = torch.cuda.device_count()
    if int(device.partition(":")[2] or 0) >= count:
        return f"PyTorch sees {count} such devices in this process"
    return _why_not_compiled(torch, device) if kind == "cuda" else ""


def _why_not_compiled(torch: ModuleType, device: str) -> str:
    """Why this PyTorch has no code for the GPU's architecture; "" where it has some."""
    architectures = torch.cuda.get_arch_list()
    if not architectures or torch.version.hip:
        return ""
    major, minor = torch.cuda.get_device_capability(device)
    for architecture in architectures:
        form, _, digits = architecture.partition("_")
        digits = digits.rstrip("af")
        built = int(digits[:-1]), int(digits[-1])
        # machine code runs on later GPUs of the same major number, PTX on all later ones
        if (built[0] == major and built[1] <= minor) or (form == "compute" and built <= (major, minor)):
            return ""
    return (
        f"its compute capability {major}.{minor} is not among those that torch {torch.__version__} is built for "
        f"({', '.join(architectures)}). Type: {install_command()}"
    )


def _full(free: int, memory: int) -> str:
    return (
        f"its memory is full: {free / GIB:.1f} of {memory / GIB:.1f} GiB are free. End the process that uses it, which "
        "nvidia-smi lists"
    )


def _explain(error: Exception) -> str:
    """An exception of a driver or of PyTorch in one line, with what to do where that is known."""
    text = " ".join(str(error).split())[:300] or type(error).__name__
    if is_out_of_memory(error):
        return f"its memory is full. End the process that uses it, which nvidia-smi lists ({text})"
    if "driver" in text and "too old" in text:
        return f"its driver is too old for this torch. Update the driver, or type: {install_command()} ({text})"
    if "no kernel image" in text:
        return f"this torch is not built for it. Type: {install_command()} ({text})"
    return text


# -- what it is


def _about(torch: ModuleType, kind: str, device: str) -> tuple[str, int, int]:
    """Name, bytes of memory, and bytes of it that are free; 0 where it has no memory of its own."""
    if kind == "cuda":
        free, memory = torch.cuda.mem_get_info(device)
        return torch.cuda.get_device_name(device), memory, free
    if kind == "xpu":
        properties = torch.xpu.get_device_properties(device)
        return properties.name, properties.total_memory, properties.total_memory
    return ("Apple silicon" if kind == "mps" else ""), 0, 0


def _has(torch: ModuleType, kind: str, device: str, precision: Precision) -> bool:
    """Whether the device multiplies a precision natively, with the right results."""
    try:
        # the CPU's numbers are those that others are compared with
        return _is_native(torch, kind, device, precision) and (kind == "cpu" or _computes(torch, device, precision))
    except Exception:  # some devices raise for a precision that they don't have
        return False


def _is_native(torch: ModuleType, kind: str, device: str, precision: Precision) -> bool:
    if kind == "cpu":
        supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return precision == "bf16" and bool(supported and supported())
    if kind == "xpu":
        return precision == "fp16" or torch.xpu.is_bf16_supported(including_emulation=False)
    if kind == "mps":
        return True
    if precision == "bf16":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.version.hip) or torch.cuda.get_device_capability(device) >= MIN_FP16_CAPABILITY


def _computes(torch: ModuleType, device: str, precision: Precision) -> bool:
    """Whether a product and a convolution on the device are those of the CPU in fp32."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> "Tensor":
        return torch.randn(*shape, generator=generator)

    matrices, images = (drawn(64, 128), drawn(128, 32)), (drawn(2, 8, 16, 16), drawn(8, 8, 3, 3))
    with torch.inference_mode():
        for compute, operands in ((torch.matmul, matrices), (torch.nn.functional.conv2d, images)):
            want = compute(*operands)
            got = compute(*(operand.to(device, dtype) for operand in operands)).float().cpu()
            if not (got - want).abs().max() <= MAX_ERROR[precision] * want.abs().max():  # NaN is a difference, too
                return False
    return True


def main(device: str) -> None:
    """Print the answer of a device as JSON."""
    with without_collection():
        result = probe(device)
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main(sys.argv[1])
