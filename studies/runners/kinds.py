"""The executor of each kind of runner."""

from __future__ import annotations

from importlib import import_module

from ..settings.runner import Runner, runner_of
from .executor import Executor

EXECUTORS = {
    "serial": ("serial", "SerialExecutor"),
    "processes": ("processes", "ProcessExecutor"),
    "ray": ("ray.actors", "RayExecutor"),
    "tune": ("ray.tune", "TuneExecutor"),
}  # by the kind: its module, which is imported when it is needed, and its name there


def executor(runner: str | Runner | Executor) -> Executor:
    """An executor for a runner, not yet open.

    Raises:
        ValueError: a kind that is not known.
        TypeError: what is given is no runner.
    """
    if isinstance(runner, Executor):
        return runner
    runner = runner_of(runner) if isinstance(runner, str) else runner
    if not isinstance(runner, Runner) or type(runner) is Runner:
        raise TypeError(
            f"runner is a {type(runner).__name__}; expected one of {', '.join(map(repr, EXECUTORS))}, or one with "
            "settings, such as Processes(workers=4)"
        )
    module, name = EXECUTORS[runner.kind]
    found: Executor = getattr(import_module(f".{module}", __package__), name)(runner)
    return found
