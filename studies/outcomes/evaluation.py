"""One trial from proposal to outcome: build, evaluate, keep what others may start from."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ...evaluators import Context, Evaluator, Ladder, Result
from ...search import NOTE
from ...spaces import Space
from ..disk.artifacts import ROUND, Artifacts
from ..settings.determinism import seed_of
from ..trials.events import Rung, Say, Watch
from ..trials.outcome import Evaluated, outcome_of
from ..trials.trial import REFERENCE, Trial
from .rounds import Rounds
from .stopping import Stopping


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A function from a proposed trial to its outcome; holds all that is the same for every trial.

    Attributes:
        model: the full network with the base weights; it is never changed.
        space: its traced space.
        artifacts: turns the names in a trial into a network.
        evaluator: `Ladder`, or the user's own.
        seed: the study's; each trial trains with its own, derived from this and its number.
        rounds: trains shared weights where a trial names them.
        stopping: ends trials that are not promising at a lower fidelity; None ends none.
        keeps_weights: keep what every trial's network became, because others may start there.
        devices: what a trial's training may be spread over; empty leaves it to the evaluator.
    """

    model: nn.Module
    space: Space
    artifacts: Artifacts
    evaluator: Evaluator
    seed: int
    keeps_weights: bool = False
    rounds: Rounds | None = None
    stopping: Stopping | None = None
    devices: tuple[torch.device, ...] = ()

    def at(self, folder: Path, devices: tuple[torch.device, ...] = ()) -> Evaluation:
        """The same with its artifacts in another folder, and with other devices."""
        rounds = None if self.rounds is None else replace(self.rounds, folder=folder)
        return replace(self, artifacts=replace(self.artifacts, folder=folder), rounds=rounds, devices=devices)

    def __call__(self, trial: Trial, earlier: Sequence[Trial] = (), say: Say | None = None) -> Evaluated:
        """The outcome of a trial.

        Args:
            trial: what to evaluate, with its measured latency where there is one.
            earlier: the trials that early stopping compares it with.
            say: told of every `Epoch` and every `Rung`.
        """
        start = time.perf_counter()
        reference = trial.candidate == self.space.full or trial.source == REFERENCE
        stopping = None if reference or self.stopping is None else replace(self.stopping, trials=earlier)
        watching = () if say is None else (Watch(say, f"trial {trial.number}"),)

        def climbed(rung: str, error: float) -> bool:
            if say is not None:
                say(Rung(of=f"trial {trial.number}", rung=rung, error=error))
            return stopping is not None and stopping.stops(trial, rung, error)

        result = self.evaluator(
            lambda: self.build(trial),
            candidate=trial.candidate,
            resolution=self.space.side(trial.candidate) or None,
            fidelity=trial.fidelity,
            seed=seed_of(self.seed, trial.number),
            report=climbed,
            context=Context(callbacks=watching, devices=self.devices),
        )
        if not isinstance(result, Result):
            raise TypeError(f"the evaluator gave a {type(result).__name__}; expected a secateur.evaluators.Result")
        if stopping is not None and result.stopped and result.rung is not None:
            seconds = time.perf_counter() - start
            return stopping.outcome(trial, result.rung, result.error, seconds, dict(result.attributes))
        if self.keeps_weights and result.weights is not None:
            self.artifacts.keep_trained(trial.number, trial.candidate, result.weights)
        return outcome_of(result, seconds=time.perf_counter() - start, latency_ms=trial.latency_ms)

    def build(self, trial: Trial) -> nn.Module:
        """A fresh small network with the weights the trial names; shared ones are trained now if they are not there."""
        if self.rounds is not None and trial.weights.startswith(ROUND):
            self.rounds.ensure(*_asked(trial))
        return self.artifacts.build(self.model, trial.candidate, trial.ranking, trial.weights)

    def lacks_round(self, trial: Trial) -> bool:
        """Whether the trial names shared weights that must be trained before it is evaluated.

        An evaluator of the user's own may never build a network; where it does, they are trained then.

        Raises:
            ValueError: they were trained for another question.
        """
        if self.rounds is None or not trial.weights.startswith(ROUND) or not isinstance(self.evaluator, Ladder):
            return False
        number, center, limits = _asked(trial)
        return not self.rounds.has(number, center, limits)

    def ensure_round(self, trial: Trial, say: Say | None = None) -> None:
        """Train the shared weights that the trial names, unless they are there."""
        assert self.rounds is not None, "a trial that names a round belongs to a study that trains them"
        watch = Watch(say, trial.weights)
        replace(self.rounds, callbacks=(*self.rounds.callbacks, watch)).ensure(*_asked(trial))

    def needs(self, trial: Trial, *, training: bool = False) -> list[str]:
        """The artifacts, as paths in the study, that are read when the trial is evaluated, or its round trained."""
        shared = self.rounds is not None and trial.weights.startswith(ROUND)
        before = self.rounds.needs(_asked(trial)[0]) if self.rounds is not None and shared else []
        if training:
            return before
        found = self.artifacts.paths(trial.ranking, trial.weights)
        return found if isinstance(self.evaluator, Ladder) else [*found, *before]


def _asked(trial: Trial) -> tuple[int, Sequence[float] | None, Mapping[str, float] | None]:
    """Number, center and limits of the round that a trial names."""
    around = trial.memory.get(f"{NOTE}joint", {})
    return int(trial.weights.removeprefix(ROUND)), around.get("center"), around.get("limits")
