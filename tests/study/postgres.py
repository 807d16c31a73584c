"""A PostgreSQL server for tests, which they start for themselves."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

PASSWORD = "a s3cret/word"


class Server:
    """PostgreSQL with a password, on a port of its own. It refuses to run as root: another user runs it then."""

    def __init__(self, binaries: Path, folder: Path):
        self.binaries, self.folder = binaries, folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.getuid() == 0 else []
        folder.mkdir(parents=True)
        if self.user:
            os.chown(folder, 65534, 65534)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        Path(secret).chmod(0o644)
        self._run("initdb", "-D", folder / "data", "-U", "tuner", "-A", "scram-sha-256", "--pwfile", secret)
        self.start()

    def _run(self, program, *arguments):
        command = [*self.user, str(self.binaries / program), *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.folder, timeout=60)

    def start(self):
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-l", self.folder / "log", "-o", options, "start")

    def stop(self):
        self._run("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "stop")

    @property
    def url(self):
        return f"postgresql+psycopg://tuner@127.0.0.1:{self.port}/postgres"

    @property
    def whole_url(self):
        return self.url.replace("tuner@", "tuner:a%20s3cret%2Fword@")


def binaries():
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    program = shutil.which("initdb")
    return found[-1].parent if found else Path(program).resolve().parent if program else None
