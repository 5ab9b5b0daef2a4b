"""A connection to Ray, and how workers are placed on a cluster."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch

from ...disk.process_state import environment
from ...disk.scratch import Scratch
from ...outcomes.work import Work
from ...settings.runner import OnCluster
from ..executor import cores
from .watch import dismiss, watched

logger = logging.getLogger("secateur")


_CONNECT_S = 5.0  # how long a head node may take to answer at all; Ray itself tries for minutes


_OBJECTS = 2**28  # bytes of a local cluster's object store, beside the work itself

# What Ray itself prints of the workers and nodes of a run, also where no worker's output is wanted: the study says it.
_SKIP = "RAY_DEDUP_LOGS_SKIP_REGEX"
_UNSAID = (
    r"A worker died or was killed|Workers \(tasks / actors\) killed|cannot be scheduled right now|has been marked dead"
)
# Whether Ray gives its processes the machine's address (on Linux, unless this is 0) or the loopback's; it is read when
# Ray is imported first.
_SEEN = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_ON_LOOPBACK: set[int] = set()  # this process, once Ray was imported so
# Characters of the folder of temporary files, so that the paths of Ray's sockets are as short as a kernel asks.
_LONGEST = 14
_TOKEN = Path(".ray") / "auth_token"  # in the home folder


@final
class Cluster:
    """A connection to Ray; what was started for it ends when it is closed, and what was found stays.

    A cluster that is started here is this user's alone: its files are in a folder that nobody else reads, and that goes
    with it; its ports are on the loopback, unless Ray was imported before.

    Args:
        address: of a running cluster; one that is initialised already, or else a new one on this machine, when None.
        objects: bytes of a new cluster's object store.

    Attributes:
        ray: the module.
        own: whether the cluster was started here, for this.

    Raises:
        ValueError: Ray is not installed, or the cluster can't be used.
    """

    def __init__(self, address: str | None, *, objects: int) -> None:
        self.ray = imported("ray", alone=address is None)
        self._found = bool(self.ray.is_initialized())
        self.own = not self._found and address is None
        self._scratch: Scratch | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        if self._found:
            return
        if address is not None and os.getpid() in _ON_LOOPBACK:
            raise ValueError(
                f"address={address!r} after a search on a Ray of this process's own, which knows the loopback only; "
                "search there in another process"
            )
        self._environment = dict(os.environ)
        self._on_terminate = signal.getsignal(signal.SIGTERM)
        try:
            quiet = {"include_dashboard": False} if self.own else {}
            size = {"num_cpus": cores(), "object_store_memory": objects} if self.own else {}
            if address is not None:
                _ping(address)
            with self._private():
                self.ray.init(
                    address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **quiet, **size
                )
        except Exception as error:  # Ray raises RuntimeError, ConnectionError, ValueError, and its own
            self.close()
            said = " ".join(str(error).split())
            what = "a local Ray cluster can't be started" if self.own else f"Ray cluster address={address!r}"
            raise ValueError(f"{what}: {said}") from error
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def _private(self) -> Iterator[None]:
        """What is started within the block keeps its files to itself."""
        if not self.own:
            yield
            return
        usual = Path(tempfile.gettempdir())
        self._scratch = Scratch(usual if len(str(usual)) <= _LONGEST else Path("/tmp"))
        self._watcher = watched(self._scratch.path)
        token = Path.home() / _TOKEN
        there = token.exists()
        # Ray makes the token for everybody to read; nobody else gets at it before it is this user's alone.
        with contextlib.suppress(OSError):
            token.parent.mkdir(mode=0o700)
        with environment({"RAY_TMPDIR": str(self._scratch.path)}, quiet="ray"):
            yield
        if not there and token.exists():
            token.chmod(0o600)

    def nodes(self) -> list[dict[str, float]]:
        """What each node has, by name."""
        return [dict(node["Resources"]) for node in self.ray.nodes() if node["Alive"]]

    def free(self) -> dict[str, float]:
        """What is free now, by name."""
        return dict(self.ray.available_resources())

    def plan(self, runner: OnCluster, work: Work) -> tuple[dict[str, float], int]:
        """What each worker asks for, and how many there are; see `plan`."""
        return plan(
            runner,
            threads=work.threads,
            cuda=torch.device(work.device).type == "cuda",
            nodes=self.nodes(),
            free=None if self.own else self.free(),
            own=self.own,
        )

    def close(self) -> None:
        """Disconnect, and end what was started."""
        if self._found:
            return
        with contextlib.suppress(Exception):  # a cluster that is gone
            self.ray.shutdown()
        if self._watcher is not None:
            dismiss(self._watcher)
            self._watcher = None
        if self._scratch is not None:
            self._scratch.remove()
        self._put_back()

    def _put_back(self) -> None:
        """Ray leaves a signal handler and environment variables behind."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_terminate)
        for name in ("RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED", "PYTHONBREAKPOINT"):
            if name not in self._environment:
                os.environ.pop(name, None)


def imported(module: str, *, alone: bool) -> Any:
    """A module of Ray's.

    Args:
        module: its name.
        alone: whether Ray is wanted for a cluster of this process's own.

    Raises:
        ValueError: it can't be imported.
    """
    try:
        # Ray reads these when it is first imported.
        said = {_SKIP: os.environ.get(_SKIP, _UNSAID)}
        if alone and _SEEN not in os.environ and "ray" not in sys.modules:
            said[_SEEN] = "0"
            _ON_LOOPBACK.add(os.getpid())
        with environment(said, quiet="ray"):
            return importlib.import_module(module)
    except ImportError as error:
        what = f"{module} can't be imported ({error})"
        raise ValueError(f"{what}; install it with: pip install 'secateur[ray]'") from None


def check_installed() -> None:
    """Refuse to go on without Ray.

    Raises:
        ImportError: it is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise ImportError("Ray is not installed: pip install 'secateur[ray]'")


def plan(
    runner: OnCluster,
    *,
    threads: int,
    cuda: bool,
    nodes: Sequence[Mapping[str, float]],
    free: Mapping[str, float] | None = None,
    own: bool = False,
) -> tuple[dict[str, float], int]:
    """What each worker asks for, and how many workers there are.

    A worker is on one node. It takes the cores asked for; else those of its threads, or one core beside a GPU.

    Args:
        runner: what is asked.
        threads: of a trial.
        cuda: whether the study runs on CUDA.
        nodes: what each node has, by name.
        free: what is free; None where that is all.
        own: whether the cluster is this run's alone: a number of workers that was asked for shares the cores then.

    Raises:
        ValueError: more is asked than there is.

    >>> from secateur import Ray
    >>> plan(Ray(gpus_per_trial=0.5), threads=8, cuda=True, nodes=[{"CPU": 8, "GPU": 2}])
    ({'CPU': 1.0, 'GPU': 0.5}, 4)
    """
    gpus = float(cuda) if runner.gpus_per_trial is None else runner.gpus_per_trial
    if cuda and not gpus:
        raise ValueError("gpus_per_trial=0 on CUDA: Ray shows such workers no GPU; give them a share such as 0.1")
    cpus = float(runner.cpus_per_trial or (1 if gpus else threads))
    if own and runner.workers and not runner.cpus_per_trial:
        cpus = min(cpus, int(1e4 * sum(node.get("CPU", 0) for node in nodes) / runner.workers) / 1e4)
    asked = {"CPU": cpus, "GPU": float(gpus), **runner.resources}
    request = {name: amount for name, amount in asked.items() if amount}
    room = sum(_fits(node, request) for node in nodes)
    if room < (runner.workers or 1):
        each = ", ".join(f"{name}={amount:g}" for name, amount in request.items())
        raise ValueError(
            f"workers={runner.workers or 1} of {each} ask for more than the Ray cluster has: "
            f"{_inventory(nodes, request)}, room for {room}; lower workers, cpus_per_trial, gpus_per_trial or "
            "resources, or add nodes first"
        )
    if runner.workers is not None:
        return request, runner.workers
    return request, room if free is None else max(1, min(room, _fits(free, request)))


def _fits(node: Mapping[str, float], request: Mapping[str, float]) -> int:
    """How many times the request fits; no share of a GPU spans two."""
    found = []
    for name, amount in request.items():
        there = node.get(name, 0.0)
        if name == "GPU" and amount < 1:
            found.append(int(there + 1e-6) * int(1 / amount + 1e-6))
        else:
            found.append(int(there / amount + 1e-6))
    return min(found)


def _inventory(nodes: Sequence[Mapping[str, float]], request: Mapping[str, float]) -> str:
    kinds: dict[str, int] = {}
    for node in nodes:
        text = ", ".join(f"{name}={node.get(name, 0):g}" for name in dict.fromkeys(("CPU", "GPU", *request)))
        kinds[text] = kinds.get(text, 0) + 1
    return "; ".join(
        f"{count} {'node' if count == 1 else 'nodes'} with {text}"
        for text, count in sorted(kinds.items(), reverse=True)
    )


def _ping(address: str) -> None:
    """Refuse a head node that does not answer, before Ray waits for it."""
    host, colon, port = address.removeprefix("ray://").partition("/")[0].rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise ValueError(f"nothing answers there ({error}); is it the address that `ray start --head` said?") from None
