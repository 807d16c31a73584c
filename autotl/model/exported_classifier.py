"""Predictions from an export, without PyTorch, timm and scikit-learn, whose imports take most of a cold start.

The user's cache remembers which exports this user has made, with the digests of their files: what a stranger puts
beside a model is never read.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from autotl.atomic_io import read_json, write_json
from autotl.backbones.weights import file_digest
from autotl.config import claimed_cache, default_cache
from autotl.data.decoding import UndecodableImage, UntrustedFormat, decode
from autotl.data.sandbox import SandboxedDecoder
from autotl.errors import AutotlError
from autotl.exports.base import ExportedModel, Exporter, Runtime

__all__ = ["ExportedClassifier", "find_export", "remember_export"]

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Record(BaseModel):
    """`exports/DIGEST.json` in the cache, where DIGEST is of the model's `model.json`."""

    model_config = ConfigDict(strict=True, frozen=True)

    exporter: str
    folder: str
    classes: list[str] = Field(min_length=1)
    size_hint: int = Field(ge=1)
    files: dict[str, Sha256]
    """Of the files that the exporter wrote."""


@dataclass
class ExportedClassifier:
    """An export that predicts as its model does, to within the tolerance that it was checked with."""

    classes: tuple[str, ...]
    size_hint: int
    runtime: Runtime
    _decoder: SandboxedDecoder = field(default_factory=SandboxedDecoder, repr=False)

    def stream(
        self, paths: Iterable[Path], on_skip: Callable[[Path, str], None], *, many: bool = False
    ) -> Iterator[tuple[Path, np.ndarray]]:
        """Yield each path with its probabilities [num_classes], as `ImageModel.stream` does."""
        for path in paths:
            try:
                image = self._decoded(path)
            except UndecodableImage as error:
                on_skip(path, str(error))
            else:
                yield path, self.runtime(np.array(image)[None])[0]

    def _decoded(self, path: Path) -> object:
        try:
            return decode(path, self.size_hint, trusted_only=True)
        except UntrustedFormat:
            self._decoder.verify(path)
            return decode(path, self.size_hint)


def remember_export(
    model: Path, folder: Path, files: Iterable[str], exporter: Exporter, exported: ExportedModel
) -> None:
    """Remember a checked export, so that `find_export` finds it.

    Args:
        model: the model's folder.
        folder: the export's.
        files: those that the exporter wrote, by their path in the folder.
    """
    record = _Record(
        exporter=exporter.name,
        folder=str(folder.absolute()),
        classes=list(exported.classes),
        size_hint=exported.size_hint,
        files={name: file_digest(folder / name) for name in files},
    )
    with suppress(AutotlError, OSError):  # without a cache nothing is remembered
        write_json(_place(claimed_cache(), model), record.model_dump())


def find_export(model: Path, exporters: Mapping[str, Exporter]) -> ExportedClassifier | None:
    """The last export that this user has made of a model, ready to predict. None where there is none, it was moved or
    changed, or its library isn't here.

    Args:
        model: the model's folder.
    """
    try:
        record = _Record.model_validate(read_json(_place(default_cache(), model)))
        folder = Path(record.folder)
        if any(file_digest(folder / name) != digest for name, digest in record.files.items()):
            return None
        runtime = exporters[record.exporter].load(folder)
    except (AutotlError, OSError, ValueError, KeyError, ImportError, RuntimeError):
        return None
    return None if runtime is None else ExportedClassifier(tuple(record.classes), record.size_hint, runtime)


def _place(cache: Path, model: Path) -> Path:
    return cache / "exports" / f"{file_digest(model / 'model.json')}.json"
