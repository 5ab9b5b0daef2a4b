"""Secateur: the best smaller networks inside a trained CNN, under hard budgets.

Trace a network once, search its widths, depth and input resolution together, and export the front as real models.
The names below load lazily, so that `secateur --help` imports nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.evaluators import Classification, Latency, Segmentation, Task, Training
    from secateur.spaces import Axis, Budget, Candidate, Scores, Space, build, channel_map, verify
    from secateur.studies import Runner, Search, Study, load
    from secateur.studies.study_files import data, networks

__version__ = "0.1.0"

_HOMES = {
    "Axis": "spaces",
    "Budget": "spaces",
    "Candidate": "spaces",
    "Classification": "evaluators",
    "Latency": "evaluators",
    "Runner": "studies",
    "Scores": "spaces",
    "Search": "studies",
    "Segmentation": "evaluators",
    "Space": "spaces",
    "Study": "studies",
    "Task": "evaluators",
    "Training": "evaluators",
    "build": "spaces",
    "channel_map": "spaces",
    "data": "studies.study_files.data",
    "load": "studies",
    "networks": "studies.study_files.networks",
    "verify": "spaces",
}

__all__ = [
    "Axis",
    "Budget",
    "Candidate",
    "Classification",
    "Latency",
    "Runner",
    "Scores",
    "Search",
    "Segmentation",
    "Space",
    "Study",
    "Task",
    "Training",
    "build",
    "channel_map",
    "data",
    "load",
    "networks",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'secateur' has no attribute {name!r}")
    home = import_module(f"secateur.{_HOMES[name]}")
    return home if _HOMES[name].endswith(f".{name}") else getattr(home, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
