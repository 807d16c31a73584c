"""Where a transformers model lies: a local folder, or a repository on the Hugging Face hub and its cache."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from autotl.backbones.weights import downloads_allowed
from autotl.errors import AutotlError

__all__ = ["Source"]

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
"""Whole, or in parts that an index lists. Never a pickle."""


class Source:
    """A model's files.

    Args:
        place: a folder, or `org/name` on the hub, with `@revision` where it isn't the main one.
    """

    def __init__(self, place: str):
        self.place = place
        folder = Path(place).expanduser()
        is_folder = place.startswith((".", "/", "~")) or (place != "" and folder.is_dir())
        self.folder = folder.absolute() if is_folder else None
        self.repository, _, revision = place.partition("@")
        self.revision = revision or None

    def check(self) -> None:
        """Raises AutotlError for what is neither a hub id nor a folder with a model."""
        if self.folder:
            if not (self.folder / CONFIG).is_file():
                raise AutotlError(
                    f"{str(self.folder)!r} is not a transformers model folder: it has no {CONFIG}. Give the folder "
                    "that `save_pretrained` of the model and of its image processor wrote."
                )
        elif not re.fullmatch(r"[\w.-]+/[\w.-]+", self.repository):
            raise AutotlError(
                f"{self.place!r} is no folder here and no id on the Hugging Face hub. Type hf:org/name, "
                "hf:facebook/dinov2-small say, or hf:path/to/folder"
            )

    @property
    def here(self) -> bool:
        """Whether every file is on this machine. Asks the disk only, never the network."""
        weights = self._weights(self._local)
        return bool(weights and self._local(CONFIG) and self._local(PROCESSOR))

    def file(self, name: str) -> Path:
        """A file, downloaded where it isn't here and may be. Raises AutotlError."""
        found = self._found(name)
        if found is None:
            raise AutotlError(f"{self._named()} has no {name}.{self._what_is_wanted(name)}")
        return found

    def weights(self) -> list[Path]:
        """The safetensors files, likewise."""
        found = self._weights(self._found)
        if not found:
            raise AutotlError(f"{self._named()} has no {WEIGHTS}.{self._what_is_wanted(WEIGHTS)}")
        return found

    def _weights(self, find: Callable[[str], Path | None]) -> list[Path]:
        whole = find(WEIGHTS)
        if whole:
            return [whole]
        index = find(INDEX)
        if not index:
            return []
        parts = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        found = [path for part in parts if (path := find(part))]
        return found if len(found) == len(parts) else []

    def _local(self, name: str) -> Path | None:
        if self.folder:
            return self.folder / name if (self.folder / name).is_file() else None
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repository, name, revision=self.revision)
        return Path(found) if isinstance(found, str) else None  # else unknown, or known not to exist

    def _found(self, name: str) -> Path | None:
        """None where the folder or the repository has no such file."""
        found = self._local(name)
        if found or self.folder:
            return found
        from huggingface_hub import hf_hub_download, logging, try_to_load_from_cache
        from huggingface_hub.errors import RemoteEntryNotFoundError

        if try_to_load_from_cache(self.repository, name, revision=self.revision) is not None:
            return None
        if not downloads_allowed():
            variable = next(v for v in ("AUTOTL_OFFLINE", "HF_HUB_OFFLINE") if os.environ.get(v, "0") != "0")
            raise AutotlError(
                f"{name} of {self.place} is not on this machine, and {variable}={os.environ[variable]} forbids to "
                f"download it. Unset {variable}, or give a folder: hf:path/to/folder"
            )
        logging.set_verbosity_error()  # it reports every retry; the error that we raise says it once
        try:
            return Path(hf_hub_download(self.repository, name, revision=self.revision, library_name="autotl"))
        except RemoteEntryNotFoundError:
            return None
        except Exception as error:  # whatever the network, the hub or the disk came up with
            first_line = next(iter(str(error).splitlines()), "")
            raise AutotlError(
                f"{name} of {self.place} is not on this machine, and the download failed: {type(error).__name__}: "
                f"{first_line} Check the network and the name, or give a folder: hf:path/to/folder"
            ) from error

    def _named(self) -> str:
        return repr(str(self.folder)) if self.folder else f"{self.place} on the Hugging Face hub"

    def _what_is_wanted(self, name: str) -> str:
        if name == WEIGHTS:
            return " Weights are read from safetensors only: save the model again with `save_pretrained`."
        return " Save the model's image processor beside it with `save_pretrained`." if name == PROCESSOR else ""
