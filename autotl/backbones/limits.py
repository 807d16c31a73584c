"""Limits on what a file may make this process build: numbers of a configuration, and a network's size."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["check_config", "limited_build", "tensor_shapes"]

MAX_NUMBER = 1_000_000
"""No width, depth, vocabulary or image size of a pretrained network is larger."""
MAX_ARGUMENT = 65_536
"""The same for a constructor's arguments, some of which it counts to before it makes a module."""
MAX_DEPTH = 6
MAX_VALUES = 100_000
"""Values in a configuration. Those that name each of 21,843 classes have the most."""
SOURCES = ("pretrained_", "checkpoint", "cache_dir", "file", "url", "hf_hub", "state_dict", "auto_map", "custom_load")
"""Beginnings of arguments that name where to read from, rather than what to build."""
TENSOR_RATIO, SPARE_TENSORS = 2, 1_000
NUMBER_RATIO, SPARE_NUMBERS = 2, 50_000_000
"""How much larger a network may be while it is built than when it is complete: a constructor may build a classifier
and drop it."""


def check_config(content: Any, *, arguments: bool = False) -> None:
    """Check the values of a network's configuration before anything is built from it.

    Args:
        content: JSON values.
        arguments: they become arguments of a constructor, so none may name a place to read from.

    Raises:
        ValueError: a number that no network has, values nested too deep, too many values, or an argument that names a
            file or an address. The message names the value.
    """
    num_values, limit = 0, MAX_ARGUMENT if arguments else MAX_NUMBER

    def visit(value: Any, name: str, depth: int) -> None:
        nonlocal num_values
        num_values += 1
        if depth > MAX_DEPTH or num_values > MAX_VALUES:
            raise ValueError(f"{name or 'it'} is nested too deep, or has more than {MAX_VALUES:,} values")
        if isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= limit):
            raise ValueError(f"{name} = {value!r} is no number of a network")
        if arguments and isinstance(value, str) and not _is_plain(value):
            raise ValueError(f"{name} = {value[:80]!r} is not an option of a network")
        if isinstance(value, Mapping):
            for key, inner in value.items():
                if arguments and key.startswith(SOURCES):
                    raise ValueError(f"{name}{'.' if name else ''}{key[:80]} is not an argument of a network")
                visit(inner, f"{name}{'.' if name else ''}{key[:80]}", depth + 1)
        elif isinstance(value, list | tuple):
            for number, inner in enumerate(value):
                visit(inner, f"{name}.{number}", depth + 1)

    visit(content, "", 0)


def _is_plain(text: str) -> bool:
    return len(text) <= 200 and all(c.isalnum() or c in "_-+,.= " for c in text) and ".." not in text


@contextmanager
def limited_build(num_tensors: int, num_numbers: int) -> Iterator[None]:
    """While the context is open, a network that grows beyond a file's tensors stops being built.

    Args:
        num_tensors: tensors in the file that the network's weights come from.
        num_numbers: numbers in these tensors together.

    Raises:
        ValueError: from inside of the constructor, as soon as the network has more tensors or numbers than the file,
            with a margin. A network of a million layers, or of terabytes, is never built to its end.
    """
    from torch.nn.modules import module as hooks

    left = {
        "tensors": TENSOR_RATIO * num_tensors + SPARE_TENSORS,
        "numbers": NUMBER_RATIO * num_numbers + SPARE_NUMBERS,
        "modules": 20 * num_tensors + 10 * SPARE_TENSORS,
    }

    def count_tensor(module: "nn.Module", name: str, tensor: "Tensor | None") -> None:
        if tensor is not None:
            left["tensors"] -= 1
            left["numbers"] -= tensor.numel()
            require()

    def count_module(module: "nn.Module", name: str, submodule: "nn.Module | None") -> None:
        left["modules"] -= 1
        require()

    def require() -> None:
        if min(left.values()) < 0:
            raise ValueError("the network that is described is larger than the file with its weights")

    register: list[tuple[Callable[..., Any], Callable[..., Any]]] = [
        (hooks.register_module_parameter_registration_hook, count_tensor),
        (hooks.register_module_buffer_registration_hook, count_tensor),
        (hooks.register_module_module_registration_hook, count_module),
    ]
    handles = [add(hook) for add, hook in register]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def tensor_shapes(build: "Callable[[], nn.Module]") -> "dict[str, tuple[int, ...]] | None":
    """The shapes of the state dict of what `build` returns, built on torch's meta device, without storage.

    None where a constructor reads the values of its tensors, which tensors on that device don't have. A constructor's
    ValueError, TypeError, KeyError and AssertionError pass: they speak of its arguments.
    """
    import torch

    try:
        with torch.device("meta"):
            return {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}
    except RuntimeError:  # NotImplementedError is one
        return None
