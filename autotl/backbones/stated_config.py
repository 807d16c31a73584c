"""What a weights file states about itself: how the images of its training were prepared, and how its network is built.

timm's convention is a `config.json` with `architecture`, `pretrained_cfg` and `model_args`, as
`timm.models.save_for_hf` writes it. It is looked for beside the weights, as FILE.json for `FILE.safetensors` and as
config.json, and inside of the file: in the metadata of a safetensors file, and in a torch checkpoint.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotl.atomic_io import read_json
from autotl.backbones.limits import check_config
from autotl.backbones.timm_names import checked_model_args, checked_preprocessing, list_options
from autotl.errors import AutotlError

__all__ = ["Stated", "disagreements", "read_folder_config", "read_stated"]

MAX_CONFIG_BYTES = 1_000_000
KEYS = ("input_size", "crop_pct", "interpolation", "mean", "std", "crop_mode")
"""Keys of timm's `pretrained_cfg` that are about preprocessing."""


@dataclass(frozen=True)
class Stated:
    """What is stated about a weights file. Empty where nothing is."""

    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Preprocessing`."""
    model_args: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    """Where it is stated, for messages."""


def read_stated(file: Path, architecture: str) -> Stated:
    """What is stated about `file`, from the first that says something: FILE.json, config.json, the file itself.

    Args:
        architecture: timm's, without a tag. A config.json of another architecture belongs to other weights.

    Raises:
        AutotlError: a stated value is invalid.
    """
    for beside in (file.with_suffix(".json"), file.with_name("config.json")):
        config = _read_json(beside)
        if config is not None and config.get("architecture", architecture) == architecture:
            stated = _stated(config, str(beside))
            if stated.preprocessing or stated.model_args:
                return stated
    return _stated(_inside_of(file), f"the metadata of {file}")


def _read_json(file: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is no such file, or it holds something else."""
    try:
        with file.open("rb") as opened:
            content = json.loads(opened.read(MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _stated(config: Mapping[str, Any], source: str) -> Stated:
    """From a config with `pretrained_cfg`, or with its keys at the top as early versions of timm wrote them."""
    nested = config.get("pretrained_cfg")
    given = nested if isinstance(nested, dict) else config
    values = {key: given[key] for key in KEYS if key in given}
    try:
        check_config(values, arguments=True)
    except (ValueError, TypeError, AttributeError) as error:
        raise AutotlError(f"{source} describes no preprocessing: {error}.") from error
    fields: dict[str, Any] = {}
    if "input_size" in values:
        fields["size"] = _size(values.pop("input_size"), source)
    if "crop_mode" in values:
        mode = values.pop("crop_mode")
        if mode not in ("center", "squash"):
            raise AutotlError(f"{source} states crop_mode = {mode!r}, which autotl doesn't do: center or squash.")
        fields["squash"] = mode == "squash"
    if "crop_pct" in values:
        fields["crop"] = values.pop("crop_pct")
    listed = config.get("model_args")
    arguments = listed if isinstance(listed, dict) else {}
    left_out = ("num_classes", "in_chans")  # they are those of the weights
    arguments = {k: v for k, v in arguments.items() if v is not None and k not in left_out}
    return Stated(checked_preprocessing(fields | values, source), checked_model_args(arguments, source), source)


def _size(shape: Any, source: str) -> int:
    if not isinstance(shape, list | tuple) or len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2]:
        raise AutotlError(f"{source} states input_size = {shape!r}; autotl gives a backbone square RGB images.")
    return shape[1]  # its type and range are checked with the other fields


def _inside_of(file: Path) -> dict[str, Any]:
    """The configuration in a weights file: the metadata of a safetensors file, whose values are JSON as texts, or the
    `pretrained_cfg` of a torch checkpoint."""
    if not file.is_file():
        return {}
    if file.suffix != ".safetensors":
        return _inside_of_checkpoint(file)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            metadata = opened.metadata() or {}
    except (OSError, SafetensorError):  # reported when the weights are read
        return {}
    config: dict[str, Any] = {}
    for key in ("pretrained_cfg", "model_args", *KEYS):
        if key in metadata:
            try:
                config[key] = json.loads(metadata[key])
            except (ValueError, RecursionError):
                config[key] = metadata[key]  # a bare word, as `bicubic`
    return config


def _inside_of_checkpoint(file: Path) -> dict[str, Any]:
    import zipfile

    import torch

    if not zipfile.is_zipfile(file):  # an old format, which can't be read without reading all tensors
        return {}
    try:
        checkpoint = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except Exception:  # each kind of damage raises its own type; reported when the weights are read
        return {}
    known = {"pretrained_cfg", "model_args"}
    return {k: v for k, v in checkpoint.items() if k in known} if isinstance(checkpoint, dict) else {}


def disagreements(stated: Stated, typed: Mapping[str, Any], of_timm: Mapping[str, Any]) -> list[str]:
    """Warnings about fields that are stated otherwise than they are typed, which is followed, or than timm has them.

    Args:
        typed: the fields in the backbone's name.
        of_timm: all fields of timm's own preprocessing.
    """
    fields = stated.preprocessing
    ignored = {key: value for key, value in fields.items() if key in typed and value != typed[key]}
    changed = {key: value for key, value in fields.items() if key not in typed and value != of_timm[key]}
    lines = []
    if ignored:
        typed_values = list_options({key: typed[key] for key in ignored})
        lines.append(f"{stated.source} states {list_options(ignored)}; {typed_values}, as typed, is used instead.")
    if changed:
        timms = list_options({key: of_timm[key] for key in changed})
        lines.append(f"{stated.source} states {list_options(changed)}, which is used instead of timm's {timms}.")
    return lines


def read_folder_config(folder: Path) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """A folder's config.json, read as timm reads it: (pretrained_cfg, architecture, model arguments)."""
    from timm.models import is_model
    from timm.models._hub import load_model_config_from_path  # noqa: PLC2701  # timm exports no public name

    try:
        check_config(read_json(folder / "config.json"))
        config, architecture, arguments = load_model_config_from_path(folder)
        check_config(arguments or {}, arguments=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AutotlError(
            f"{str(folder)!r} is not a timm model folder: {type(error).__name__}: {error}. It needs a config.json with "
            "the architecture and a model.safetensors, as timm.models.save_for_hf writes them."
        ) from error
    if not is_model(architecture):
        raise AutotlError(f"timm has no architecture {architecture!r}, which {str(folder / 'config.json')!r} names.")
    return config, architecture, arguments or {}
