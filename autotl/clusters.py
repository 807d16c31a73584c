"""The contract of clusters: where else than on this machine workers can run. A plugin registers one."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from socket import getaddrinfo
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from autotl.errors import AutotlError

if TYPE_CHECKING:
    from autotl.workers.launcher import Launcher

__all__ = ["Cluster", "Site", "StudySite", "refuse_plain"]

ENCRYPTED = {"tls", "wss"}
PLAIN_ALLOWED = "AUTOTL_ALLOW_PLAIN"
"""An environment variable: a network whose addresses are public may still be trusted."""


@dataclass(frozen=True)
class StudySite:
    """What a cluster's launcher needs to know about the search."""

    folder: Path
    """The study's folder on the coordinator's machine, absolute. Other hosts can't read it."""
    cache: Path
    """The coordinator's cache, which workers on the same machine share."""
    log: Callable[[str], None]
    """Shows a line to the user."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables for every worker's process."""


@dataclass(frozen=True)
class Site:
    """The folders of a worker on a host that can't read the study's folder: its coordinator serves the study."""

    folder: str
    """Stands in for the study's folder, for this worker alone."""
    cache: str
    """For recorded features."""


class Cluster(ABC):
    """A kind of cluster that `--devices NAME:WHERE` and `search(devices=…)` run workers on."""

    name: str
    """The word before the colon: `dask` in `dask:tcp://host:8786`."""

    @abstractmethod
    def connect(self, where: str, site: StudySite) -> "Launcher":
        """A launcher with the slots of the cluster at `where`, the text after the colon.

        Raises:
            AutotlError: there is no such cluster, or its hosts can't run this search; with what to type next.
        """

    def where(self, devices: object) -> str | None:
        """For an object that a Python caller gives as `devices`, such as a client of a cluster: the text that stands
        for it after the colon, for `connect` in this process. None where it is nothing of this cluster's."""
        return None


def refuse_plain(address: str) -> None:
    """Raises AutotlError where a cluster's `address` is on the public internet, and its connections aren't encrypted:
    whoever reads them can start processes on its hosts."""
    parts = urlsplit(address)
    if parts.scheme in ENCRYPTED or not parts.hostname or os.environ.get(PLAIN_ALLOWED) == "1":
        return
    try:
        found = {entry[4][0] for entry in getaddrinfo(parts.hostname, None)}
    except OSError:
        return  # whoever connects says so
    if public := sorted(str(one) for one in found if ip_address(str(one).partition("%")[0]).is_global):
        raise AutotlError(
            f"{address} is a public address ({public[0]}), and {parts.scheme}:// is neither encrypted nor "
            "authenticated: whoever can reach it can run code on its hosts. Use tls:// with certificates, or a tunnel. "
            f"If nobody else can reach that network: {PLAIN_ALLOWED}=1"
        )
