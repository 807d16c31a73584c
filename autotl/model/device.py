"""From a device as users write it ("auto", "cuda:1") to the torch device of this process."""

import os
import warnings

from autotl.devices import parse_devices
from autotl.errors import AutotlError

__all__ = ["resolve_device", "take_device"]


def resolve_device(device: str = "auto") -> str:
    """The torch device to use in this process, without a change to its environment.

    Args:
        device: "auto" (the first GPU that works, else MPS, else the CPU), "cpu", "mps", "cuda", or "cuda:N", where N is
            PyTorch's number of the GPU.

    Raises:
        AutotlError: this machine doesn't have the device, or PyTorch can't use it.
    """
    if device == "cpu":
        return device
    slot = parse_devices(device)[0]
    if slot.device_type != "cuda":
        return slot.device
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    numbers = range(count) if device in ("auto", "cuda") else [int(slot.place.partition(":")[2])]
    for number in numbers:
        if number < count and _works(f"cuda:{number}"):
            return f"cuda:{number}"
    if device == "auto":
        warnings.warn("PyTorch can't use a GPU of this machine: predictions run on the CPU.", stacklevel=3)
        return "cpu"
    raise AutotlError(f"PyTorch can't use {device!r} in this process; it has {count} GPUs. Use device='cpu'.")


def _works(device: str) -> bool:
    import torch

    try:
        return bool(torch.zeros(1, device=device).add(1).item() == 1)
    except RuntimeError:  # out of memory, or an error of the driver
        return False


def take_device(devices: str) -> str:
    """The torch device for the first slot of `devices`, as `--devices` numbers them.

    A GPU becomes the only visible one of this process, so call this in a program of its own before torch is imported.

    Raises:
        AutotlError: this machine doesn't have the device.
    """
    slot = parse_devices(devices)[0]
    if slot.device_type == "cuda":
        os.environ.update(slot.environment)
    return slot.device
