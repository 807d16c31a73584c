"""Stands for another device's engine on a worker that reads what that engine has recorded, and computes nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autotl.engines.base import Compiled, Engine
from autotl.errors import AutotlError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FeatureSource", "NotRecorded", "RecordedEngine"]


class NotRecorded(AutotlError):
    """Features that a worker was to read are not recorded."""


@dataclass(frozen=True)
class FeatureSource:
    """Whose recorded features a worker reads: what their key names of the engine that has recorded them."""

    cache: Path
    """The folder with `features/` and `engines/`."""
    engine: str
    version: str
    precision: str
    device_type: str
    decodes: bool = False
    """Whether its GPU decodes images (see `autotl.data.device_images`)."""


class RecordedEngine(Engine):
    """Answers like the engine of a source, so that its recorded features are found, and compiles nothing.

    Args:
        source: whose features are read.
    """

    def __init__(self, source: FeatureSource):
        self.name, self.source = source.engine, source

    def usable(self, device: str) -> bool:
        return True

    def precision(self, device: str) -> str:
        return self.source.precision

    def version(self) -> str:
        return self.source.version

    def compile(
        self,
        module: "nn.Module",
        size: int,
        device: str,
        threads: int,
        precision: str,
        cache: Path | None = None,
        key: str = "",
    ) -> Compiled:
        raise NotRecorded(f"features of {self.source.device_type} are not recorded, or no longer")
