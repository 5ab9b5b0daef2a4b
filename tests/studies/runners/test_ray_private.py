"""A Ray that a search starts for itself is nobody else's, and is gone with it."""

import os
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("ray")

SCRIPT = """
import json, sys, time
from secateur.studies.runners.ray.cluster import Cluster

cluster = Cluster(None, objects=2**27)
print(cluster._scratch.path, flush=True)
if sys.stdin.readline().strip() == "wait":
    time.sleep(300)
cluster.close()
try:
    Cluster("127.0.0.1:1", objects=2**27)
except ValueError as error:
    print(error)
"""
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}  # as Linux writes 127.0.0.1


def started(tmp_path):
    """A process with a Ray of its own, and the folder of that."""
    own = os.environ | {"HOME": str(tmp_path)}
    for name in ("RAY_AUTH_MODE", "RAY_TMPDIR"):
        own.pop(name, None)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-P", "-c", SCRIPT], env=own, **pipes)
    return process, Path(process.stdout.readline().strip())


def children(process):
    """The processes that a process started, and those that these started."""
    parents = {}
    for stat_file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            parents[int(stat_file.parent.name)] = int(stat_file.read_text().rpartition(")")[2].split()[1])
    found = {process.pid}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {process.pid}


def listening(pids):
    """The addresses that processes listen at, in hexadecimal."""
    sockets = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):
                sockets.add(os.readlink(link))
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


def still(pids, within_s):
    """Which processes are there so many seconds later; at once where none is."""
    late = time.monotonic() + within_s
    while (left := {pid for pid in pids if Path(f"/proc/{pid}").exists()}) and time.monotonic() < late:
        time.sleep(0.5)
    return left


def test_its_ports_and_files_are_of_this_user_only(tmp_path):
    process, folder = started(tmp_path)
    found = listening(children(process))
    rest = process.communicate("go on", timeout=60)[0]
    assert found and found <= LOOPBACK
    token = tmp_path / ".ray" / "auth_token"
    assert not token.exists() or stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700, "a search that is killed leaves the token readable"
    assert not folder.exists()
    assert "search there in another process" in rest and process.returncode == 0


@pytest.mark.slow
def test_a_driver_that_is_killed_leaves_no_process_and_no_folder(tmp_path):
    process, folder = started(tmp_path)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    left = children(process)
    assert left
    process.kill()
    process.communicate()
    assert not still(left, within_s=30)  # two of Ray's own would wait a minute for an answer of the head that is gone
    assert not folder.exists()
