"""Every criterion and every method by its name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .criteria.anpyc import anpyc
from .criteria.criteria import Criterion, l1, l2, shuffled
from .criteria.features import hrank
from .criteria.gradients import grasp, obd, snip, taylor
from .criteria.norms import bn_scale, fpgm
from .criteria.synflow import synflow
from .one_shot.epruner import EPruner
from .one_shot.functionality import Functionality
from .one_shot.ranp import Ranp
from .one_shot.scored import Even, Scored
from .proposal import Method
from .resrep.resrep import ResRep
from .training.aofp import Aofp
from .training.granet import Granet
from .training.orthoreg import OrthoReg

CRITERIA: dict[str, Criterion] = {
    one.name: one for one in (l1, l2, bn_scale, fpgm, taylor, snip, grasp, synflow, obd, hrank, anpyc, shuffled(0))
}
"""Every criterion by its name."""

METHODS: dict[str, Callable[..., Method]] = {
    **{name: partial(Scored, criterion=one) for name, one in CRITERIA.items()},
    "fpgm": partial(Scored, criterion=fpgm, allocation="even"),  # as in the paper: distances of layers do not compare
    "hrank": partial(Scored, criterion=hrank, allocation="even"),  # nor do ranks
    "uniform": partial(Even, name="uniform"),
    "layer-wise": partial(Even, name="layer-wise"),
    "ranp": partial(Ranp, name="ranp"),
    "ranp-w": partial(Ranp, name="ranp-w", balance=True),
    "ranp-f": partial(Ranp, name="ranp-f", balance=True, resource="flops"),
    "ranp-m": partial(Ranp, name="ranp-m", balance=True, resource="memory"),
    "ranp-p": partial(Ranp, name="ranp-p", balance=True, resource="params"),
    "epruner": EPruner,
    "functionality": Functionality,
    "resrep": ResRep,
    "aofp": Aofp,
    "granet": Granet,
    "orthoreg": OrthoReg,
}
"""What makes every method, by its name; settings are arguments."""
