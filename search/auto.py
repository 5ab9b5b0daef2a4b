"""`sampler = "auto"`: which sampler suits a search, by a rule that fits in a sentence.

The polynomial sampler needs the fewest evaluations (docs/search.md), and its proposals cost time: where that is more
than a trial takes, TPE proposes instead, and NSGA-II where there are so many trials that TPE's own history slows it.
"""

from __future__ import annotations

from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler

from .problem import Problem

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
    """The sampler that `choose` names for a problem."""
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
