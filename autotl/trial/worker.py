"""A worker process, `python -m autotl.trial.worker ADDRESS`: one for each device slot, living from trial to trial.

It is started as a program of its own, so that its environment is set before torch is imported, and a search works
from a notebook as well as from a script. It ends when its coordinator does, however that ends.
"""

import gc
import importlib
import json
import os
import queue
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Client, Connection
from typing import Any

from autotl.atomic_io import disk_full
from autotl.errors import BrokenPlugin

__all__ = ["main"]


def main(address: str) -> None:
    """Connect, get the context, run tickets until told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the coordinator decides
    connection: Connection = Client(address, authkey=bytes.fromhex(os.environ.pop("AUTOTL_WORKER_KEY")))
    connection.send(json.loads(os.environ.pop("AUTOTL_WORKER")))
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    deadline = [float("inf")]
    threading.Thread(target=_listen, args=(connection, inbox, deadline), daemon=True).start()
    sending = threading.Lock()

    def send(*message: Any) -> None:
        with sending:
            connection.send(message)

    _import_early()
    context = inbox.get()
    try:
        import torch

        from autotl.trial.finalize import finish
        from autotl.trial.runner import Bench, run_trial

        torch.set_num_threads(context.slot.threads)
        bench = Bench.set_up(context, send, lambda: deadline[0])
        gc.freeze()  # a million objects of the libraries, which each trial's own gc.collect() needn't look through
        send("ready")
        while (ticket := inbox.get()) is not None:
            if type(ticket).__name__ == "Finish":
                send("result", finish(bench, ticket))
            elif not run_trial(bench, ticket):
                os._exit(1)  # at once: an accelerator that failed may hang whoever takes leave of it
    except BaseException as error:
        if isinstance(error, BrokenPlugin):  # --strict-plugins: the search ends with it
            send("fatal", str(error))
        elif full := disk_full(error, context.folder):
            send("full", str(full), str(full.path))
        else:
            send("broken", traceback.format_exc())
        raise


def _import_early() -> None:
    """What takes seconds to import, while the coordinator looks at the images."""
    for name in ("torch", "timm", "optuna", "sklearn.linear_model", "sklearn.svm", "skops.io"):
        importlib.import_module(name)


def _listen(connection: Connection, inbox: "queue.SimpleQueue[Any]", deadline: list[float]) -> None:
    try:
        while True:
            message = connection.recv()
            if isinstance(message, tuple) and message[0] == "deadline":
                deadline[0] = message[1]
            else:
                inbox.put(message)
    except (EOFError, OSError):  # the coordinator is gone, and nobody waits for what we do, or have started
        if os.name == "posix" and os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
