"""A smaller network in one call, without labels, training or a study. Start at `prune`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..evaluators import Reconstruction, reconstruct
from ..pruners import Examples, Method, Pruner, Request, check_method
from ..spaces import Budget, Candidate, Scores, Space, build, copied, device_of, verify
from .proposals.pruning import method_named

_LOOKED_AT = 8  # batches that a method sees
_DIFFERENCE = 1e-3  # relative, of a network in float32 that was built rightly


@dataclass(frozen=True, kw_only=True, eq=False)
class Pruned:
    """A smaller network, and how it came about.

    Attributes:
        network: of the user's own class, in eval mode.
        space: what was there to choose.
        candidate: what was chosen.
        scores: which channels stay.
        costs: of the network, by name.
        full_costs: of the full one.
        difference: of the network as it was cut from the full one without its channels: rounding.
        reconstruction: what was solved, and how near it comes to the full network.
        seconds: of every step.
    """

    network: nn.Module = field(repr=False)
    space: Space = field(repr=False)
    candidate: Candidate
    scores: Scores | None = field(repr=False)
    costs: Mapping[str, float]
    full_costs: Mapping[str, float]
    difference: float
    reconstruction: Reconstruction
    seconds: Mapping[str, float]

    def __str__(self) -> str:
        """In a few lines."""
        shares = (f"{name} {value / self.full_costs[name]:.1%}" for name, value in self.costs.items())
        took = ", ".join(f"{name} {value:.1f} s" for name, value in self.seconds.items())
        return "\n".join([f"{', '.join(shares)} of the full network", str(self.reconstruction), took])


def prune(
    model: nn.Module,
    images: Tensor | Iterable[Any],
    *,
    budget: Budget,
    method: str | Method = "l2",
    space: Space | None = None,
    most: int = 1024,
    distill: int = 0,
) -> Pruned:
    """A network within the budget, cut from `model`, which is left as it is, and reconstructed.

    Traces, asks the method which channels stay, cuts, verifies the cut, and solves the layers again: `reconstruct`.

    Args:
        model: a trained network.
        images: `(n, c, *sides)` pictures, or batches of them, as the network takes them: a batch is a tensor, a tuple
            or list whose first tensor is that (labels behind it are not read), or a dict of inputs by name.
        budget: what the network may cost, by arithmetic: no latency.
        method: name of a method that needs no labels and does not train, or one of the user's.
        space: of `model`; traced with the first picture, and widths alone to choose, when None.
        most: pictures that are used, where there are more.
        distill: steps of training on the full network's answers that follow.

    Raises:
        ValueError: the budget can't be met or limits nothing, the method needs labels, a picture is off, or the built
            network gives other numbers than the full one without its channels.
    """
    pruner = _pruner(method, budget)
    clock = _Clock()
    batches = _held(images, most)
    first = batches[0]
    example = {name: one[:1] for name, one in first.items()} if isinstance(first, Mapping) else first[:1]
    space = Space.trace(model, example, rules={"*": {"depth": False}}) if space is None else space
    limits = budget.limits(space)
    space.check_limits(limits)
    clock("trace")
    targets = [(batch, torch.zeros(0)) for batch in batches[:_LOOKED_AT]]
    examples = Examples(batches=targets) if pruner.needs == "images" else None
    proposal = pruner.propose(Request(copied(model), space, limits, examples=examples))
    candidate, scores = space.canonical(proposal.candidate), proposal.scores
    space.check_within(candidate, limits)
    clock("choose")
    difference = float(verify(model, space, candidate, example, scores))
    if difference > _DIFFERENCE:
        raise ValueError(
            f"the smaller network is off by {difference:.2g} from the full one without its channels; name what was "
            "followed wrongly in `ignore` of Space.trace, and give that space"
        )
    small = build(model, space, candidate, scores).to(device_of(model)).eval()
    if proposal.weights is not None:
        small.load_state_dict(proposal.weights)
    clock("cut, verify")
    found = reconstruct(
        small,
        model=model,
        space=space,
        candidate=candidate,
        images=batches,
        scores=scores,
        most=most,
        distill=distill,
    )
    clock("reconstruct")
    return Pruned(
        network=small,
        space=space,
        candidate=candidate,
        scores=scores,
        costs={name: float(column[0]) for name, column in space.cost_table([candidate]).items()},
        full_costs=space.full_costs,
        difference=difference,
        reconstruction=found,
        seconds=clock.seconds,
    )


def _pruner(method: str | Method, budget: Budget) -> Pruner:
    """The method, if it and the budget are what can be done with pictures alone."""
    if not budget.asked() or budget.latency_ms is not None:
        raise ValueError(
            f"{budget}: expected limits such as macs=0.7; milliseconds are for searches and `secateur prune`"
        )
    pruner = method_named(method) if isinstance(method, str) else check_method(method)
    if pruner.needs not in ("nothing", "images"):
        raise ValueError(f"{pruner.name} needs {pruner.needs}, and there are pictures only; take another method, as l2")
    return cast(Pruner, pruner)


def _held(images: Tensor | Iterable[Any], most: int) -> Sequence[Any]:
    """The first so many pictures, in batches without labels: they are read once, and used several times."""
    found, count = list[Any](), 0
    for batch in torch.split(images, 64) if isinstance(images, Tensor) else images:
        inputs = batch[0] if isinstance(batch, (tuple, list)) and len(batch) else batch
        tensors = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
        if not tensors or not all(isinstance(one, Tensor) and one.ndim for one in tensors):
            raise ValueError(
                f"a batch of images is a {type(batch).__name__}; expected a tensor, a tuple or list that begins with "
                "one, or a dict of tensors"
            )
        found.append(inputs)
        count += len(tensors[0])
        if count >= most:
            break
    if not count:
        raise ValueError("images holds no pictures; give some hundreds")
    return found


class _Clock:
    """Seconds of one step after another."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def __call__(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step], self._since = now - self._since, now
