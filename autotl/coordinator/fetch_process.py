"""The process that downloads one backbone's weights: `python -m autotl.coordinator.fetch_process OPTIONS`.

It is a process of its own, so that a search that ends can end a download too: what has arrived is kept, and the next
search continues. It writes one JSON object a line: `{"done": 5, "total": 9}`, at last `{"error": null}` or a text.
"""

import json
import os
import sys
import threading
import time

from autotl.atomic_io import DiskFull
from autotl.backbones.base import Backbone
from autotl.backbones.download import HubUnreachable, reporting_to
from autotl.backbones.weights import fetch
from autotl.errors import AutotlError
from autotl.ui.output import reserve_stdout, write_line

__all__ = ["fetch_weights", "main"]

REPORT_SECONDS = 0.2


def fetch_weights(backbone: Backbone) -> None:
    """Bring the weights onto this machine. Raises AutotlError or DiskFull."""
    if backbone.weights_file() is None:
        _ = backbone.digest  # weights that are several files: the digest reads, and so downloads, all of them


def main(options: str) -> None:
    """Download the weights that `options` names, a JSON object: `location`, or a backbone's `name` and
    `without_plugins`."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    reserve_stdout()
    asked = json.loads(options)
    written = 0.0

    def report(done: int, total: int | None) -> None:
        nonlocal written
        if time.monotonic() - written >= REPORT_SECONDS:
            written = time.monotonic()
            write_line(json.dumps({"done": done, "total": total}))

    try:
        with reporting_to(report):
            if "location" in asked:
                fetch(asked["location"])
            else:
                from autotl.registry import load_registry

                fetch_weights(load_registry(asked["without_plugins"]).backbone(asked["name"]))
    except DiskFull as error:
        write_line(json.dumps({"error": str(error), "disk": str(error.path)}))
    except HubUnreachable as error:
        write_line(json.dumps({"error": str(error), "unreachable": True}))
    except AutotlError as error:
        write_line(json.dumps({"error": str(error)}))
    except Exception as error:  # a plugin's code may raise anything
        write_line(json.dumps({"error": f"{type(error).__name__}: {error}"}))
    else:
        write_line(json.dumps({"error": None}))


def _end_with_parent() -> None:
    """The parent holds the other end of standard input until it ends, however it ends."""
    while os.read(0, 1):  # not sys.stdin, whose lock a thread may not hold when the interpreter ends
        pass
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
