"""The samplers a study file may name."""

from __future__ import annotations

from collections.abc import Callable

from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

SamplerFactory = Callable[[int], BaseSampler]


def _random(seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


def _tpe(seed: int) -> BaseSampler:
    # Multivariate: cheaper a proposal than the univariate default of several objectives, and no worse.
    return TPESampler(seed=seed, multivariate=True)


def _nsga2(seed: int) -> BaseSampler:
    # Optuna's default population of 50 is a whole study here: no second generation would ever be bred.
    return NSGAIISampler(seed=seed, population_size=20)


def _gp(seed: int) -> BaseSampler:
    return GPSampler(seed=seed)


SAMPLERS: dict[str, SamplerFactory] = {"random": _random, "tpe": _tpe, "nsga2": _nsga2, "gp": _gp}


def sampler_factory(sampler: str | SamplerFactory) -> tuple[str, SamplerFactory]:
    """The name by which a study remembers a sampler, and the factory `seed -> sampler` itself.

    Args:
        sampler: a name in `SAMPLERS`, or a factory such as `lambda seed: optuna.samplers.QMCSampler(seed=seed)`.

    Raises:
        ValueError: a name that is not in `SAMPLERS`.
        TypeError: neither a name nor a factory; a sampler itself is refused, because a study makes many.
    """
    if isinstance(sampler, str):
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler {sampler!r} is not known; expected one of {', '.join(SAMPLERS)}, or a factory")
        return sampler, SAMPLERS[sampler]
    if isinstance(sampler, BaseSampler) or not callable(sampler):
        raise TypeError(
            f"sampler {sampler!r}: expected a name ({', '.join(SAMPLERS)}) or a factory `seed -> sampler`, "
            "because a study makes a new sampler for every proposal"
        )
    name = getattr(sampler, "__qualname__", type(sampler).__qualname__)
    return f"{getattr(sampler, '__module__', type(sampler).__module__)}.{name}", sampler
