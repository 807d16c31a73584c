"""Run trials on a Dask cluster: `--devices dask:tcp://host:8786`, `dask:tls://…`, `dask:local*4`, or a Dask Client.

Dask starts and watches the processes and carries the messages; each trial runs in a process beside a Dask worker.
"""

import sys
import weakref
from typing import Any

from autotl import hookimpl
from autotl.clusters import Cluster, StudySite

__all__ = ["DaskCluster"]

_clients: "weakref.WeakValueDictionary[str, Any]" = weakref.WeakValueDictionary()
"""Clients that a Python caller gave as `devices`, by the address of their scheduler."""


class DaskCluster(Cluster):
    """`dask:ADDRESS`, `dask:local*N`, and any `distributed.Client`."""

    name = "dask"

    def connect(self, where: str, site: StudySite) -> Any:
        from autotl_dask.launcher import connect

        return connect(where, site, _clients.get(where))

    def where(self, devices: object) -> str | None:
        distributed = sys.modules.get("distributed")  # whoever has a client has imported it
        if distributed is None or not isinstance(devices, distributed.Client):
            return None
        address: str = devices.scheduler.address
        _clients[address] = devices
        return address


@hookimpl
def autotl_register_launchers(register: Any) -> None:
    register(DaskCluster())
