"""The network that a study is given, measured before anything else: what it is worth, or why it can't be right."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ...evaluators import Diverged, ImageTask, Task, measure_error
from ...evaluators.modes import present, reproducible
from ...evaluators.tasks.batches import Spoiled, refuse_spoiled
from ...evaluators.tasks.learned import figures
from ...evaluators.training.suspects import UNKNOWN, likely_reason
from ...spaces import Cost, Space, checked_costs, copied
from ..outcomes.latency import Latencies
from ..outcomes.sides import WrongSide, watched
from ..settings.search import UNTRAINED, Search
from ..trials.words import percent, reason_of

logger = logging.getLogger("secateur")

_TRAINED = ("short", "long", "reconstructed")  # fidelities whose errors a full network's may be held against
_SURE = 3  # standard errors that a figure is doubted by
_FAR = 4  # standard errors that a figure may be from what is expected
_FAR_UNSURE = 0.2  # the same as a share of it, where there is no standard error
_SHARE = 0.1  # of what is expected, that a figure may always be off
_GUESSES = 0.9  # what is sure to be no better than so much of a guess's error stops a study
_GO_ON = f"expect_error={UNTRAINED!r} goes on all the same"


@dataclass(frozen=True)
class Judgement:
    """What the given network is worth.

    Attributes:
        error: on the validation split; None where it could not be measured.
        error_std: its standard error; None where it is not known.
        size: examples of the split.
        expected: what was expected; None where nothing was.
        reason: why there is no error; None where there is one.
    """

    error: float | None = None
    error_std: float | None = None
    size: int | None = None
    expected: float | str | None = None
    reason: str | None = None


def judged(model: nn.Module, task: Task, space: Space, search: Search, expected: float | str | None) -> Judgement:
    """What the full network is worth on the validation split at its own resolution.

    Args:
        model: the full network, which is left as it is.
        task: data and error.
        space: says its resolution.
        search: device, threads and dtype.
        expected: the error that the user knows it by; `"untrained"` where nothing is expected of it.

    Raises:
        ValueError: data are not finite; or the network only guesses, gives numbers that are not finite, or is far from
            what is expected.
    """
    side = space.side(space.full) or None
    try:
        device = present(search.device)
    except ValueError:  # it is elsewhere, where the trials run
        device = present("cpu")
    network = copied(model).to(device=device, dtype=search.torch_dtype)
    known = task.sizes.get("validation")
    try:
        with reproducible(search.threads, device):
            if not isinstance(task, ImageTask):  # which looks at its own data
                refuse_spoiled(task, network, "train", side, None, batches=1)
            if space.resolutions:
                watched(network, space, space.full)
            error, std = figures(measure_error(network, task, resolution=side))
        if not math.isfinite(error):
            raise TypeError(f"the error is {error}, not a finite number")
    except Diverged as problem:
        raise ValueError(f"the full network is of no use: {problem}; {UNKNOWN}") from None
    except (WrongSide, Spoiled):
        raise
    except Exception as problem:  # noqa: BLE001 - of the user's task and network; data may be elsewhere, with the workers
        reason = reason_of(problem)
        if isinstance(expected, float):
            raise ValueError(
                f"expect_error={expected:g}, but the full network can't be measured: {reason}"
            ) from problem
        logger.warning("the full network can't be measured: %s", reason)
        return Judgement(expected=expected, reason=reason)
    said = f"full network: validation error {percent(error)}" + ("" if std is None else f" +- {100 * std:.2f}")
    said += "" if known is None else f" on {known:,} examples"
    doubt = _doubt(task, error, std, expected)
    if doubt is not None and (isinstance(expected, float) or search.own_evaluator is None):
        with reproducible(search.threads, device):
            reason = likely_reason(network, task, error, side)
        if expected != UNTRAINED and doubt.sure:
            raise ValueError(f"{said}, {doubt.said}; {reason}. {doubt.mend}")
        logger.warning("%s, %s; %s", said, doubt.said, reason)
    else:  # an evaluator of the user's own judges by what it likes
        logger.info("%s%s", said, "" if doubt is None else f", {doubt.said}")
    return Judgement(error=error, error_std=std, size=known, expected=expected)


def floor(judgement: Judgement, task: Task, search: Search) -> float | None:
    """The error above which a trial is of no use: what was asked for, or halfway from the full network to a guess.

    None where errors are of another kind than the full network's: of an evaluator of the user's own, or of networks
    that no training follows.
    """
    guess = task.guess if isinstance(task, ImageTask) else None
    if search.max_error is not None or judgement.error is None or guess is None or judgement.error >= guess:
        return search.max_error
    return (judgement.error + guess) / 2 if search.own_evaluator is None and search.fidelity in _TRAINED else None


@dataclass(frozen=True)
class _Doubt:
    said: str
    sure: bool
    mend: str


def _doubt(task: Task, error: float, std: float | None, expected: float | str | None) -> _Doubt | None:
    """What speaks against the figure."""
    if isinstance(expected, float):
        off = _FAR_UNSURE * abs(expected) if std is None else max(_FAR * std, _SHARE * abs(expected))
        if abs(error - expected) > off:
            mend = "Mend it, or give another expect_error"
            return _Doubt(f"and {percent(expected)} was expected", True, mend)
        return None
    guess = task.guess if isinstance(task, ImageTask) else None
    if guess is None or error <= guess:
        return None
    sure = error - _SURE * (std or 0.0) > _GUESSES * guess
    return _Doubt(
        "little better than a guess", sure, f"Mend it, or train it first (train = true in a study file); {_GO_ON}"
    )


def own_costs(model: nn.Module, space: Space, search: Search, path: Path) -> dict[str, float]:
    """What the full network costs by each cost of the user's own, asked twice; arguments as of `judged`.

    Raises:
        CostError: one raised, gave no positive number, or is arithmetic that gave two numbers.
    """
    full = copied(model).to(dtype=search.torch_dtype) if search.costs else model
    found = {}
    with reproducible(search.threads, search.torch_device):
        for cost in search.costs:
            if cost.measured:
                asked = Latencies(path, model=full, space=space, device=search.here, cost=cost)
                found[cost.name] = asked.measure([space.full])[0].ms
            else:
                found[cost.name], _ = cost.twice(space, space.full)
    return found


def check_costs(kept: Mapping[str, str], given: Sequence[Cost], path: Path) -> None:
    """Refuse a study without the costs of the user's own that it has, or with others.

    Args:
        kept: of each by name, what it is a cost of.
        given: those that are given now.
        path: the study's folder, for the message.

    Raises:
        ValueError: they differ.
    """
    now = {cost.name: cost.of for cost in checked_costs(given)}
    if now != dict(kept):
        has, was = (", ".join(f"{name} of the {of}" for name, of in one.items()) or "none" for one in (kept, now))
        raise ValueError(
            f"{path} has costs of its own: {has}; given are: {was}. Give the same as at the start, as "
            "Study.open(..., costs=[sc.Cost(...)])"
        )
