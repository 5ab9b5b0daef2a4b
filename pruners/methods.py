"""Every criterion and every method by its name; each is imported when it is looked up.

Installed packages add methods as entry points of the group `secateur.pruners`: a class or function whose call without
arguments gives a method of that name, or a `Criterion`, which becomes one as ours do.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..lazy import Late, Registry
from .criteria.criteria import Criterion
from .proposal import Method, check_method

GROUP = "secateur.pruners"


def _late(module: str, attribute: str, /, **settings: Any) -> Late[Any]:
    return Late(f"{__package__}.{module}", attribute, settings)


CRITERIA: Registry[Criterion] = Registry(
    "criterion",
    {
        "l1": _late("criteria.criteria", "l1"),
        "l2": _late("criteria.criteria", "l2"),
        "bn-scale": _late("criteria.norms", "bn_scale"),
        "fpgm": _late("criteria.norms", "fpgm"),
        "taylor": _late("criteria.gradients", "taylor"),
        "snip": _late("criteria.gradients", "snip"),
        "grasp": _late("criteria.gradients", "grasp"),
        "synflow": _late("criteria.synflow", "synflow"),
        "obd": _late("criteria.gradients", "obd"),
        "hrank": _late("criteria.features", "hrank"),
        "chip": _late("criteria.features", "chip"),
        "wanda": _late("criteria.activations", "wanda"),
        "flap": _late("criteria.activations", "flap"),
        "thinet": _late("least_squares.thinet", "thinet"),
        "anpyc": _late("criteria.gradients", "anpyc"),
        "random": _late("criteria.criteria", "unseeded"),
    },
)
"""Every criterion by its name."""


def _scored(criterion: str, **settings: Any) -> Method:
    return _threshold(CRITERIA[criterion], **settings)


def _threshold(criterion: Criterion, **settings: Any) -> Method:
    from .one_shot.scored import Scored

    return Scored(criterion=criterion, **settings)


def _method(name: str, piece: Any) -> Callable[..., Method]:
    """What makes the method of an entry point.

    Raises:
        TypeError: it makes none, or one of another name.
    """
    make: Callable[..., Method] = partial(_threshold, piece) if isinstance(piece, Criterion) else piece
    if not callable(make):
        raise TypeError(f"{piece!r} cannot be called; expected a class or function that makes a pruning method")
    found = check_method(make()).name
    if found != name:
        raise TypeError(f"it makes the method {found!r}; expected {name!r}, the name of the entry point")
    return make


METHODS: Registry[Callable[..., Method]] = Registry(
    "method",
    {
        **{name: partial(_scored, name) for name in CRITERIA},
        "fpgm": partial(_scored, "fpgm", allocation="even"),  # as in the paper: distances of layers do not compare
        "hrank": partial(_scored, "hrank", allocation="even"),  # nor do ranks
        "chip": partial(_scored, "chip", allocation="even"),
        "synflow": _late("one_shot.scored", "SynFlow"),
        "lamp": _late("one_shot.scored", "Lamp"),
        "wanda": partial(_scored, "wanda", allocation="even"),
        "flap": partial(_scored, "flap", normalise="standard"),
        "thinet": partial(_scored, "thinet", allocation="even"),
        "osscar": _late("least_squares.osscar", "Osscar"),
        "merge": _late("least_squares.merging", "Merge"),
        "uniform": _late("one_shot.scored", "Even", name="uniform"),
        "layer-wise": _late("one_shot.scored", "Even", name="layer-wise"),
        "ranp": _late("one_shot.ranp", "Ranp", name="ranp"),
        "ranp-w": _late("one_shot.ranp", "Ranp", name="ranp-w", balance=True),
        "ranp-f": _late("one_shot.ranp", "Ranp", name="ranp-f", balance=True, resource="flops"),
        "ranp-m": _late("one_shot.ranp", "Ranp", name="ranp-m", balance=True, resource="memory"),
        "ranp-p": _late("one_shot.ranp", "Ranp", name="ranp-p", balance=True, resource="params"),
        "epruner": _late("one_shot.epruner", "EPruner"),
        "functionality": _late("one_shot.functionality", "Functionality"),
        "resrep": _late("resrep.resrep", "ResRep"),
        "aofp": _late("training.aofp", "Aofp"),
        "group-lasso": _late("training.lasso", "Lasso", name="group-lasso"),
        "partial": _late("training.lasso", "Lasso", name="partial"),
        "granet": _late("training.granet", "Granet"),
        "orthoreg": _late("training.orthoreg", "OrthoReg"),
        "manidp": _late("dynamic.manidp", "ManiDP"),
        "mlpruning": _late("training.mlpruning", "MLPruning"),
    },
    GROUP,
    _method,
)
"""What makes every method, by its name; settings are arguments."""
