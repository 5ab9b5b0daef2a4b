"""What to try next, and what is worth keeping.

A sampler is any Optuna sampler, ours and Optuna's alike; `SAMPLERS` names the ones a study file may ask for. Each entry
is a factory `(seed, problem) -> sampler`, because a study makes a new one for every proposal: its state is the told
trials alone. The `Problem` says what our own samplers know beside them: the space, exact costs, the limits.
`non_dominated` and `hypervolume` say which trials form a front and how good it is. Everything is minimised.

    >>> import numpy as np
    >>> from secateur.search import hypervolume, non_dominated
    >>> values = np.array([[0.1, 4.0], [0.2, 2.0], [0.3, 3.0]])
    >>> non_dominated(values).tolist()
    [True, True, False]
    >>> round(hypervolume(values, np.array([1.0, 5.0])), 6)
    2.5
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .compound import compound  # a name that is a module's too would be that one, were it found late

if TYPE_CHECKING:
    from .halving import Halving
    from .joint.joint import JointSampler
    from .pareto import hypervolume, non_dominated
    from .polynomial.polynomial import PolynomialSampler
    from .problem import NOTE, Problem, Told, distributions, note, positions, told
    from .samplers import SAMPLERS, SamplerFactory, sampler_factory
    from .three_dimensions.three_dimensions import ThreeDimensionsSampler

_HOMES = {
    "Halving": "halving",
    "JointSampler": "joint.joint",
    "NOTE": "problem",
    "PolynomialSampler": "polynomial.polynomial",
    "Problem": "problem",
    "SAMPLERS": "samplers",
    "SamplerFactory": "samplers",
    "ThreeDimensionsSampler": "three_dimensions.three_dimensions",
    "Told": "problem",
    "distributions": "problem",
    "hypervolume": "pareto",
    "non_dominated": "pareto",
    "note": "problem",
    "positions": "problem",
    "sampler_factory": "samplers",
    "told": "problem",
}

__all__ = [
    "NOTE",
    "SAMPLERS",
    "Halving",
    "JointSampler",
    "PolynomialSampler",
    "Problem",
    "SamplerFactory",
    "ThreeDimensionsSampler",
    "Told",
    "compound",
    "distributions",
    "hypervolume",
    "non_dominated",
    "note",
    "positions",
    "sampler_factory",
    "told",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562): who only looks at a study needs no PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
