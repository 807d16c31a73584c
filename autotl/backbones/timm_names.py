"""The names of timm backbones: `MODEL[,OPTION=VALUE…][@FILE]`, and the options that they hold.

`mobilenetv2_100,pad_type=same,mean=0.5,std=0.5@weights.safetensors` is timm's `mobilenetv2_100`, built with the model
argument `pad_type="same"`, for images that are normalised by a mean and a standard deviation of 0.5. All that decides
what the network computes is in the name, so it is also in the recipe, the study and the model folder.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autotl.backbones.base import INTERPOLATIONS, MAX_SIZE
from autotl.backbones.limits import check_config
from autotl.errors import AutotlError

__all__ = [
    "TimmName",
    "checked_model_args",
    "checked_preprocessing",
    "format_options",
    "list_options",
    "parse_name",
]

PREPROCESSING = ("size", "crop", "interpolation", "mean", "std", "squash")
"""Options that are fields of `Preprocessing`; all other options are arguments of timm's model."""
MAX_NUMBER = 4096
"""Largest number in a model argument: a name can come from a stranger's study file or model."""

RESERVED = frozenset((
    "model_name", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "checkpoint_path",
    "cache_dir", "scriptable", "exportable", "no_jit", "pruned", "features_only", "out_indices", "feature_cfg",
    "num_classes", "in_chans", "dynamic_img_size",
))  # fmt: skip
"""Arguments that autotl passes itself, or that make timm read other files."""


@dataclass(frozen=True)
class TimmName:
    """The parts of a backbone's name."""

    model: str
    """timm's name, perhaps with the tag of its weights."""
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Preprocessing` that differ from timm's."""
    model_args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of timm's model."""
    file: str | None = None
    """The weights file, as typed; None where timm's own weights are used."""

    def __str__(self) -> str:
        file = "" if self.file is None else f"@{self.file}"
        return f"{self.model}{format_options({**self.preprocessing, **self.model_args})}{file}"


def parse_name(name: str) -> TimmName:
    """Take a name apart. The model isn't looked up.

    Raises:
        AutotlError: an option without a value, an option that is there twice, or a value that is out of its range.

    >>> parse_name("resnet18,mean=0.5,size=160@own.safetensors").preprocessing
    {'mean': (0.5, 0.5, 0.5), 'size': 160}
    """
    model, at, file = name.partition("@")
    model, *texts = model.split(",")
    options: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[a-z]\w*", key) or not value:
            raise AutotlError(
                f"Backbone {name!r}: {text!r} is not an option. Options follow the model's name as KEY=VALUE, after "
                f"commas: {model},mean=0.5,std=0.5"
            )
        if key in options:
            raise AutotlError(f"Backbone {name!r}: the option {key} is duplicated. Leave one of them out.")
        options[key] = _parsed(value)
    place = f"Backbone {name!r}"
    preprocessing = checked_preprocessing({k: v for k, v in options.items() if k in PREPROCESSING}, place)
    model_args = checked_model_args({k: v for k, v in options.items() if k not in PREPROCESSING}, place)
    return TimmName(model, preprocessing, model_args, file if at else None)


def _parsed(text: str) -> Any:
    """`true` to True, `0.5` to a number, `0.4/0.5/0.6` to a tuple, anything else to itself."""
    if "/" in text:
        return tuple(_parsed(part) for part in text.split("/"))
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            pass
    return text


def format_options(options: Mapping[str, Any]) -> str:
    """The inverse of parsing: `,mean=0.5,pad_type=same`; three equal numbers are written as one.

    Raises:
        AutotlError: a name can't hold a value, a nested one for example.
    """
    return "".join(f",{key}={_formatted(key, value)}" for key, value in options.items())


def list_options(options: Mapping[str, Any]) -> str:
    """Options for a message: `mean=0.5, std=0.5`."""
    return format_options(options).removeprefix(",").replace(",", ", ")


def _formatted(key: str, value: Any) -> str:
    if isinstance(value, tuple | list) and value:
        parts = [_formatted(key, part) for part in value]
        is_triple_of_one = key in ("mean", "std") and len(set(parts)) == 1
        return parts[0] if is_triple_of_one else "/".join(parts)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if not isinstance(value, str | bool | int | float) or not re.fullmatch(r"[\w.+-]+", text):
        raise AutotlError(
            f"A backbone's name can't hold {key} = {value!r}: give a number, true, false or a word. Other arguments "
            "are read from the config.json of a folder: local-dir:FOLDER"
        )
    return text


def checked_model_args(arguments: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Arguments of timm's model.

    Args:
        place: where they are from, for the message of an error.

    Raises:
        AutotlError: an argument that is not the user's to give, or that names a place to read from, or a number beyond
            those of real networks.
    """
    for key, value in arguments.items():
        if key in RESERVED:
            raise AutotlError(
                f"{place}: the model argument {key} can't be given: autotl sets it, or has no use for it."
            )
        numbers = value if isinstance(value, tuple | list) else (value,)
        if any(isinstance(number, int | float) and not abs(number) <= MAX_NUMBER for number in numbers):
            raise AutotlError(f"{place}: {key} = {value} is invalid: numbers are at most {MAX_NUMBER:,}.")
    try:
        check_config(arguments, arguments=True)
    except (ValueError, TypeError, AttributeError) as error:  # a torch checkpoint's keys may be of any type
        raise AutotlError(f"{place}: the model arguments are invalid: {error}.") from error
    return dict(arguments)


def checked_preprocessing(fields: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Fields of `Preprocessing` in their own types: one number for `mean` or `std` stands for all three channels.

    Args:
        fields: any of size, crop, interpolation, mean, std, squash.
        place: where they are from, for the message of an error.

    Raises:
        AutotlError: an unknown field, or a value that is out of its range.
    """
    return {key: _checked(key, value, place) for key, value in fields.items()}


def _checked(key: str, value: Any, place: str) -> Any:
    def refuse(allowed: str) -> AutotlError:
        return AutotlError(f"{place}: {key} = {value!r} is invalid: {allowed}.")

    match key:
        case "size":
            if type(value) is not int or not 1 <= value <= MAX_SIZE:
                raise refuse(f"the side of the images in pixels is a whole number from 1 to {MAX_SIZE:,}")
            return value
        case "crop":
            if not _is_number(value) or not 0.1 <= value <= 2:
                raise refuse("the part of the shorter side that is kept is a number from 0.1 to 2, such as 0.875")
            return float(value)
        case "interpolation":
            if value not in INTERPOLATIONS:
                raise refuse(f"choose {', '.join(INTERPOLATIONS[:-1])} or {INTERPOLATIONS[-1]}")
            return value
        case "squash":
            if not isinstance(value, bool):
                raise refuse("type true or false")
            return value
        case "mean" | "std":
            numbers = tuple(value) if isinstance(value, tuple | list) else (value,) * 3
            if len(numbers) != 3 or not all(_is_number(number) for number in numbers):
                raise refuse("one number, or three of red/green/blue such as 0.485/0.456/0.406")
            lowest_is_excluded = key == "std"
            if any(not 0 <= n <= 1 or (lowest_is_excluded and n == 0) for n in numbers):
                hint = f"; divide by 255: {key}={numbers[0] / 255:.4g}" if numbers[0] > 1 else ""
                raise refuse(f"pixel values go from 0 to 1{hint}")
            return tuple(float(number) for number in numbers)
    raise refuse(f"the fields are {', '.join(PREPROCESSING)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
