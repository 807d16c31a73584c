"""The configuration of a search, validated: from a study file (TOML), the command line or Python."""

import math
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    StrictBool,
    StrictInt,
    ValidationError,
    field_validator,
    model_validator,
)

from autotl.atomic_io import refuse_links_out
from autotl.errors import AutotlError, nearest
from autotl.folders import is_study

if TYPE_CHECKING:
    from autotl.registry import Registry

__all__ = [
    "StudyConfig",
    "check_registered",
    "default_cache",
    "find_model",
    "find_study",
    "load_study_file",
    "parse_bytes",
    "parse_seconds",
    "study_config",
]

_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
MAX_STUDY_FILE_BYTES = 1_000_000
SUBSET_FOLDERS = ("train", "training", "val", "valid", "validation", "dev", "test", "testing")
"""Names of folders that no study is called after."""


def parse_seconds(value: Any) -> Any:
    """`"1h30m"`, `"10m"`, `"90s"`, `"300"` or a number of seconds, to seconds. Raises ValueError."""
    if isinstance(value, str):
        parts = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s?)?", value.strip().lower())
        try:
            if not parts or not any(parts.groups()):
                raise ValueError
            value = sum(float(part or 0) * unit for part, unit in zip(parts.groups(), (3600, 60, 1), strict=True))
        except ValueError:
            raise ValueError("not a duration") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise ValueError("not a time above 0 seconds")
    return float(value)


def parse_bytes(value: Any) -> Any:
    """`"20GB"`, `"512MiB"` or a number of bytes, to bytes. Raises ValueError."""
    if isinstance(value, str):
        parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", value.strip().lower())
        if not parts or parts[2] not in _SIZES:
            raise ValueError("not a size")
        return int(float(parts[1]) * _SIZES[parts[2]])
    return value


def default_cache() -> Path:
    """Default folder of recorded features: $AUTOTL_CACHE, or `autotl` in the user's cache folder."""
    if folder := os.environ.get("AUTOTL_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autotl"


def _name_of(values: Mapping[str, Any]) -> str:
    """Default name of a study: photos for `photos/` and `photos/train`, cells for `cells/labels.csv`, or the place."""
    path = Path(location := values.get("data", "")).expanduser()
    if path.exists():
        path = path.resolve()
        folder = path if path.is_dir() else path.parent
        while folder.name.lower() in SUBSET_FOLDERS:
            folder = folder.parent
        location = folder.name
    return re.sub(r"[^\w.-]+", "-", location).strip("-.") or "study"


Seconds = Annotated[float, BeforeValidator(parse_seconds)]
Names = Annotated[
    list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value), Field(min_length=1)
]


class StudyConfig(BaseModel):
    """All options of a search. A key that is None or left out has its default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = Field(
        min_length=1, description="The images: a folder of class folders, a CSV manifest, or the name of a data set."
    )
    name: str = Field(
        default_factory=_name_of,
        description="Name of the study. Its files are in output/name; the same name resumes it. "
        "Default: the data's last folder, or the study file's own name.",
    )
    output: Path = Field(default=Path("studies"), description="The folder that holds the studies.")
    trials: StrictInt | None = Field(default=None, ge=1, description="Maximum number of trials, a whole number from 1.")
    time: Seconds | None = Field(
        # the field `trials` comes first, so that its value is known here
        default_factory=lambda data: None if data.get("trials") else 600.0,
        description="How long the search may take: 90s, 10m, 1h30m or a number of seconds. "
        "Default: 10m if trials is not given either.",
    )
    devices: str = Field(
        default="auto",
        min_length=1,
        description="Devices, with one worker for each: cpu, cpu*2, cuda:0,cuda:1, or cuda:0,cpu*4. "
        "Default: auto, every GPU that works and CPU workers beside it.",
    )
    force: StrictBool = Field(default=False, description="Start all workers of `devices`, however few cores there are.")
    backbones: Names | None = Field(
        default=None, description="Pretrained networks to search. Default: those that need no download."
    )
    strategies: Names | None = Field(default=None, description="Ways to reuse a backbone. Default: all.")
    heads: Names | None = Field(default=None, description="Classifiers to search. Default: all.")
    augmentations: Names | None = Field(default=None, description="Augmentation policies to search. Default: all.")
    losses: Names | None = Field(default=None, description="Losses to search. Default: all.")
    levels: Names | None = Field(default=None, description="Feature levels to search. Default: all.")
    metric: str = Field(default="accuracy", description="The validation score that the search optimises.")
    seed: StrictInt = Field(
        default=0, ge=0, lt=2**32, description="Seed of the split and of each trial: a whole number from 0."
    )
    test: str | None = Field(
        default=None,
        min_length=1,
        description='Separate test images (a location as in data), or "none" for none. '
        "Default: the data's own test subset, or 20 % held out.",
    )
    strict_images: StrictBool = Field(
        default=False, description="Stop at a file that can't be decoded instead of leaving it out."
    )
    engine: str | None = Field(
        default=None, description="Engine for frozen backbones. Default: the fastest that is usable on the device."
    )
    ensemble: StrictInt = Field(
        default=8,
        ge=1,
        description="Maximum number of trials that the model combines, from 1; 1 keeps the single best.",
    )
    cache: Path = Field(
        default_factory=default_cache, description="Folder for recorded features. Default: the user's cache folder."
    )
    cache_size: Annotated[StrictInt, BeforeValidator(parse_bytes)] = Field(
        default=20 * 10**9, ge=0, description="Maximum size of the cache: 20GB, 512MB or a number of bytes."
    )
    trial_timeout: Seconds | None = Field(
        default=None,
        description="Maximum time that a trial plans to train, and maximum time without a message from its worker "
        "(then the worker is ended and the trial retried once): 90s, 10m, 1h30m or a number of seconds. "
        "Default: no limit to train, and 1h without a message.",
    )
    offline: StrictBool = Field(default=False, description="Never download weights; use only those on this machine.")
    without_plugins: list[str] = Field(default=[], description="Plugins to leave out, by name.")
    strict_plugins: StrictBool = Field(default=False, description="Stop at a broken plugin instead of leaving it out.")
    _untrusted: frozenset[str] = PrivateAttr(default=frozenset())

    @property
    def untrusted(self) -> frozenset[str]:
        """Locations of images that a study file or a study names, and nobody typed: see `load_dataset`'s `confined`."""
        return self._untrusted

    def from_stranger(self, *keys: str) -> "StudyConfig":
        """A copy whose locations under `keys` (data, test) are untrusted."""
        config = self.model_copy()
        config._untrusted = self._untrusted | {getattr(self, key) for key in keys} - {None}
        return config

    @model_validator(mode="before")
    @classmethod
    def _none_is_default(cls, values: Any) -> Any:
        return {k: v for k, v in values.items() if v is not None} if isinstance(values, dict) else values

    @field_validator("name")
    @classmethod
    def _a_folder_name(cls, name: str) -> str:
        if not re.fullmatch(r"\w[\w. ()-]*", name):
            raise ValueError("it becomes the name of a folder: letters, digits, and - _ . ( ) inside")
        return name

    @field_validator("output", "cache")
    @classmethod
    def _home(cls, path: Path) -> Path:
        return path.expanduser()

    @field_validator("backbones", "strategies", "heads", "augmentations", "losses", "levels")
    @classmethod
    def _once_each(cls, names: list[str] | None) -> list[str] | None:
        return list(dict.fromkeys(names)) if names else names

    @property
    def folder(self) -> Path:
        """The study's folder, with all files of its searches."""
        return self.output / self.name


def study_config(source: "StudyConfig | str | Path", **overrides: Any) -> StudyConfig:
    """Configuration of a search, with `overrides` replacing its values; overrides that are None are ignored.

    Args:
        source: a StudyConfig, a study file (`*.toml`) or a location of images.

    Raises:
        AutotlError: an unknown key or an invalid value, with its place.
    """
    overrides = {key: value for key, value in overrides.items() if value is not None}
    if isinstance(source, StudyConfig):
        config = _validated(source.model_dump(exclude_unset=True) | overrides, _flag)
        kept = [key for key in ("data", "test") if key not in overrides and getattr(source, key) in source.untrusted]
        return config.from_stranger(*kept)
    if str(source).lower().endswith(".toml"):
        return load_study_file(source, **overrides)
    return _validated({"data": str(source)} | overrides, _flag)


def load_study_file(path: str | Path, **overrides: Any) -> StudyConfig:
    """Read a study file: TOML with StudyConfig's fields as top-level keys. `overrides` that are not None replace them.

    `data` and `test` are relative to the current folder or, if they do not exist there, to the study file's folder. A
    study file may come from an untrusted source, so all paths in it must lie in one of these folders after links are
    resolved. Overrides may name any path.

    Raises:
        AutotlError: an unreadable file, or an unknown key or an invalid value, with its line.
    """
    path = Path(path).expanduser()
    try:
        with path.open("rb") as file:
            text = file.read(MAX_STUDY_FILE_BYTES + 1).decode("utf-8")
        if len(text) > MAX_STUDY_FILE_BYTES:
            raise ValueError(f"it has more than {MAX_STUDY_FILE_BYTES:,} bytes")
        values = tomllib.loads(text)
    except FileNotFoundError:
        known = [p.name for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        raise AutotlError(f"There is no study file {path}.{nearest(path.name, known)}") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise AutotlError(f"The study file {path} can't be read as TOML: {reason}") from error
    overrides = {key: value for key, value in overrides.items() if value is not None}

    def place(key: str) -> str:
        return _flag(key) if key in overrides else f"{path}{_line_of(key, text)}"

    for key in ("data", "test"):
        if isinstance(values.get(key), str):
            values[key] = _located(values[key], path.parent)
    for key in values.keys() - overrides.keys():
        for location in _paths_in(key, values[key]):
            _refuse_outside(key, location, path.parent, place(key))
    config = _validated({"name": path.stem} | values | overrides, place)
    return config.from_stranger(*({"data", "test"} & values.keys() - overrides.keys()))


def _paths_in(key: str, value: Any) -> list[str]:
    """The paths in the value of a study file's key."""
    if key in ("data", "test", "output", "cache"):
        return [value] if isinstance(value, str) else []
    if key != "backbones":
        return []
    names = [name for name in ([value] if isinstance(value, str) else value or []) if isinstance(name, str)]
    folders = [name.removeprefix("local-dir:") for name in names if name.startswith("local-dir:")]
    return folders + [name.partition("@")[2] for name in names if "@" in name and not name.startswith("local-dir:")]


def _refuse_outside(key: str, location: str, folder: Path, place: str) -> None:
    """Raises AutotlError unless `location` is in the current folder or in `folder`, the study file's."""
    try:
        target = Path(location).expanduser().resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL character, a cycle of links
        raise AutotlError(f"{place}: {key} = {location!r} is not a path: {error}") from None
    if not any(target.is_relative_to(root.resolve()) for root in (Path(), folder)):
        flag = {"data": "--data", "test": "--test", "backbones": "--backbone"}.get(key, f"--{key}")
        raise AutotlError(
            f"{place}: {key} = {location!r} leads out of the current folder and of the study file's folder, to "
            f"{target}. Study files can come from untrusted sources, so give such a path on the command line: "
            f"{flag} {location}"
        )


def _located(location: str, folder: Path) -> str:
    """`location` below the study file's folder if it exists there and not in the current folder, and isn't a study: the
    result of an earlier search on the data set of that name."""
    typed = Path(location).expanduser()
    beside = folder / typed
    return str(beside) if not typed.exists() and beside.exists() and not is_study(beside) else location


def _line_of(key: str, text: str) -> str:
    """`, line N` of a key. tomllib keeps no line numbers, so this searches for the key at the start of a line or as the
    name of a table."""
    pattern = re.compile(rf"""\s*(\[+\s*)?["']?{re.escape(key)}["']?\s*[=.\]]""")
    return next((f", line {i}" for i, line in enumerate(text.splitlines(), 1) if pattern.match(line)), "")


def _flag(key: str) -> str:
    singular = {"strategies": "strategy", "losses": "loss"}
    key = singular.get(key, key.removesuffix("s") if key in ("backbones", "heads", "augmentations") else key)
    return "DATA" if key == "data" else f"--{key.replace('_', '-')}"


def _validated(values: Mapping[str, Any], place: Any) -> StudyConfig:
    """Raises AutotlError with a line for each error: its place, the value, and what is allowed."""
    try:
        return StudyConfig.model_validate(values)
    except ValidationError as error:
        lines = [line for e in error.errors() if (line := _error_line(e, values, place))]
        raise AutotlError("\n".join(dict.fromkeys(lines))) from None


def _error_line(error: Any, values: Mapping[str, Any], place: Any) -> str | None:
    key = str(error["loc"][0])
    if error["type"] == "default_factory_not_called":  # follows from another field's error
        return None
    if error["type"] == "extra_forbidden":
        known = list(StudyConfig.model_fields)
        return f"{place(key)}: unknown key {key!r}.{nearest(key, known)} Known keys: {', '.join(known)}."
    description = StudyConfig.model_fields[key].description
    if error["type"] == "missing":
        return f"{place(key)}: {key} is missing. {description}"
    reason = error["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{place(key)}: {key} = {_toml(values.get(key))} is invalid: {reason}. {description}"


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else repr(value)


def check_registered(config: StudyConfig, registry: "Registry") -> None:
    """Check the names in a configuration.

    Raises:
        UnknownName: no plugin registered it.
        AutotlError: the strategies can train none of the heads.
    """
    registry.metric(config.metric)
    strategies = [registry.strategy(name) for name in config.strategies or registry.strategies]
    heads = [registry.head(name) for name in config.heads or registry.heads]
    find = {"backbones": registry.backbone, "augmentations": registry.augmentation, "losses": registry.loss}
    for key, lookup in (find | {"levels": registry.feature_levels}).items():
        for name in getattr(config, key) or ():
            lookup(name)
    if config.engine:
        registry.engine(config.engine, "cpu")
    if not any(head.type in strategy.head_types for strategy in strategies for head in heads):
        raise AutotlError(
            f"None of the heads {', '.join(h.name for h in heads)} can be trained by "
            f"{', '.join(s.name for s in strategies)}, which take {' or '.join(strategies[0].head_types)} heads. "
            "See: autotl heads"
        )


def find_study(name: str | Path, output: str | Path = "studies") -> Path:
    """The folder of a study, from its name under `output` or its path.

    Raises:
        AutotlError: no such study, with the nearest name; or a link in the folder leads out of it.
    """
    for folder in (Path(output) / name, Path(name)):
        if (folder / "journal.log").is_file() and is_study(folder):
            refuse_links_out(folder)
            return folder
    known = _studies(output)
    listing = nearest(str(name), known) + (f" Studies there: {', '.join(known)}." if known else "")
    raise AutotlError(f"There is no study {str(name)!r} under {output}/.{listing}")


def find_model(where: str | Path, output: str | Path = "studies") -> Path:
    """A model's folder, from its path, its study's folder or its study's name under `output`.

    Raises:
        AutotlError: no model there, with the nearest name.
    """
    for folder in (Path(where) / "model", Path(where), Path(output) / where / "model"):
        if (folder / "model.json").is_file():
            return folder
    known = [name for name in _studies(output) if (Path(output) / name / "model" / "model.json").is_file()]
    listing = f" Studies with a model under {output}/: {', '.join(known)}." if known else ""
    raise AutotlError(
        f"There is no model at {str(where)!r}: type a model's folder, or a study's name."
        f"{nearest(str(where), known)}{listing}"
    )


def _studies(output: str | Path) -> list[str]:
    return sorted(p.parent.name for p in Path(output).glob("*/journal.log") if is_study(p.parent))
