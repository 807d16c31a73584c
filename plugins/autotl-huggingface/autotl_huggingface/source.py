"""The files of a transformers model, in a local folder or in a repository on the Hugging Face hub and its cache."""

import re
from collections.abc import Callable
from pathlib import Path

from autotl.atomic_io import read_json
from autotl.backbones.weights import forbidden_by
from autotl.errors import AutotlError
from autotl.folders import expand_home

__all__ = ["Source"]

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
"""One file, or an index that lists several. Pickled weights are never read."""
PART = re.compile(r"[\w-][\w.-]*\.safetensors")
"""The name of one of several files."""


class Source:
    """A model's files.

    Args:
        location: a folder, or `org/name` on the hub, with `@revision` for another revision than the main one.
    """

    def __init__(self, location: str):
        self.location = location
        folder = expand_home(location)
        is_folder = location.startswith((".", "/", "~")) or (location != "" and folder.is_dir())
        self.folder = folder.absolute() if is_folder else None
        self.repository, _, revision = location.partition("@")
        self.revision = revision or None

    def check(self) -> None:
        """Check the location without downloading anything.

        Raises:
            AutotlError: it is neither a hub id nor a folder with a model.
        """
        if self.folder:
            if not (self.folder / CONFIG).is_file():
                raise AutotlError(
                    f"{str(self.folder)!r} is not a transformers model folder: it has no {CONFIG}. Give the folder "
                    "that `save_pretrained` of the model and of its image processor wrote."
                )
        elif not re.fullmatch(r"[\w.-]+/[\w.-]+", self.repository):
            raise AutotlError(
                f"{self.location!r} is neither a folder nor an id on the Hugging Face hub. Type hf:org/name, as in "
                "hf:facebook/dinov2-small, or hf:path/to/folder"
            )

    @property
    def is_cached(self) -> bool:
        """Whether every file is on this machine. Reads the disk only, never the network."""
        try:
            weights = self._weights(self._local)
        except AutotlError:  # a damaged index, which is told when the weights are needed
            return False
        return bool(weights and self._local(CONFIG) and self._local(PROCESSOR))

    def file(self, name: str) -> Path:
        """The path of a file, downloaded if it isn't on this machine and downloads are allowed.

        Raises:
            AutotlError: the folder or the repository has no such file, or it can't be downloaded.
        """
        path = self._fetch(name)
        if path is None:
            raise AutotlError(f"{self._describe()} has no {name}.{_remedy(name)}")
        return path

    def weights(self) -> list[Path]:
        """The paths of the safetensors files, downloaded if necessary as in `file`.

        Raises:
            AutotlError: as in `file`.
        """
        paths = self._weights(self._fetch)
        if not paths:
            raise AutotlError(f"{self._describe()} has no {WEIGHTS}.{_remedy(WEIGHTS)}")
        return paths

    def _weights(self, find: Callable[[str], Path | None]) -> list[Path]:
        """The safetensors files that `find` gives paths of; empty where one of them is missing."""
        whole = find(WEIGHTS)
        if whole:
            return [whole]
        index = find(INDEX)
        if not index:
            return []
        parts = _parts_of(index)
        paths = [path for part in parts if (path := find(part))]
        return paths if len(paths) == len(parts) else []

    def _local(self, name: str) -> Path | None:
        if self.folder:
            return self.folder / name if (self.folder / name).is_file() else None
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(self.repository, name, revision=self.revision)
        return Path(path) if isinstance(path, str) else None  # otherwise not cached, or the marker of a missing file

    def _fetch(self, name: str) -> Path | None:
        """The path of a file, downloaded if necessary; None where the folder or the repository has no such file."""
        path = self._local(name)
        if path or self.folder:
            return path
        from huggingface_hub import hf_hub_download, logging, try_to_load_from_cache
        from huggingface_hub.errors import RemoteEntryNotFoundError

        if try_to_load_from_cache(self.repository, name, revision=self.revision) is not None:
            return None  # the cache has a marker that the repository has no such file
        if forbidden := forbidden_by():
            what, remedy = forbidden
            raise AutotlError(
                f"{name} of {self.location} is not on this machine, and {what} forbids the download. {remedy}, or "
                "give a folder: hf:path/to/folder"
            )
        logging.set_verbosity_error()  # otherwise every retry is printed; the error below is raised once
        try:
            return Path(hf_hub_download(self.repository, name, revision=self.revision, library_name="autotl"))
        except RemoteEntryNotFoundError:
            return None
        except Exception as error:  # the network, the hub's client and the disk raise many unrelated types
            first_line = next(iter(str(error).splitlines()), "")
            raise AutotlError(
                f"{name} of {self.location} is not on this machine, and the download failed: {type(error).__name__}: "
                f"{first_line} Check the network and the name, or give a folder: hf:path/to/folder"
            ) from error

    def _describe(self) -> str:
        return repr(str(self.folder)) if self.folder else f"{self.location} on the Hugging Face hub"


def _parts_of(index: Path) -> list[str]:
    """The names of the files that an index lists. Raises AutotlError for a damaged index, and for a name that leads out
    of its folder."""
    try:
        parts = sorted(set(read_json(index)["weight_map"].values()))
        if wrong := [part for part in parts if not PART.fullmatch(part)]:
            raise ValueError(f"{wrong[0]!r:.80} is no name of a safetensors file")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AutotlError(
            f"{str(index)!r} doesn't list the files of a model's weights ({type(error).__name__}: {error}). Save the "
            "model again with `save_pretrained`, or download it again."
        ) from error
    return parts


def _remedy(name: str) -> str:
    """What to do about a missing file."""
    if name == WEIGHTS:
        return " Weights are read from safetensors only: save the model again with `save_pretrained`."
    return " Save the model's image processor beside it with `save_pretrained`." if name == PROCESSOR else ""
