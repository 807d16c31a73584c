"""Where a backbone's weights lie, how they get onto this machine, and what their bytes and tensors are."""

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotl.backbones.base import Backbone
from autotl.errors import AutotlError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "allow_downloads",
    "cached",
    "cached_backbones",
    "downloads_allowed",
    "fetch",
    "file_digest",
    "in_folder",
    "no_downloads",
    "read_tensors",
]

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""The names that timm gives weights on the hub, the one we prefer first."""


def allow_downloads(allowed: bool) -> None:
    """Whether weights may be fetched from the network, from here on, in this process and the ones it starts.

    Without a call they may, unless the environment has AUTOTL_OFFLINE=1 or HF_HUB_OFFLINE=1 (which always counts).
    """
    os.environ["AUTOTL_OFFLINE"] = "0" if allowed else "1"


@contextmanager
def no_downloads() -> Iterator[None]:
    """Nothing is fetched in here, whatever is allowed outside."""
    before = os.environ.get("AUTOTL_OFFLINE")
    allow_downloads(False)
    try:
        yield
    finally:
        if before is None:
            del os.environ["AUTOTL_OFFLINE"]
        else:
            os.environ["AUTOTL_OFFLINE"] = before


def downloads_allowed() -> bool:
    """False where AUTOTL_OFFLINE or HF_HUB_OFFLINE is set to 1, true, yes or on."""
    return _forbidden_by() is None


def _forbidden_by() -> str | None:
    for variable in ("AUTOTL_OFFLINE", "HF_HUB_OFFLINE"):
        if os.environ.get(variable, "").lower() in ("1", "true", "yes", "on"):
            return variable
    return None


def cached_backbones(backbones: Mapping[str, Backbone]) -> list[str]:
    """Names of the backbones whose weights are on this machine: what an error about missing weights should list."""
    return [name for name, backbone in backbones.items() if backbone.is_cached]


def cached(place: str) -> Path | None:
    """The weights' file of a hub repository (`timm/resnet34.a1_in1k`) or URL, if it was downloaded before.

    Asks the disk only, never the network.
    """
    if "://" in place:
        path = _torch_hub() / "checkpoints" / place.rsplit("/", 1)[1]
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    for filename in HUB_FILES:
        found = try_to_load_from_cache(place, filename)
        if isinstance(found, str):  # not None, nor the mark of a file that is known not to exist
            return Path(found)
    return None


def _torch_hub() -> Path:
    """torch.hub.get_dir(), without importing torch to ask: a list of what is here should take no second."""
    torch = sys.modules.get("torch")
    if torch:
        return Path(torch.hub.get_dir())
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", f"{caches}/torch")).expanduser() / "hub"


def fetch(place: str) -> Path:
    """The weights' file of a hub repository or URL: from the cache, or else downloaded into it.

    Raises AutotlError where downloads are switched off or this one fails.
    """
    found = cached(place)
    if found:
        return found
    variable = _forbidden_by()
    if variable:
        raise AutotlError(
            f"The weights {place} are not on this machine, and {variable}={os.environ[variable]} forbids to download "
            f"them. Unset {variable}, or give a file: NAME@path/to/weights.safetensors."
        )
    try:
        return _download(place)
    except Exception as error:  # whatever the network, the hub or the disk came up with
        first_line = next(iter(str(error).splitlines()), "")
        raise AutotlError(
            f"The weights {place} are not on this machine, and the download failed: {type(error).__name__}: "
            f"{first_line} Check the network, or give a file: NAME@path/to/weights.safetensors."
        ) from error


def _download(place: str) -> Path:
    if "://" in place:
        from timm.models._hub import download_cached_file

        return Path(download_cached_file(place))
    from huggingface_hub import hf_hub_download, logging
    from huggingface_hub.errors import RemoteEntryNotFoundError

    logging.set_verbosity_error()  # it reports every retry; the error that we raise says it once
    try:
        return Path(hf_hub_download(place, HUB_FILES[0], library_name="timm"))
    except RemoteEntryNotFoundError:  # older weights were never converted to safetensors
        return Path(hf_hub_download(place, HUB_FILES[1], library_name="timm"))


def in_folder(folder: Path) -> Path | None:
    """The weights' file of a `local-dir:`, chosen in the order in which timm looks."""
    stems = ("model", "pytorch_model", "open_clip_model", "open_clip_pytorch_model")
    known = [f"{stem}{suffix}" for stem in stems for suffix in (".safetensors", ".bin", ".pth")]
    others = [
        path.name for suffix in ("safetensors", "pth", "pth.tar", "bin") for path in sorted(folder.glob(f"*.{suffix}"))
    ]
    return next((folder / name for name in known + others if (folder / name).is_file()), None)


def read_tensors(path: Path) -> dict[str, "Tensor"]:
    """The tensors of a safetensors file or a torch checkpoint (of which only tensors are unpickled, never code).

    Of a training checkpoint it is the averaged model where there is one. Raises AutotlError.
    """
    if not path.is_file():
        raise AutotlError(f"There is no weights file {str(path)!r}. Check the path after '@' or 'local-dir:'.")
    import torch
    from timm.models import load_state_dict

    try:
        tensors: Any = load_state_dict(str(path), device="cpu", weights_only=True)
        tensors = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}
    except Exception as error:  # each format has exceptions of its own for a damaged file
        first_line = next(iter(str(error).splitlines()), "")
        raise AutotlError(
            f"{str(path)!r} can't be read as weights: {type(error).__name__}: {first_line} Give a .safetensors file, "
            "or a .pth or .bin that torch.load(weights_only=True) reads."
        ) from error
    if not tensors:
        raise AutotlError(f"{str(path)!r} holds no tensors. Give a file with a network's state dict.")
    return tensors


def file_digest(path: Path) -> str:
    """SHA-256 of the file's bytes, in hex. Read once in a process, and again where its size or time changes.

    Raises AutotlError where there is no such file.
    """
    if not path.is_file():
        raise AutotlError(f"There is no weights file {str(path)!r}. Check the path after '@' or 'local-dir:'.")
    stat = path.stat()
    return _digest(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _digest(path: str, size: int, mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def classes_in(tensors: Mapping[str, "Tensor"], classifiers: Iterable[str]) -> int:
    """How many classes the classifier among `tensors` tells apart; 0 where there is none of these names."""
    for name in classifiers:
        weight = tensors.get(f"{name}.weight")
        if weight is not None:
            return len(weight)
    return 0
