"""The kinds of runners by name: the executor of each, and what this machine can do."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

from ..settings.runner import Runner
from .executor import Executor


def check(runner: Runner, *, threads: int, device: str) -> None:
    """Refuse what this machine can't do, before anything is made; a Ray cluster is asked when it is opened.

    Raises:
        ValueError: it has no GPU, or not so many.
        ImportError: Ray is not installed.
    """
    if runner.kind == "serial":
        from ..settings.determinism import present

        present(device)
    elif runner.kind == "processes":
        from .processes import room

        room(runner, threads=threads, cuda=device.startswith("cuda"))
    elif runner.kind in ("ray", "tune") and importlib.util.find_spec("ray") is None:
        raise ImportError("Ray is not installed: pip install 'secateur[ray]'")


def executor(runner: Runner) -> Executor:
    """An executor of the runner's kind, not yet open."""
    if runner.kind == "serial":
        from .serial import Serial

        return Serial(runner)
    if runner.kind == "processes":
        from .processes import Processes

        return Processes(runner)
    if runner.kind == "ray":
        from .ray.actors import Actors

        return Actors(runner)
    from .ray.tune import Tune

    return Tune(runner, folder=runner.folder, scheduler=runner.scheduler)
