"""What to try next, and what is worth keeping.

A sampler is any Optuna sampler, ours and Optuna's alike; `SAMPLERS` names the ones a study file may ask for. Each entry
is a factory `(seed, problem) -> sampler`, because a study makes a new one for every proposal: its state is the told
trials alone. The `Problem` says what our own samplers know in addition: the space, exact costs, the limits.
`non_dominated` and `hypervolume` say which trials form a front and how good it is. Everything is minimised.

    >>> import numpy as np
    >>> from secateur.search import hypervolume, non_dominated
    >>> values = np.array([[0.1, 4.0], [0.2, 2.0], [0.3, 3.0]])
    >>> non_dominated(values).tolist()
    [True, True, False]
    >>> round(hypervolume(values, np.array([1.0, 5.0])), 6)
    2.5

Start reading at `problem.py`; each paper's sampler has a folder of its own.
"""

from typing import TYPE_CHECKING

from ..lazy import face

if TYPE_CHECKING:
    from .halving import Halving
    from .joint.joint import JointSampler
    from .pareto import hypervolume, non_dominated
    from .polynomial.models import expected_errors
    from .polynomial.polynomial import PolynomialSampler
    from .problem import NOTE, Foretold, Problem, Told, distributions, note, positions, told
    from .samplers import SAMPLERS, SamplerFactory, check_sampler, sampler_factory
    from .scaling import compound
    from .three_dimensions.three_dimensions import ThreeDimensionsSampler
else:
    __getattr__, __dir__ = face(__name__)

__all__ = [
    "NOTE",
    "SAMPLERS",
    "Foretold",
    "Halving",
    "JointSampler",
    "PolynomialSampler",
    "Problem",
    "SamplerFactory",
    "ThreeDimensionsSampler",
    "Told",
    "check_sampler",
    "compound",
    "distributions",
    "expected_errors",
    "hypervolume",
    "non_dominated",
    "note",
    "positions",
    "sampler_factory",
    "told",
]
