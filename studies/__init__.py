"""Studies: search, stop, resume, look at the front, export.

A `Study` joins the other rooms: it proposes candidates (search), builds them (spaces), evaluates them (evaluators) and
keeps every trial on disk, so that it may be killed at any time and goes on where it stood.

    study = Study.create("runs/a", model=model, task=task, space=space, budget=Budget(macs=0.5))
    study.run(trials=50)
    print(study.front())
    folders = study.export("out", pick="best", finetune_epochs=5)
    net = load(folders[0], model=model)
"""

from .export import load
from .files import FormatError
from .runner import Runner
from .study import Study

__all__ = ["FormatError", "Runner", "Study", "load"]
