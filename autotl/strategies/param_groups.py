"""AdamW's parameter groups: which parameters weight decay applies to."""

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

__all__ = ["no_weight_decay", "parameter_groups"]

EMBEDDINGS = ("*pos_embed*", "*position_embed*", "*cls_token*", "*class_token*")
"""Class tokens and position embeddings in timm, torchvision and transformers: not every network lists its own."""


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    lr: float,
    weight_decay: float,
    excluded: Collection[str] = (),
) -> list[dict[str, Any]]:
    """A group with weight decay and a group without; an empty group is left out.

    Weight decay doesn't apply to biases, to other 1-D parameters (the weights of norms, layer scales), to EMBEDDINGS,
    and to `excluded`: the rule of timm's `param_groups_layer_decay` (timm/optim/_param_groups.py), after BEiT (Bao et
    al., ICLR 2022).

    Args:
        lr: the peak learning rate of both groups.
        excluded: names of parameters, or patterns with wildcards: see `no_weight_decay`.
    """
    decayed: list[nn.Parameter] = []
    exempt: list[nn.Parameter] = []
    for name, parameter in named_parameters:
        is_exempt = parameter.ndim <= 1 or name.rpartition(".")[2] == "bias"
        is_exempt = is_exempt or any(fnmatchcase(name, pattern) for pattern in (*EMBEDDINGS, *excluded))
        (exempt if is_exempt else decayed).append(parameter)
    groups = [
        {"params": decayed, "lr": lr, "weight_decay": weight_decay},
        {"params": exempt, "lr": lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def no_weight_decay(module: nn.Module) -> set[str]:
    """The names that a module's `no_weight_decay()` lists, a convention of timm: class tokens, position embeddings."""
    listed = getattr(module, "no_weight_decay", None)
    return set(listed()) if callable(listed) else set()
