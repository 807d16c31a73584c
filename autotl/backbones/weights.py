"""Find a backbone's weights on disk, download them where that is allowed, read them, and digest them."""

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotl.atomic_io import DiskFull
from autotl.backbones.base import Backbone
from autotl.backbones.download import HubUnreachable, download, explain_failure, is_unreachable
from autotl.errors import AutotlError
from autotl.folders import expand_home

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "cached",
    "cached_backbones",
    "classifier_size",
    "downloads_allowed",
    "fetch",
    "file_digest",
    "forbidden_by",
    "no_downloads",
    "read_tensors",
    "weights_in_folder",
]

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""The names of timm's weights files on the Hugging Face hub, in order of preference."""
OPTION = "--offline"
"""The value of AUTOTL_OFFLINE where a search was asked for no downloads, and the user has set no variable."""
CHUNK = 1 << 20
"""Bytes read at once while a file is hashed."""


@contextmanager
def no_downloads(*, when: bool = True) -> Iterator[None]:
    """Forbid downloads in this process, and in the processes that it starts, while the context is open.

    Sets the environment variable AUTOTL_OFFLINE and restores it afterwards. A process that was started inside of the
    context keeps the environment that it inherited.

    Args:
        when: False changes nothing.
    """
    if not when:
        yield
        return
    before = os.environ.get("AUTOTL_OFFLINE")
    os.environ["AUTOTL_OFFLINE"] = OPTION
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("AUTOTL_OFFLINE", None)
        else:
            os.environ["AUTOTL_OFFLINE"] = before


def downloads_allowed() -> bool:
    """Whether weights may be downloaded: False where AUTOTL_OFFLINE or HF_HUB_OFFLINE is 1, true, yes or on."""
    return forbidden_by() is None


def forbidden_by() -> tuple[str, str] | None:
    """What forbids downloads, and what allows them again, both for an error message; None where they are allowed."""
    if os.environ.get("AUTOTL_OFFLINE") == OPTION:
        return OPTION, f"Leave {OPTION} out"
    for variable in ("AUTOTL_OFFLINE", "HF_HUB_OFFLINE"):
        if os.environ.get(variable, "").lower() in ("1", "true", "yes", "on"):
            return f"{variable}={os.environ[variable]}", f"Unset {variable}"
    return None


def cached_backbones(backbones: Mapping[str, Backbone]) -> list[str]:
    """The names of the backbones whose weights are on this machine: an error about missing weights lists them."""
    return [name for name, backbone in backbones.items() if backbone.is_cached]


def cached(location: str) -> Path | None:
    """The weights file of a hub repository (`timm/resnet34.a1_in1k`) or URL in the local cache; None if not cached.

    Reads the disk only, never the network.
    """
    if "://" in location:
        path = _torch_hub() / "checkpoints" / location.rsplit("/", 1)[1]
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    for filename in HUB_FILES:
        path_in_cache = try_to_load_from_cache(location, filename)
        if isinstance(path_in_cache, str):  # otherwise None, or the marker of a file that the repository doesn't have
            return Path(path_in_cache)
    return None


def _torch_hub() -> Path:
    """`torch.hub.get_dir()` without importing torch: listing the cached backbones should not take seconds."""
    torch = sys.modules.get("torch")
    if torch:
        return Path(torch.hub.get_dir())
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return expand_home(os.environ.get("TORCH_HOME", f"{caches}/torch")) / "hub"


def fetch(location: str) -> Path:
    """The weights file of a hub repository or URL: from the local cache, otherwise downloaded into it.

    Raises:
        AutotlError: downloads are forbidden, or the download fails.
        HubUnreachable: it fails for want of a connection.
        DiskFull: there is no room for the file.
    """
    path = cached(location)
    if path:
        return path
    if forbidden := forbidden_by():
        what, remedy = forbidden
        raise AutotlError(
            f"The weights {location} are not on this machine, and {what} forbids the download. {remedy}, or give a "
            "file: NAME@path/to/weights.safetensors."
        )
    try:
        return _download(location)
    except DiskFull:
        raise
    except Exception as error:  # the network, the hub's client and the disk raise many unrelated types
        kind = HubUnreachable if is_unreachable(error) else AutotlError
        raise kind(
            f"The weights {location} are not on this machine, and the download failed: "
            f"{explain_failure(error, location)} Or give a file: NAME@path/to/weights.safetensors."
        ) from error


def _download(location: str) -> Path:
    if "://" in location:
        from timm.models._hub import download_cached_file  # noqa: PLC2701  # timm exports no public name

        return Path(download_cached_file(location))
    from huggingface_hub import logging
    from huggingface_hub.errors import RemoteEntryNotFoundError

    logging.set_verbosity_error()  # otherwise every retry is printed; `fetch` reports the final error once
    try:
        return download(location, HUB_FILES[0])
    except RemoteEntryNotFoundError:  # older weights were never converted to safetensors
        return download(location, HUB_FILES[1])


def weights_in_folder(folder: Path) -> Path | None:
    """The weights file of a `local-dir:` folder, chosen in timm's order of preference; None where there is none."""
    stems = ("model", "pytorch_model", "open_clip_model", "open_clip_pytorch_model")
    known = [f"{stem}{suffix}" for stem in stems for suffix in (".safetensors", ".bin", ".pth")]
    others = [
        path.name for suffix in ("safetensors", "pth", "pth.tar", "bin") for path in sorted(folder.glob(f"*.{suffix}"))
    ]
    return next((folder / name for name in known + others if (folder / name).is_file()), None)


def read_tensors(path: Path) -> dict[str, "Tensor"]:
    """The tensors of a safetensors file or a torch checkpoint, on the CPU.

    A torch checkpoint is read with `weights_only=True`, so that no code in it is executed. From a training checkpoint
    the averaged (EMA) weights are taken where it has them.

    Raises:
        AutotlError: the file is missing, can't be read as weights, or holds no tensors.
    """
    _require_file(path)
    import torch
    from timm.models import load_state_dict

    try:
        tensors: Any = load_state_dict(str(path), device="cpu", weights_only=True)
        tensors = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}
    except Exception as error:  # each format raises its own types for a damaged file
        first_line = next(iter(str(error).splitlines()), "")
        raise AutotlError(
            f"{str(path)!r} can't be read as weights: {type(error).__name__}: {first_line} Give a .safetensors file, "
            "or a .pth or .bin that torch.load(weights_only=True) reads."
        ) from error
    if not tensors:
        raise AutotlError(f"{str(path)!r} holds no tensors. Give a file with a network's state dict.")
    return tensors


def file_digest(path: Path) -> str:
    """SHA-256 of the file's bytes, in hex. Cached in this process until the file's size or modification time changes.

    Raises:
        AutotlError: there is no such file.
    """
    _require_file(path)
    stat = path.stat()
    return _digest(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _digest(path: str, size: int, mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise AutotlError(f"There is no weights file {str(path)!r}. Check the path after '@' or 'local-dir:'.")


def classifier_size(tensors: Mapping[str, "Tensor"], classifiers: Iterable[str]) -> int:
    """The number of classes of the first module of `classifiers` that `tensors` has a weight for; 0 where none has."""
    for name in classifiers:
        weight = tensors.get(f"{name}.weight")
        if weight is not None:
            return len(weight)
    return 0
