"""A Dask cluster whose hosts are processes of this machine: each with its own home, temporary and current folder,
and, where this process is root, without the folders that it hides from them."""

import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path


class Cluster:
    """A scheduler, and hosts with a Dask worker each.

    Args:
        folder: for the hosts' folders; a folder with a short path.
        hidden: folders that the hosts see empty: the study, its images and its cache.
        num_workers: Dask workers of a host.
    """

    def __init__(
        self,
        folder: Path,
        num_hosts: int,
        port: int,
        hidden: list[Path],
        environment: dict[str, str],
        num_workers: int = 1,
    ):
        self.num_workers = num_workers
        self.folder, self.port, self.hidden, self.environment = folder, port, hidden, environment
        self.address = f"tcp://127.0.0.1:{port}"
        self.processes: dict[str, subprocess.Popen] = {}
        self.start_scheduler()
        for number in range(num_hosts):
            self.start_host(number)

    def start_scheduler(self) -> None:
        command = ["scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard"]
        self.processes["scheduler"] = self._start("scheduler", [*command, "--dashboard-address", ":0"], None)

    def start_host(self, number: int) -> None:
        name = f"host{number}"
        command = ["worker", self.address, "--nthreads", "1", "--nworkers", str(self.num_workers), "--name", name]
        self.processes[name] = self._start(name, [*command, "--no-dashboard", "--death-timeout", "60"], number)

    def _start(self, name: str, command: list[str], number: int | None) -> subprocess.Popen:
        home = self.folder / name
        for inner in ("home", "tmp", "work"):
            (home / inner).mkdir(parents=True, exist_ok=True)
        prefix = []
        if os.getuid() == 0 and number is not None:
            mounts = [f"mount -t tmpfs tmpfs {shlex.quote(str(path))} && " for path in self.hidden]
            hide = "".join(mounts) + 'exec "$@"'
            prefix = ["unshare", "--mount", "sh", "-c", hide, "host"]
        environment = {
            k: v
            for k, v in self.environment.items()
            if not k.startswith(("AUTOTL", "XDG")) or k.startswith("AUTOTL_NOOP")
        }
        environment |= {"HOME": str(home / "home"), "TMPDIR": str(home / "tmp")}
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*prefix, sys.executable, "-m", "distributed.cli.dask_" + command[0], *command[1:]],
                cwd=home / "work", env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    @property
    def hosts(self) -> list[str]:
        return [name for name in self.processes if name != "scheduler"]

    def family(self, name: str) -> list[int]:
        """The process of a host and all below it: nanny, Dask worker, its reaper and its trial."""
        return descendants(self.processes[name].pid)

    def pid(self, name: str, what: str) -> int | None:
        """The nanny, Dask worker or trial process of a host."""
        if what == "nanny":
            return self.processes[name].pid
        if what == "trial":
            return next(iter(self.trials(name)), None)
        return next((pid for pid in self.family(name) if "spawn_main" in command_of(pid)), None)

    def trials(self, name: str) -> list[int]:
        """The trial processes of a host: forked ones have the command of their template, and a name of their own."""
        return [pid for pid in self.family(name) if slot_of(pid)]

    def close(self) -> None:
        for name, process in self.processes.items():
            for pid in [*self.family(name), process.pid]:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def slot_of(pid: int) -> str:
    """The slot of a trial process, up to 8 characters; "" for any other process."""
    with suppress(OSError):
        program, _, slot = Path(f"/proc/{pid}/comm").read_text().strip().partition(" ")
        return slot if program == "autotl" else ""
    return ""


def descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def wait_for(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.2)
    return False
