"""The JSON files of a model folder. They may come from a stranger, so every value is validated before it is used."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from autotl.atomic_io import read_json, write_json
from autotl.backbones.base import Preprocessing
from autotl.errors import AutotlError
from autotl.escaping import escape

__all__ = [
    "FORMAT",
    "BackboneEntry",
    "MemberManifest",
    "ModelManifest",
    "read_member_manifest",
    "read_model_manifest",
    "write_manifest",
]

FORMAT = 4
"""Increase when the layout of the folder, or a name or meaning in its JSON files, changes."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{8,128}$")]
"""Part of a file's name, so it holds hex digits alone."""
Digests = Annotated[str, Field(pattern=r"^[0-9a-f]{8,128}(\+[0-9a-f]{8,128}){0,15}$")]
"""Of the backbones whose features are joined."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=1000)]
ComponentName = Annotated[str, Field(pattern=r"^[\w+-]{1,100}$")]
"""Of levels and augmentations; whether a plugin has it is looked up when the model is loaded."""
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,100}$")]
Distribution = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,100}$")]
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9.+!_-]{1,50}$")]
"""A distribution and a version become part of the command in an error message."""
Params = dict[str, str | int | float | bool | None]
M = TypeVar("M", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class PreprocessingEntry(_Strict):
    """The preprocessing of a backbone, with the fields of `autotl.backbones.base.Preprocessing`."""

    size: int
    crop: float
    interpolation: str
    mean: list[float]
    std: list[float]
    squash: bool

    @model_validator(mode="after")
    def _of_a_network(self) -> "PreprocessingEntry":
        self.preprocessing().check()
        return self

    def preprocessing(self) -> Preprocessing:
        mean, std = tuple(self.mean), tuple(self.std)
        return Preprocessing(self.size, self.crop, self.interpolation, mean, std, self.squash)  # type: ignore[arg-type]  # checked


class BackboneEntry(_Strict):
    """A backbone of the model."""

    name: Name
    digest: Digest
    pretrained_on: str = "unknown"
    license: str = "unknown"
    """Of the weights."""
    preprocessing: PreprocessingEntry
    weights: Digest | None = None
    """The backbone whose file has the weights; None for its own."""
    config_files: list[FileName] = Field(max_length=10)
    """The files in `backbones/DIGEST/` that describe the network; none where its name does."""


class RequiredPlugin(_Strict):
    """A plugin that the model needs (see `autotl.model.requirements`)."""

    component: Literal["backbone", "head", "augmentation", "levels"]
    name: Annotated[str, Field(pattern=r"^[^/\\~][^\\]*$", max_length=1000)]
    plugin: Name
    distribution: Distribution
    version: Version


class ModelManifest(_Strict):
    """`model.json`."""

    classes: list[str] = Field(min_length=1, max_length=1_000_000)
    backbones: list[BackboneEntry] = Field(min_length=1, max_length=1000)
    members: int = Field(ge=1, le=1000)
    plugins: list[RequiredPlugin] = Field(default=[], max_length=1000)
    versions: dict[Distribution, Version]
    """Of the libraries and plugins that the answers depend on, by distribution, when the model was saved."""
    features: list[list[float]] = Field(max_length=1000)
    """For each member, the reference features of its networks (see `autotl.model.reference`)."""
    files: dict[str, Sha256]
    """Of the other files in the folder, by their path in it. Only these are read."""
    about: dict[str, Any]


class RecipeEntry(_Strict):
    """The recipe of a member, with the fields of `autotl.recipe.Recipe`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    backbone: Name
    strategy: Name
    head: Name
    seed: int
    strategy_params: Params
    head_params: Params


class ViewEntry(_Strict):
    """An augmented view of each image, with the fields of `autotl.data.augmentation.View`."""

    policy: ComponentName
    number: int = Field(ge=0)


class MemberManifest(_Strict):
    """`members/N/member.json`."""

    recipe: RecipeEntry
    levels: ComponentName
    views: list[ViewEntry] = Field(min_length=1, max_length=100)
    tuned: bool
    """Whether there is a `backbone_state.safetensors` with the weights of the unfrozen blocks."""
    backbone_digest: Digests
    num_features: int = Field(ge=1)
    num_classes: int = Field(ge=1, le=1_000_000)
    temperature: float = Field(gt=0)
    weight: float = Field(ge=0, le=1e6)
    trial: int
    validation: float | None
    answers: list[list[float]]
    """The head's `autotl.heads.inference.reference_answers`."""
    files: dict[str, Sha256]
    """Of the other files in the member's folder."""


def write_manifest(file: Path, content: Mapping[str, Any]) -> str:
    """Write `model.json` or `member.json` with a digest of its own content; returns the SHA-256 of the file."""
    write_json(file, {**content, "digest": _digest_of(content)})
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _digest_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_model_manifest(folder: Path) -> ModelManifest:
    """Read `model.json`.

    Raises:
        AutotlError: `folder` is not a model folder, has another format, or a value is invalid.
    """
    file = folder / "model.json"
    try:
        content = read_json(file)
    except OSError as error:
        raise AutotlError(
            f"{folder} is not a model folder: it has no model.json. Give the `model` folder of a study."
        ) from error
    except ValueError as error:
        raise AutotlError(f"{file} is not JSON: {error}") from error
    number = content.get("format") if isinstance(content, dict) else None
    if number != FORMAT:
        raise AutotlError(
            f"{folder} has model format {number!r}, and this autotl reads format {FORMAT}. "
            f"Use the autotl that wrote it: {_writer(content)}."
        )
    manifest = _validated(ModelManifest, content, file)
    if len(set(manifest.classes)) < len(manifest.classes):
        raise AutotlError(f"{file} is damaged or was made by hand: a class is duplicated.")
    return manifest


def read_member_manifest(folder: Path) -> MemberManifest:
    """Read `member.json`.

    Raises:
        AutotlError: the file can't be read, or a value is invalid.
    """
    try:
        content = read_json(folder / "member.json")
    except (OSError, ValueError) as error:
        raise AutotlError(f"{folder} is not a complete member of a model: {type(error).__name__}: {error}") from error
    return _validated(MemberManifest, content, folder / "member.json")


def _validated(model: type[M], content: Any, file: Path) -> M:
    try:
        manifest = model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "its content"
        value = repr(first["input"])
        shown = value if len(value) < 80 else f"{value[:77]}…"
        raise AutotlError(
            f"{file} is damaged or was made by hand: {escape(place)[:200]} = {shown}: {escape(first['msg'])[:300]}. "
            "Copy the model's folder again."
        ) from error
    if content.pop("digest", None) != _digest_of(content):
        raise AutotlError(f"{file} was changed after it was saved. Copy the model's folder again.")
    return manifest


def _writer(content: Any) -> str:
    """The version that wrote `model.json`, as the file states it."""
    try:
        versions = content.get("versions") or content["about"]["versions"]
        return f"autotl {escape(versions['autotl'])[:40]}"
    except (KeyError, TypeError, IndexError, AttributeError):
        return "an unknown version"
