"""Where a candidate's costs are: the monomials of `model.py`, each with the module that it comes from.

Symbols: `k` monomials.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

Array = npt.NDArray[np.float64]

INPUT = "(input)"
"""What the network is given, among the modules: a name that no module can have."""
SUMS = ("macs", "params", "param_bytes", "activation_bytes")


@dataclass(frozen=True)
class Part:
    """A monomial of a cost, and where it comes from.

    Attributes:
        cost: one of `SUMS`, or `"alive"` for bytes of a value that is alive from one moment to another.
        module: path of the innermost module that calls the operator or owns the parameter; `""` is the network itself.
        monomial: its number.
        factors: at each side.
        start: the first moment, of bytes alive.
        end: the last one, included.
    """

    cost: str
    module: str
    monomial: int
    factors: tuple[float, ...]
    start: int = 0
    end: int = 0


def breakdown(
    parts: Sequence[Part],
    modules: Sequence[str],
    monomials: Array,
    side: int,
    uncounted: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    """A row a module in the order of `modules`, with the costs of `Space.breakdown`.

    Args:
        parts: of all costs.
        modules: every module that a part names, in the order of the forward.
        monomials: `(k,)` values for one candidate.
        side: index of the side.
        uncounted: operators of a module that are in no sum.
    """
    rows = {module: dict.fromkeys((*SUMS, "peak_bytes"), 0.0) for module in modules}
    alive = [part for part in parts if part.cost == "alive"]
    moment = _fullest(alive, monomials, side)
    for part in parts:
        found = part.factors[side] * float(monomials[part.monomial])
        if part.cost != "alive":
            rows[part.module][part.cost] += found
        if part.cost == "param_bytes" or (part.cost == "alive" and part.start <= moment <= part.end):
            rows[part.module]["peak_bytes"] += found
    table = pd.DataFrame.from_dict(rows, orient="index", columns=[*SUMS, "peak_bytes"])
    table = table.rename_axis("module").round().astype(np.int64).reset_index()
    if uncounted:
        table["uncounted"] = [", ".join(uncounted.get(module, ())) for module in table["module"]]
    return table


def ordered(called: Iterable[str], parts: Iterable[Part]) -> tuple[str, ...]:
    """The modules that parts name: the input, those that call operators in that order, and the rest."""
    named = dict.fromkeys(part.module for part in parts)
    order = dict.fromkeys([INPUT, *called])
    return (*(module for module in order if module in named), *(module for module in named if module not in order))


def home(path: str, called: set[str]) -> str:
    """The innermost module around a parameter that calls an operator, else the one that owns it.

    >>> home("conv.parametrizations.weight.original0", {"conv", ""}), home("bare.weight", {""})
    ('conv', 'bare')
    """
    owner = path.rpartition(".")[0]
    around = owner
    while around and around not in called:
        around = around.rpartition(".")[0]
    return around or owner


def _fullest(alive: Sequence[Part], monomials: Array, side: int) -> int:
    """The first moment at which most bytes are alive."""
    changes = np.zeros(max((part.end for part in alive), default=0) + 2)
    for part in alive:
        found = part.factors[side] * monomials[part.monomial]
        changes[part.start] += found
        changes[part.end + 1] -= found
    return int(changes.cumsum().argmax())
