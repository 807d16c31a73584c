"""All options of a search, each validated."""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    StrictBool,
    StrictInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from autotl.config.limits import Limits, parse_count, parse_milliseconds
from autotl.errors import AutotlError
from autotl.folders import claim_cache, expand_home

__all__ = ["StudyConfig", "claimed_cache", "default_cache", "parse_bytes", "parse_seconds", "without_password"]

_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
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


def without_password(url: str) -> str:
    """The URL of a database without the password in it."""
    url = re.sub(r"(?<=://)([^:@/]*):[^?]*@", r"\1@", url)  # up to the last @, of which one may be unescaped
    url = re.sub(r"(?<=[?&])(ssl)?passw(or)?d=[^&]*&?", "", url)
    return url.rstrip("?&")


def _default_storage() -> str | None:
    whole = os.environ.get("AUTOTL_STORAGE")
    return without_password(whole) if whole else None


def default_cache() -> Path:
    """Default folder of recorded features: $AUTOTL_CACHE, or `autotl` in the user's cache folder.

    Raises:
        AutotlError: the user has no home folder, as a number in a container has none.
    """
    if folder := os.environ.get("AUTOTL_CACHE"):
        return Path(folder)
    if not (caches := os.environ.get("XDG_CACHE_HOME")):
        home = expand_home("~")
        if not home.is_absolute():
            raise AutotlError("This user has no home folder for a cache. Name a folder in AUTOTL_CACHE.")
        caches = str(home / ".cache")
    return Path(caches) / "autotl"


def claimed_cache() -> Path:
    """The default cache, marked as one, before something else than features is first kept there: a folder without the
    mark is refused later. Raises AutotlError as `default_cache` and `claim_cache`."""
    folder = default_cache()
    claim_cache(folder)
    return folder


def _name_of(values: Mapping[str, Any]) -> str:
    """Default name of a study: photos for `photos/` and `photos/train`, cells for `cells/labels.csv`, or the place."""
    path = expand_home(location := values.get("data", ""))
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
        default=None,
        description="Pretrained networks to search. Default: those that need no download, "
        "and those of autotl's own list that are worth their download on this machine in this time.",
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
    joined: StrictInt = Field(
        default=3,
        ge=1,
        le=4,
        description="Maximum number of backbones whose recorded features one head sees side by side, from 1 to 4; "
        "1 joins none. A name such as `resnet18 + vit_tiny` in backbones joins those.",
    )
    cache: Path = Field(
        default_factory=default_cache, description="Folder for recorded features. Default: the user's cache folder."
    )
    cache_size: Annotated[StrictInt, BeforeValidator(parse_bytes)] = Field(
        default=20 * 10**9, ge=0, description="Maximum size of the cache: 20GB, 512MB or a number of bytes."
    )
    pool: str | None = Field(
        default=None,
        min_length=1,
        description="Where hosts share recorded features: file:///FOLDER, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER.",
    )
    storage: str | None = Field(
        default_factory=_default_storage,
        min_length=1,
        description="A database for the study, as SQLAlchemy names it: postgresql+psycopg://USER@HOST/DATABASE. "
        "The password comes from AUTOTL_STORAGE or .pgpass. Default: AUTOTL_STORAGE, or a journal in the study's "
        "folder.",
    )
    max_latency: Annotated[float, BeforeValidator(parse_milliseconds)] | None = Field(
        default=None,
        description="Most time that the model may take for one image, in the passes of its networks, without reading "
        "the file: 20ms, 0.02s or a number of milliseconds. Default: no limit.",
    )
    max_size: Annotated[StrictInt, BeforeValidator(parse_bytes), Field(ge=1)] | None = Field(
        default=None,
        description="Maximum size of the model's weights as saved: 50MB, 1GB or a number of bytes. Default: no limit.",
    )
    max_parameters: Annotated[StrictInt, BeforeValidator(parse_count), Field(ge=1)] | None = Field(
        default=None,
        description="Maximum number of parameters of the model's networks together: 500k, 10M or a number. "
        "Default: no limit.",
    )
    trial_timeout: Seconds | None = Field(
        default=None,
        description="Maximum time that a trial plans to train, and, from 30s on, without a message from its worker "
        "(then the worker is ended and the trial retried once): 90s, 10m, 1h30m or a number of seconds. "
        "Default: no limit to train, and 1h without a message.",
    )
    offline: StrictBool = Field(default=False, description="Never download weights: the same as download never.")
    download: Literal["never", "ask", "always"] | None = Field(
        default=None,
        description="Whether weights may be downloaded: never, ask or always. "
        "Default: ask at a terminal; elsewhere only for the backbones that are named.",
    )
    align: StrictBool = Field(
        default=False,
        description="Whether a search with a time limit measures early how near the images are to what each backbone "
        "knows, in at most a tenth of its time, and tries the most promising backbones first. Experimental.",
    )
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

    @field_validator("download")
    @classmethod
    def _agrees_with_offline(cls, download: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("offline") and download not in (None, "never"):
            raise ValueError("offline is set, which forbids downloads: leave one of them out")
        return download

    @field_validator("storage", mode="before")
    @classmethod
    def _holds_no_secret(cls, url: Any) -> Any:
        if isinstance(url, str) and without_password(url) != url:
            raise ValueError("it has a password, which others would see: put the whole URL into AUTOTL_STORAGE instead")
        if isinstance(url, str) and "://" not in url:
            raise ValueError("not the URL of a database: postgresql+psycopg://USER@HOST/DATABASE")
        return url

    @field_validator("pool")
    @classmethod
    def _is_address(cls, pool: str | None) -> str | None:
        if pool and "://" not in pool and not Path(pool).is_absolute():
            raise ValueError("each host would look for it elsewhere: give a whole address")
        return f"file://{pool}" if pool and "://" not in pool else pool

    @field_validator("output", "cache")
    @classmethod
    def _home(cls, path: Path) -> Path:
        return expand_home(path)

    @field_validator("backbones", "strategies", "heads", "augmentations", "losses", "levels")
    @classmethod
    def _once_each(cls, names: list[str] | None) -> list[str] | None:
        return list(dict.fromkeys(names)) if names else names

    @property
    def limits(self) -> Limits:
        """What the model may cost."""
        megabytes = None if self.max_size is None else self.max_size / 1e6
        return Limits(self.max_latency, megabytes, self.max_parameters)

    @property
    def forbids_downloads(self) -> bool:
        """Whether nothing may be downloaded, whatever a user would answer."""
        return self.offline or self.download == "never"

    @property
    def folder(self) -> Path:
        """The study's folder, with all files of its searches."""
        return self.output / self.name
