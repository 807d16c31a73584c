"""The JSON files of a model folder. They may come from a stranger, so every value is validated before it is used."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autotl.atomic_io import read_json
from autotl.errors import AutotlError

__all__ = ["FORMAT", "MemberManifest", "ModelManifest", "read_member_manifest", "read_model_manifest"]

FORMAT = 3
"""Increase when the layout of the folder, or a name or meaning in its JSON files, changes."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{8,128}$")]
"""Part of a file's name, so it holds hex digits alone."""
Name = Annotated[str, Field(min_length=1, max_length=1000)]
ComponentName = Annotated[str, Field(pattern=r"^[\w+-]{1,100}$")]
Params = dict[str, str | int | float | bool | None]
M = TypeVar("M", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class BackboneEntry(_Strict):
    """A backbone of the model."""

    name: Name
    digest: Digest


class RequiredPlugin(_Strict):
    """A plugin that the model needs (see `autotl.model.requirements`).

    Distribution and version become part of the command in an error message.
    """

    component: Literal["backbone", "head", "augmentation", "levels"]
    name: Annotated[str, Field(pattern=r"^[^/\\~][^\\]*$", max_length=1000)]
    plugin: Name
    distribution: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,100}$")]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9.+!_-]{1,50}$")]


class ModelManifest(_Strict):
    """`model.json`."""

    classes: list[str] = Field(min_length=1)
    backbones: list[BackboneEntry] = Field(min_length=1, max_length=1000)
    members: int = Field(ge=1, le=1000)
    plugins: list[RequiredPlugin] = Field(default=[], max_length=1000)
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
    backbone_digest: Digest
    num_features: int = Field(ge=1)
    num_classes: int = Field(ge=1)
    temperature: float = Field(gt=0)
    weight: float = Field(ge=0)
    trial: int
    validation: float | None


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
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "its content"
        value = repr(first["input"])
        shown = value if len(value) < 80 else f"{value[:77]}…"
        raise AutotlError(
            f"{file} is damaged or was made by hand: {place} = {shown}: {first['msg']}. Copy the model's folder again."
        ) from error


def _writer(content: Any) -> str:
    """The version that wrote `model.json`, as the file states it."""
    try:
        return f"autotl {str(content['about']['versions']['autotl'])[:40]}"
    except (KeyError, TypeError, IndexError):
        return "an unknown version"
