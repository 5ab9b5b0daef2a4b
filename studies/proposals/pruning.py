"""Runs methods of the literature on a study's network and data: alone, or as seeds (`SeedMaker`)."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ...evaluators import Task, Training, train
from ...evaluators.modes import present, seed_of
from ...pruners import METHODS, Examples, Method, Proposal, Pruner, Request, TrainingPruner, check_method, trains
from ...spaces import Space, copied, within
from ..disk.weights import TrainingCheckpoint
from ..trials.events import Listener, Watch
from .seeds import Aim

_FIXED = ("name", "needs", "allocates", "selects", "criterion")  # what a method is, not how it is set


def method_named(name: str, settings: Mapping[str, Any] | None = None) -> Method:
    """The method called so, with other settings than its own where given.

    Raises:
        ValueError: there is no such method or setting, or its value is of no use.
        ImportError: an installed package adds a method of that name which is of no use.
    """
    make = METHODS.named(name)
    method = make()
    if dataclasses.is_dataclass(method):
        settable = [one.name for one in dataclasses.fields(method) if one.init]
    else:
        settable = list(inspect.signature(make).parameters)
    fields = [one for one in settable if one not in _FIXED and (one != "weights" or method.weights == "inherited")]
    unknown = [one for one in settings or {} if one not in fields]
    if unknown:
        raise ValueError(f"{name} has no setting {unknown[0]!r}; expected {_one_of(fields)}")
    try:
        return make(**dict(settings or {}))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    except TypeError as error:
        usual = ", ".join(f"{one}={getattr(method, one)!r}" for one in settings or {})
        raise ValueError(f"{name} does not take {dict(settings or {})}: {error}; it has {usual} by itself") from None


def _one_of(names: Sequence[str]) -> str:
    return f"one of {', '.join(names)}" if names else "none at all"


def settings_of(method: Method) -> dict[str, Any]:
    """The method's settings as plain values, the same in every process; functions and the like by their name."""
    values = {name: getattr(method, name) for name in getattr(method, "__dataclass_fields__", {})}
    return {"method": method.name, "class": type(method).__name__} | {
        name: value if isinstance(value, int | float | str | None) else _plain(value) for name, value in values.items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, int | float | str | None):
        return value
    return str(getattr(value, "name", None) or getattr(value, "__qualname__", type(value).__qualname__))


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """Asks methods; holds what is the same for all of them.

    Attributes:
        model: the full network with the base weights; it is never changed.
        space: its traced space.
        task: data and loss; methods see the training split only.
        training: how a method that trains is trained, and on how many images the others look.
        seed: of everything random.
        device: where that happens.
    """

    model: nn.Module
    space: Space
    task: Task
    training: Training
    seed: int
    device: torch.device

    def propose(
        self,
        method: Method,
        aim: Aim,
        *,
        state: Path | None = None,
        say: Listener | None = None,
    ) -> Proposal:
        """What the method proposes for an aim.

        Args:
            method: any of `METHODS`, or one of the user's.
            aim: limits, depth and resolution; a method that trains takes the limits alone.
            state: file that keeps a training phase after every epoch; a killed one goes on from it.
            say: told of every `Epoch` of a training phase.

        Raises:
            ValueError: the method can't do what is asked: labels are missing, scores are of no use, the limits are out
                of reach.
            TypeError: it is no pruning method, or answers with something else than a proposal.
        """
        self.space.check_limits(aim.limits)
        pruner = check_method(method)
        request = Request(
            copied(self.model).to(present(str(self.device))),
            self.space,
            aim.limits,
            examples=None if pruner.needs in ("nothing", "training") else self._examples,
            seed=self.seed,
            depth=aim.depth,
            resolution=aim.resolution,
        )
        if trains(pruner):
            proposal = self._trained(pruner, request, state, say)
        else:
            proposal = cast(Pruner, pruner).propose(request)
        return self._checked(pruner, proposal, aim.limits)

    def _trained(self, method: TrainingPruner, request: Request, state: Path | None, say: Listener | None) -> Proposal:
        phase = method.start(request)
        checkpoint = None if state is None else TrainingCheckpoint(state)
        kept = None if checkpoint is None else checkpoint.kept()
        watch = Watch(say, method.name)
        train(
            phase.model,
            self.task,
            replace(self.training, ema=None),  # an average of weights that are pruned alike is none
            epochs=self.training.pruning_epochs,
            resolution=self.space.side(self.space.full) or None,
            seed=seed_of(self.seed, 0, 2),
            device=self.device,
            callbacks=(phase, watch) if checkpoint is None else (phase, checkpoint, watch),
            state=kept,
        )
        return phase.proposal()

    def _checked(self, method: Method, proposal: Proposal, limits: Mapping[str, float]) -> Proposal:
        """The proposal, on the CPU, if it is legal and within the limits."""
        if not isinstance(proposal, Proposal):
            raise TypeError(f"{method.name} proposed {type(proposal).__name__}; expected a Proposal(candidate, scores)")
        candidate = self.space.canonical(proposal.candidate)
        if not within(self.space, self.space.encode([candidate]), limits)[0]:
            raise ValueError(
                f"{method.name} proposed a network over the budget; choose another method or a higher budget"
            )
        weights = proposal.weights
        return Proposal(
            candidate=candidate,
            scores={name: scores.detach().float().cpu() for name, scores in proposal.scores.items()},
            weights=None if weights is None else {name: value.detach().cpu() for name, value in weights.items()},
            notes=proposal.notes,
        )

    @cached_property
    def _examples(self) -> Examples:
        side = self.space.side(self.space.full) or None
        batches: list[Any] = []
        seen = 0
        for batch in self.task.loader("train", side, None):
            batches.append(batch)
            seen += len(batch.targets) if hasattr(batch, "targets") else 1
            if seen >= self.training.pruning_images:
                break
        return Examples(batches=batches, loss=self.task.loss, forward=self.task.forward)
