"""What to try next, and what is worth keeping.

A sampler is any Optuna sampler, ours and Optuna's alike; `SAMPLERS` names the ones a study file may ask for. Each entry
is a factory `seed -> sampler`, because a study makes a new one for every proposal: its state is the told trials alone.
`non_dominated` and `hypervolume` say which trials form a front and how good it is. Everything is minimised.

    >>> import numpy as np
    >>> from secateur.search import SAMPLERS, hypervolume, non_dominated
    >>> sampler = SAMPLERS["tpe"](0)
    >>> values = np.array([[0.1, 4.0], [0.2, 2.0], [0.3, 3.0]])
    >>> non_dominated(values).tolist()
    [True, True, False]
    >>> round(hypervolume(values, np.array([1.0, 5.0])), 6)
    2.5
"""

from .pareto import hypervolume, non_dominated
from .samplers import SAMPLERS, SamplerFactory, sampler_factory

__all__ = ["SAMPLERS", "SamplerFactory", "hypervolume", "non_dominated", "sampler_factory"]
