"""A search's configuration from a study file (TOML), the command line or Python; and where studies and models lie."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from autotl.atomic_io import refuse_links_out
from autotl.config.study_config import StudyConfig
from autotl.errors import AutotlError, nearest
from autotl.folders import expand_home, is_study
from autotl.recipe import JOIN

if TYPE_CHECKING:
    from autotl.registry import Registry

__all__ = ["check_registered", "find_model", "find_studies", "find_study", "load_study_file", "study_config"]

MAX_STUDY_FILE_BYTES = 1_000_000


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
    path = expand_home(path)
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
    if found := {"storage", "pool"} & (values.keys() - overrides.keys()):
        key = sorted(found)[0]
        raise AutotlError(
            f"{place(key)}: study files can come from untrusted sources, so they name no {key}: give --{key} on the "
            "command line."
        )
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
    listed = [name for name in ([value] if isinstance(value, str) else value or []) if isinstance(name, str)]
    names = [part for name in listed for part in name.split(JOIN)]
    folders = [name.removeprefix("local-dir:") for name in names if name.startswith("local-dir:")]
    return folders + [name.partition("@")[2] for name in names if "@" in name and not name.startswith("local-dir:")]


def _refuse_outside(key: str, location: str, folder: Path, place: str) -> None:
    """Raises AutotlError unless `location` is in the current folder or in `folder`, the study file's."""
    if "://" in location:
        raise AutotlError(
            f"{place}: {key} = {location!r} is an address. Study files can come from untrusted sources, so give it on "
            f"the command line: --{key} {location}"
        )
    try:
        target = expand_home(location).resolve()
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
    typed = expand_home(location)
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
    shown = "(not shown)" if key == "storage" else _toml(values.get(key))
    return f"{place(key)}: {key} = {shown} is invalid: {reason}. {description}"


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
        if _has_study(folder) and is_study(folder):
            refuse_links_out(folder)
            return folder
    known = _studies(output)
    listing = nearest(str(name), known) + (f" Studies there: {', '.join(known)}." if known else "")
    raise AutotlError(f"There is no study {str(name)!r} under {output}/.{listing}")


def find_studies(output: str | Path = "studies") -> list[Path]:
    """The folders of all studies under `output`, by name. Raises AutotlError where there is none."""
    folders = [Path(output) / name for name in _studies(output)]
    if not folders:
        raise AutotlError(f"There is no study under {output}/. Name another folder: --output FOLDER")
    for folder in folders:
        refuse_links_out(folder)
    return folders


def find_model(where: str | Path, output: str | Path = "studies") -> Path:
    """A model's folder, from its path, its study's folder or its study's name under `output`.

    Raises:
        AutotlError: no model there, with the nearest name.
    """
    typed = expand_home(where)
    for folder in (typed / "model", typed, Path(output) / where / "model"):
        if (folder / "model.json").is_file():
            return folder
    known = [name for name in _studies(output) if (Path(output) / name / "model" / "model.json").is_file()]
    listing = f" Studies with a model under {output}/: {', '.join(known)}." if known else ""
    raise AutotlError(
        f"There is no model at {str(where)!r}: type a model's folder, or a study's name."
        f"{nearest(str(where), known)}{listing}"
    )


def _studies(output: str | Path) -> list[str]:
    return sorted(p.name for p in Path(output).glob("*") if _has_study(p) and is_study(p))


def _has_study(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("journal.log", "storage.json"))
