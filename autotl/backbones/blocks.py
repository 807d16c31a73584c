"""Turn groups of parameter names into blocks."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from autotl.backbones.base import Block

if TYPE_CHECKING:
    from torch import nn

__all__ = ["blocks_from_groups", "groups_by_position"]

MAX_NAMES = 3
"""Up to so many parts, a block's name lists them all."""


def blocks_from_groups(module: "nn.Module", group_of: Callable[[str], int] | Mapping[str, int]) -> list[Block]:
    """One block for each group of parameters, each with the largest modules whose parameters all lie in that group.

    Args:
        module: the network. It is always divided into its children at least, even if there is only one group.
        group_of: the group number of each name in `module.named_parameters()`, as a function or a mapping. Group
            numbers increase from the input to the output.

    Returns:
        Blocks in the order of their group numbers, which together hold every parameter exactly once. A module without
        parameters is in a block only if it lies inside of a module that is.

    Raises:
        KeyError: a mapping lacks a parameter.
    """
    lookup = group_of if callable(group_of) else group_of.__getitem__
    groups = {name: lookup(name) for name, _ in module.named_parameters()}
    members: dict[int, tuple[list[str], list[str], list[str]]] = {}
    for name, group, is_module in _parts_in_one_group("", module, groups):
        names, modules, parameters = members.setdefault(group, ([], [], []))
        names.append(name)
        (modules if is_module else parameters).append(name)
    return [
        Block(_block_name(names), tuple(modules), tuple(parameters))
        for _, (names, modules, parameters) in sorted(members.items())
    ]


def groups_by_position(module: "nn.Module") -> dict[str, int]:
    """Group numbers by parameter name for a network that defines no groups: one group for each child, in order.

    A child that is a container (`stages`, `blocks`) gives one group for each of its members.
    """
    from torch import nn

    containers = tuple(
        name for name, child in module.named_children() if isinstance(child, nn.Sequential | nn.ModuleList)
    )
    numbers: dict[str, int] = {}
    groups = {}
    for name, _ in module.named_parameters():
        parts = name.split(".")
        unit = ".".join(parts[:2] if parts[0] in containers else parts[:1])
        groups[name] = numbers.setdefault(unit, len(numbers))
    return groups


def _parts_in_one_group(name: str, module: "nn.Module", groups: Mapping[str, int]) -> Iterator[tuple[str, int, bool]]:
    """The largest modules, and remaining parameters, that lie in one group: (name, group, is a module), in order."""
    prefix = f"{name}." if name else ""
    inside = {group for parameter, group in groups.items() if parameter.startswith(prefix)}
    if name and len(inside) == 1:
        yield name, inside.pop(), True
        return
    for parameter, _ in module.named_parameters(recurse=False):
        if prefix + parameter in groups:  # a shared parameter is listed under its first name only
            yield prefix + parameter, groups[prefix + parameter], False
    for child_name, child in module.named_children():
        yield from _parts_in_one_group(prefix + child_name, child, groups)


def _block_name(parts: list[str]) -> str:
    """`conv_stem+bn1`, or `conv1+…+layer1` for more than `MAX_NAMES` parts."""
    return "+".join(parts if len(parts) <= MAX_NAMES else [parts[0], "…", parts[-1]])
