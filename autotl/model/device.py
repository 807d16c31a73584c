"""From a device as users write it ("auto", "cuda:1") to the torch device of this process."""

import os
import warnings

from autotl.devices import parse_devices
from autotl.engines.probe import probe
from autotl.errors import AutotlError

__all__ = ["resolve_device", "take_device"]


def resolve_device(device: str = "auto") -> str:
    """The torch device to use in this process, without a change to its environment.

    Args:
        device: "auto" (the first accelerator that works, else the CPU), "cpu", "mps", "cuda", "cuda:N", "xpu" or
            "xpu:N", where N is PyTorch's number of the GPU; or a list as for `--devices`, whose first GPU is meant.

    Raises:
        AutotlError: this machine doesn't have the device, or PyTorch can't use it.
    """
    if device == "cpu":
        return device
    return _first_usable(device, [slot.place for slot in parse_devices(device) if slot.is_accelerator])


def take_device(devices: str) -> str:
    """The torch device for the first slot of `devices` that works, as `--devices` numbers them.

    A GPU becomes the only visible one of this process, so call this in a program of its own before torch is imported.

    Raises:
        AutotlError: this machine doesn't have the device.
    """
    accelerators = [slot for slot in parse_devices(devices) if slot.is_accelerator]
    if not accelerators:
        return "cpu"
    if len(accelerators) == 1 or devices != "auto":
        slot = accelerators[0]
        os.environ.update(slot.environment)
        return _first_usable(devices, [slot.device])
    return _first_usable(devices, [slot.place for slot in accelerators])


def _first_usable(device: str, candidates: list[str]) -> str:
    """The first accelerator that works. Without one "auto" is the CPU, with a warning."""
    reasons = []
    for candidate in dict.fromkeys(candidates):
        result = probe(candidate)
        if result.usable:
            return candidate
        reasons.append(f"{candidate} is not used: {result.reason}")
    if device == "auto" or not candidates:
        for reason in reasons:
            warnings.warn(f"{reason}. Predictions run on the CPU.", stacklevel=4)
        return "cpu"
    raise AutotlError(f"PyTorch can't use {device!r} in this process: {'; '.join(reasons)}. Use device='cpu'.")
