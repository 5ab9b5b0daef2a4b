"""The samplers a study file may name: ours, and what installed packages add as entry points of `secateur.samplers`."""

from __future__ import annotations

import inspect
import warnings
from typing import Any, Protocol, cast

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler

from ..lazy import Registry
from .problem import Problem

GROUP = "secateur.samplers"


class SamplerFactory(Protocol):
    """What a study calls for every proposal: `(seed, problem)` to a new Optuna sampler."""

    def __call__(self, seed: int, problem: Problem, /) -> BaseSampler:
        """A sampler that knows nothing but what its study tells."""


_SECONDS_AN_AXIS, _SECONDS_A_TRIAL = 0.003, 0.0004  # of a polynomial proposal: 0.14 s at 41 axes and 60 trials told
_MANY = 1000  # trials; TPE takes 0.04 to 0.2 s a proposal at twice as many


def choose(axes: int, trials: int, seconds: float) -> str:
    """The name of the sampler for a search.

    Args:
        axes: of the space.
        trials: there will be in all.
        seconds: that a trial takes; infinite where unknown.

    >>> choose(axes=40, trials=100, seconds=30.0), choose(axes=40, trials=100, seconds=0.01)
    ('polynomial', 'tpe')
    >>> choose(axes=40, trials=5000, seconds=0.01)
    'nsga2'
    """
    if seconds >= _SECONDS_AN_AXIS * axes + _SECONDS_A_TRIAL * trials:
        return "polynomial"
    return "tpe" if trials < _MANY else "nsga2"


def chosen(seed: int, problem: Problem) -> BaseSampler:
    """The sampler that `choose` names for a problem: `"auto"`.

    The polynomial sampler needs the fewest evaluations (docs/search.md), and its proposals cost time: where that is
    more than a trial takes, TPE proposes instead, and NSGA-II where there are so many trials that TPE's own history
    slows it.
    """
    name = choose(len(problem.space.axes), problem.trials, problem.seconds())
    if name == "polynomial":
        from .polynomial.polynomial import PolynomialSampler

        return PolynomialSampler(seed=seed, problem=problem)
    return multivariate_tpe(seed) if name == "tpe" else small_nsga2(seed)


def multivariate_tpe(seed: int) -> BaseSampler:
    """TPE over all axes at once: cheaper a proposal than the univariate default of several objectives, and no worse."""
    return TPESampler(seed=seed, multivariate=True)


def small_nsga2(seed: int) -> BaseSampler:
    """NSGA-II in generations of 20: Optuna's 50 are a whole study here, so there would never be a second one."""
    return NSGAIISampler(seed=seed, population_size=20)


def _random(seed: int, problem: Problem) -> BaseSampler:
    return RandomSampler(seed=seed)


def _qmc(seed: int, problem: Problem) -> BaseSampler:
    from .quasi import QuasiRandomSampler

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
    from .three_dimensions.three_dimensions import ThreeDimensionsSampler

    return ThreeDimensionsSampler(problem=problem)


def _joint(seed: int, problem: Problem) -> BaseSampler:
    from .joint.joint import JointSampler

    return JointSampler(seed=seed, problem=problem, rounds=True)


def _polynomial(seed: int, problem: Problem) -> BaseSampler:
    from .polynomial.polynomial import PolynomialSampler

    return PolynomialSampler(seed=seed, problem=problem)


SAMPLERS: Registry[SamplerFactory] = Registry(
    "sampler",
    {
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
    },
    GROUP,
    lambda name, piece: check_factory(piece),
)
"""Every sampler that a study file may name."""


def sampler_factory(sampler: str | SamplerFactory) -> tuple[str, SamplerFactory]:
    """The name by which a study remembers a sampler, and the factory `(seed, problem) -> sampler` itself.

    Args:
        sampler: a name in `SAMPLERS`, or a factory such as `lambda seed, problem: CmaEsSampler(seed=seed)`.

    Raises:
        ValueError: a name that is not in `SAMPLERS`.
        TypeError: neither a name nor a factory; a sampler itself is refused, because a study makes many.
        ImportError: the package that adds this name gives no sampler.
    """
    if isinstance(sampler, str):
        return sampler, SAMPLERS.named(sampler)
    factory = check_factory(sampler)
    name = getattr(sampler, "__qualname__", type(sampler).__qualname__)
    return f"{getattr(sampler, '__module__', type(sampler).__module__)}.{name}", factory


def check_factory(factory: Any) -> SamplerFactory:
    """The factory, if it can be called with a seed and a problem.

    Raises:
        TypeError: it cannot.
    """
    wanted = f"a name ({', '.join(SAMPLERS)}) or a factory such as `lambda seed, problem: TPESampler(seed=seed)`"
    if isinstance(factory, BaseSampler) or not callable(factory):
        raise TypeError(f"sampler {factory!r}: expected {wanted}, because a study makes a new one for every proposal")
    try:
        inspect.signature(factory).bind(0, None)
    except TypeError as error:
        raise TypeError(f"sampler {factory!r} does not take a seed and a problem, {error}; expected {wanted}") from None
    except ValueError:  # some functions of other languages do not say what they take
        pass
    return cast(SamplerFactory, factory)


def check_sampler(sampler: Any) -> BaseSampler:
    """What a factory made, if it is a sampler.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(sampler, BaseSampler):
        raise TypeError(f"the sampler's factory gave {sampler!r}; expected an `optuna.samplers.BaseSampler`")
    return sampler
