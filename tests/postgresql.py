"""A PostgreSQL server for tests: its own folder, a free port of this machine, passwords asked for."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

USER, PASSWORD, DATABASE = "secateur", "s3cret", "postgres"

_NOBODY = "nobody"  # the server's programs refuse to be run by root


def missing() -> str | None:
    """What is not installed here that a server needs; None where one can be started."""
    for program in ("initdb", "pg_ctl"):
        if shutil.which(program) is None:
            return f"{program} is not on the path"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed"
    return None


class Server:
    """A server that a test starts and stops; gone, with all it kept, when the block ends.

    Attributes:
        url: of its database, with the password.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path must be short
        self._data = self._folder / "data"
        self._port = _free_port()
        self.url = f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self._port}/{DATABASE}"

    def __enter__(self) -> Server:
        if os.getuid() == 0:
            shutil.chown(self._folder, _NOBODY)
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        if os.getuid() == 0:
            shutil.chown(secret, _NOBODY)
        flags = ["--auth=scram-sha-256", f"--username={USER}", f"--pwfile={secret}", "--no-sync", "--encoding=UTF8"]
        try:
            self._call("initdb", "--pgdata", str(self._data), "--locale=C", *flags)
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (self._data / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-h 127.0.0.1 -p {self._port} -k {self._folder}"
        # Its output goes to a file: a pipe would be held open for as long as the server lives.
        self._call("pg_ctl", "start", "-w", "-D", str(self._data), "-l", str(self._folder / "log"), "-o", options)

    def stop(self) -> None:
        """Stop it at once, whoever is connected."""
        self._call("pg_ctl", "stop", "-w", "-m", "fast", "-D", str(self._data))

    def _call(self, *command: str) -> None:
        other = {"user": _NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
        with open(self._folder / "calls", "ab") as said:
            code = subprocess.call(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, cwd=self._folder, **other
            )
        if code:
            raise RuntimeError(f"{command[0]} ended with {code}:\n{(self._folder / 'calls').read_text()}")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
