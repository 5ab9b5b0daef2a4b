"""Studies: search, stop, resume, look at the front, export.

A `Study` joins the other rooms: it proposes candidates (search), builds them (spaces), evaluates them (evaluators) and
keeps every trial on disk, so that it may be killed at any time and goes on where it stood.

    study = Study.create("runs/a", model=model, task=task, space=space, budget=Budget(macs=0.5))
    study.run(trials=50)
    print(study.front())
    folders = study.export("out", pick="best", finetune_epochs=5)
    net = load(folders[0], model=model)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .disk.files import FormatError
    from .exports.model import load
    from .settings.runner import Runner
    from .settings.search import Search
    from .study import Study

_HOMES = {
    "FormatError": "disk.files",
    "Runner": "settings.runner",
    "Search": "settings.search",
    "Study": "study",
    "load": "exports.model",
}

__all__ = ["FormatError", "Runner", "Search", "Study", "load"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562): who only looks at a study needs no PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
