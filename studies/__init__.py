"""Studies: search, stop, resume, look at the front, export.

A `Study` joins the other rooms: it proposes candidates (search), builds them (spaces), evaluates them (evaluators) and
keeps every trial on disk, so that it may be killed at any time and goes on where it stood.

    study = Study.create("runs/a", model=model, task=task, space=space, budget=Budget(macs=0.5))
    study.run(trials=50)
    print(study.front())
    folders = study.export("out", pick="best", finetune_epochs=5)
    net = load(folders[0], model=model)

Start reading at `study.py`: `Study.run` is the whole loop.
"""

from typing import TYPE_CHECKING

from ..lazy import face

if TYPE_CHECKING:
    from .disk.files import FormatError
    from .exports.model import load, save
    from .look import Look
    from .settings.runner import Processes, Ray, Runner, Serial, Tune
    from .settings.search import Search
    from .study import Study
    from .views.status import Status
    from .views.trackers import Tracker, Trackers
else:
    __getattr__, __dir__ = face(__name__)

__all__ = [
    "FormatError",
    "Look",
    "Processes",
    "Ray",
    "Runner",
    "Search",
    "Serial",
    "Status",
    "Study",
    "Tracker",
    "Trackers",
    "Tune",
    "load",
    "save",
]
