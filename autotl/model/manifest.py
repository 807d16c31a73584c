"""The JSON pages of a model's folder, which may come from a stranger: checked before anything is believed."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from autotl.atomic_io import read_json
from autotl.data.augmentation import POLICIES
from autotl.errors import AutotlError

__all__ = ["FORMAT", "MemberPage", "ModelPage", "read_member_page", "read_model_page"]

FORMAT = 2
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{8,128}$")]
"""Becomes a file's name."""
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Params = dict[str, str | int | float | bool | None]
P = TypeVar("P", bound=BaseModel)


class _Page(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class UsedBackbone(_Page):
    name: Name
    digest: Digest


class NeededPlugin(_Page):
    """What `autotl.model.requirements` wrote. Its words end in a command that the user is told to type."""

    component: Literal["backbone", "head"]
    name: Annotated[str, Field(pattern=r"^[^/\\~][^\\]*$", max_length=1000)]
    plugin: Name
    distribution: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,100}$")]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9.+!_-]{1,50}$")]


class ModelPage(_Page):
    """`model.json`."""

    classes: list[str] = Field(min_length=1)
    backbones: list[UsedBackbone] = Field(min_length=1, max_length=1000)
    members: int = Field(ge=1, le=1000)
    plugins: list[NeededPlugin] = Field(default=[], max_length=1000)
    about: dict[str, Any]


class RecipePage(_Page):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    backbone: Name
    strategy: Name
    head: Name
    seed: int
    strategy_params: Params
    head_params: Params


class ViewPage(_Page):
    policy: str
    number: int = Field(ge=0)

    @field_validator("policy")
    @classmethod
    def _known(cls, policy: str) -> str:
        if policy not in ("none", *POLICIES):
            raise ValueError(f"there is no augmentation policy {policy!r}")
        return policy


class MemberPage(_Page):
    """`members/N/member.json`."""

    recipe: RecipePage
    levels: Literal["last", "stages", "inner+max", "stages+max"]
    views: list[ViewPage] = Field(min_length=1, max_length=100)
    tuned: bool
    backbone_digest: Digest
    num_features: int = Field(ge=1)
    num_classes: int = Field(ge=1)
    temperature: float = Field(gt=0)
    weight: float = Field(ge=0)
    trial: int
    validation: float | None


def read_model_page(folder: Path) -> ModelPage:
    """Raises AutotlError where `folder` is no model, comes from another version, or its page isn't as it should be."""
    file = folder / "model.json"
    try:
        page = read_json(file)
    except OSError as error:
        raise AutotlError(
            f"{folder} is no model folder: it has no model.json. Give the `model` folder of a study."
        ) from error
    except ValueError as error:
        raise AutotlError(f"{file} is no JSON: {error}") from error
    found = page.get("format") if isinstance(page, dict) else None
    if found != FORMAT:
        raise AutotlError(
            f"{folder} has model format {found!r}; this autotl reads format {FORMAT}. "
            f"It was written by autotl {_writer(page)}: use that."
        )
    checked = _checked(ModelPage, page, file)
    if len(set(checked.classes)) < len(checked.classes):
        raise AutotlError(f"{file} is damaged or was made by hand: it names a class twice.")
    return checked


def read_member_page(folder: Path) -> MemberPage:
    """Raises AutotlError where the page can't be read, or isn't as it should be."""
    try:
        page = read_json(folder / "member.json")
    except (OSError, ValueError) as error:
        raise AutotlError(f"{folder} is no whole part of a model: {type(error).__name__}: {error}") from error
    return _checked(MemberPage, page, folder / "member.json")


def _checked(model: type[P], page: Any, file: Path) -> P:
    try:
        return model.model_validate(page)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the page"
        value = repr(first["input"])
        given = value if len(value) < 80 else f"{value[:77]}…"
        raise AutotlError(
            f"{file} is damaged or was made by hand: {place} = {given}: {first['msg']}. Copy the model's folder again."
        ) from error


def _writer(page: Any) -> str:
    """The version that wrote a page, as it says itself."""
    try:
        return str(page["about"]["versions"]["autotl"])[:40]
    except (KeyError, TypeError, IndexError):
        return "of another version"
