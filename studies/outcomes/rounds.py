"""Shared weights in rounds: each a training of the full network and its parts, kept in the study's folder for good.

weights/round-NUMBER.safetensors    state dict of the full network, and what the round was asked
weights/round-NUMBER.state          where a training that is not finished stands

Round 0 starts from the base weights and serves the whole space within the budget. Round k + 1 starts from round k and
serves what lies around one center: it can only be trained when the trials of round k are told, so neither workers nor
a resumed search change anything.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ...evaluators import Task, Training, train
from ...evaluators.modes import seed_of
from ...evaluators.training.sharing import Sandwich
from ...search import Problem
from ...search.joint.joint import around
from ...spaces import copied
from ...spaces.allocation import Draw, mixture
from ..disk.artifacts import ROUND
from ..disk.files import write_atomic
from ..disk.weights import TrainingCheckpoint, digest, read_described, read_description

logger = logging.getLogger("secateur")

_SEEDS = 0x7368  # sets the seeds of rounds apart from those of trials


@dataclass(frozen=True, eq=False, kw_only=True)
class Rounds:
    """Trains the rounds of a study as they are asked for.

    Attributes:
        folder: of the study.
        model: the full network with the base weights; it is never changed.
        problem: space, limits, ranking and seed.
        task: data and loss.
        training: the settings; `lr` is the highest rate of every round.
        first_epochs: epochs of round 0.
        later_epochs: epochs of every other round.
        networks: how many are drawn in every step, beside the full and the smallest one.
        device: where they are trained.
        callbacks: what else watches the training.
    """

    folder: Path
    model: nn.Module
    problem: Problem
    task: Task
    training: Training
    first_epochs: int = 10
    later_epochs: int = 2
    networks: int = 2
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    callbacks: tuple[object, ...] = ()

    def ensure(
        self, number: int, center: Sequence[float] | None = None, limits: Mapping[str, float] | None = None
    ) -> str:
        """The name of a round, `"round:NUMBER"`, that is there when this returns: trained now unless it was before.

        A training that was killed goes on after its last whole epoch; the weights are those it would have had.

        Args:
            number: from 0; all below were ensured before.
            center: `(d,)` ratios that its networks are drawn around, as a joint sampler notes them; None draws over
                the whole space, as does round 0 whatever is given.
            limits: absolute, by cost name, that go with the center; the problem's when None.

        Raises:
            ValueError: the round before is missing, or this one was trained for another question.
            Diverged: the training left the finite numbers.
        """
        if not self.has(number, center, limits):
            start, asked = time.perf_counter(), self._asked(number, center, limits)
            tensors = self._trained(number, asked)
            said = {"format": "pt", "asked": json.dumps(asked), "seconds": repr(time.perf_counter() - start)}
            said["digest"] = digest(tensors)
            write_atomic(self.path(number), save(tensors, metadata=said))
            self._state(number).unlink(missing_ok=True)
        return f"{ROUND}{number}"

    def has(
        self, number: int, center: Sequence[float] | None = None, limits: Mapping[str, float] | None = None
    ) -> bool:
        """Whether a round was trained; the arguments are those of `ensure`.

        Raises:
            ValueError: it was trained for another question.
        """
        asked = self._asked(number, center, limits)
        path = self.path(number)
        if path.exists():
            kept = json.loads(read_description(path)["asked"])
            # A round over the whole space serves another budget as well.
            same = asked if asked["center"] is not None else {**asked, "limits": kept.get("limits")}
            other = [name for name, value in json.loads(json.dumps(same)).items() if value != kept.get(name)]
            if other:
                raise ValueError(f"{path} was trained with another {', '.join(other)}; restore it or start a new study")
        return path.exists()

    def needs(self, number: int) -> list[str]:
        """The files, as paths in the study, that a training of the round may read."""
        before = [f"weights/{self.path(number - 1).name}"] if number else []
        return [*before, f"weights/{self._state(number).name}"]

    def path(self, number: int) -> Path:
        """Where a round is kept."""
        return self.folder / "weights" / f"round-{number}.safetensors"

    def seconds(self, number: int) -> float:
        """How long a round took to train, without what a kill cost."""
        return float(read_description(self.path(number))["seconds"])

    def _asked(self, number: int, center: Sequence[float] | None, limits: Mapping[str, float] | None) -> dict[str, Any]:
        """All that the weights of a round are a function of, beside the round before and what a study never changes."""
        if number < 0:
            raise ValueError(f"round {number}: expected a number from 0")
        if number == 0 or center is None:
            drawn: dict[str, Any] = {"center": None, "limits": dict(self.problem.limits)}
        else:
            drawn = {"center": [float(ratio) for ratio in center], "limits": dict(limits or self.problem.limits)}
        epochs = self.later_epochs if number else self.first_epochs
        return drawn | {"epochs": epochs, "networks": self.networks, "seed": self.problem.seed}

    def _draw(self, asked: Mapping[str, Any]) -> Draw:
        if asked["center"] is None:
            return mixture(self.problem.space, asked["limits"], self.problem.scores)
        return around(self.problem, asked["center"], asked["limits"])

    def _trained(self, number: int, asked: Mapping[str, Any]) -> dict[str, Tensor]:
        """State dict after the round."""
        model, space = copied(self.model), self.problem.space
        if number:
            if not self.path(number - 1).exists():
                raise ValueError(f"round {number} starts from round {number - 1}, which is not there; train it first")
            model.load_state_dict(read_described(self.path(number - 1))[0])
        self.path(number).parent.mkdir(exist_ok=True)
        checkpoint, seed = TrainingCheckpoint(self._state(number)), seed_of(self.problem.seed, number, 0, _SEEDS)
        sandwich = Sandwich(space, self._draw(asked), networks=self.networks, scores=self.problem.scores, seed=seed)
        losses = train(
            model,
            self.task,
            self.training,
            epochs=asked["epochs"],
            resolution=space.side(space.full) or None,
            seed=seed,
            device=self.device,
            callbacks=(sandwich, checkpoint, *self.callbacks),
            state=checkpoint.kept(),
        )
        if losses:
            logger.info("shared weights, round %d: loss of the full network %.4g", number, losses[-1])
        found = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
        return {name: value.detach().cpu().clone().contiguous() for name, value in found.items()}

    def _state(self, number: int) -> Path:
        return self.folder / "weights" / f"round-{number}.state"
