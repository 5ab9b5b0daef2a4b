"""The samplers a study file may name, and the rule of `"auto"`."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    RandomSampler,
)

from .auto import chosen, multivariate_tpe, small_nsga2
from .joint.joint import JointSampler
from .polynomial.polynomial import PolynomialSampler
from .problem import Problem
from .quasi import QuasiRandomSampler
from .three_dimensions.three_dimensions import ThreeDimensionsSampler

SamplerFactory = Callable[[int, Problem], BaseSampler]
"""What a study calls for every proposal: `(seed, problem)` to a fresh Optuna sampler."""


def _random(seed: int, problem: Problem) -> BaseSampler:
    return RandomSampler(seed=seed)


def _qmc(seed: int, problem: Problem) -> BaseSampler:
    return QuasiRandomSampler(problem=problem)


def _tpe(seed: int, problem: Problem) -> BaseSampler:
    return multivariate_tpe(seed)


def _nsga2(seed: int, problem: Problem) -> BaseSampler:
    return small_nsga2(seed)


def _nsga3(seed: int, problem: Problem) -> BaseSampler:
    with warnings.catch_warnings():  # experimental since 2023, says Optuna 5.0 at every one that is made
        warnings.simplefilter("ignore", ExperimentalWarning)
        return NSGAIIISampler(seed=seed, population_size=20)


def _gp(seed: int, problem: Problem) -> BaseSampler:
    return GPSampler(seed=seed)


def _three_dimensions(seed: int, problem: Problem) -> BaseSampler:
    return ThreeDimensionsSampler(problem=problem)


def _joint(seed: int, problem: Problem) -> BaseSampler:
    return JointSampler(seed=seed, problem=problem, rounds=True)


def _polynomial(seed: int, problem: Problem) -> BaseSampler:
    return PolynomialSampler(seed=seed, problem=problem)


SAMPLERS: dict[str, SamplerFactory] = {
    "auto": chosen,
    "random": _random,
    "qmc": _qmc,
    "tpe": _tpe,
    "nsga2": _nsga2,
    "nsga3": _nsga3,
    "gp": _gp,
    "polynomial": _polynomial,
    "three-dimensions": _three_dimensions,
    "joint": _joint,
}
"""Every sampler that a study file may name."""


def sampler_factory(sampler: str | SamplerFactory) -> tuple[str, SamplerFactory]:
    """The name by which a study remembers a sampler, and the factory `(seed, problem) -> sampler` itself.

    Args:
        sampler: a name in `SAMPLERS`, or a factory such as `lambda seed, problem: CmaEsSampler(seed=seed)`.

    Raises:
        ValueError: a name that is not in `SAMPLERS`.
        TypeError: neither a name nor a factory; a sampler itself is refused, because a study makes many.
    """
    if isinstance(sampler, str):
        if sampler not in SAMPLERS:
            near = difflib.get_close_matches(sampler, SAMPLERS, 1)
            hint = f"did you mean {near[0]!r}? Else" if near else "expected"
            raise ValueError(f"sampler {sampler!r} is not known; {hint} one of {', '.join(SAMPLERS)}, or a factory")
        return sampler, SAMPLERS[sampler]
    if isinstance(sampler, BaseSampler) or not callable(sampler):
        raise TypeError(
            f"sampler {sampler!r}: expected a name ({', '.join(SAMPLERS)}) or a factory `(seed, problem) -> sampler`, "
            "because a study makes a new sampler for every proposal"
        )
    name = getattr(sampler, "__qualname__", type(sampler).__qualname__)
    return f"{getattr(sampler, '__module__', type(sampler).__module__)}.{name}", sampler
