"""What is relied on in a pruning method. Start at `PrunerContract`."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from ..evaluators import Task, Training, train
from ..pruners import Examples, Method, Proposal, Pruner, Request, TrainingPruner, realised
from ..pruners.proposal import Phase
from ..spaces import Space, build, verify
from .promises import refusal, untouched
from .toys import tiny_subject, tiny_task


class PrunerContract:
    """Tests of a pruning method, of one that answers at once and of one that prunes while it trains.

    Attributes:
        share: of the way from the smallest network's multiply-adds to the full one's that the method is given.
        tolerance: how far the proposed network's outputs may be from the full one's without the units that go.
        training: how a training method's network learns.
    """

    share = 0.4
    tolerance = 1e-4
    training = Training()

    def method(self) -> Method:
        """A method: override this."""
        raise NotImplementedError("say how your method is made: def method(self)")

    def subject(self) -> tuple[nn.Module, Space, Examples]:
        """What is pruned: override it for another network in eval mode, its space and labelled examples."""
        return tiny_subject()

    def task(self) -> Task:
        """What a training method learns from, beside the examples: override it where you override `subject`."""
        return tiny_task()

    def test_its_network_keeps_every_promise(self) -> None:
        """Legal, in its canonical form, within the budget, with the weights it says; the full network is untouched."""
        model, space, _ = subject = self.subject()
        method, limits = self.method(), self._limits(space)
        with untouched(model):
            proposal, trained = self._proposed(subject, limits)
        assert space.check(proposal.candidate) == space.canonical(proposal.candidate) == proposal.candidate
        costs = space.cost_table([proposal.candidate])
        assert costs["macs"][0] <= limits["macs"], f"{costs['macs'][0]} multiply-adds; the limit is {limits['macs']}"
        assert (method.weights == "inherited") == (proposal.weights is None)
        small = realised(model, space, proposal).eval()
        inputs = space.inputs(model, proposal.candidate)
        called, tensors = space.call(small, proposal.candidate)
        with torch.no_grad():
            assert all(output.isfinite().all() for output in tree_leaves(called(*tensors)))
        if proposal.weights is None:
            assert verify(model, space, proposal.candidate, inputs, proposal.scores) < self.tolerance
        if trained is not None and method.weights == "trained":  # the network that the training ended with, cut
            assert verify(trained, space, proposal.candidate, inputs, proposal.scores) < self.tolerance
            cut = build(trained, space, proposal.candidate, proposal.scores).state_dict()
            assert all(torch.equal(value, small.state_dict()[key]) for key, value in cut.items())

    def test_equal_seeds_give_equal_proposals(self) -> None:
        """Whatever is random comes from the seed."""
        subject = self.subject()
        one, two = (self._proposed(subject, self._limits(subject[1]), seed=3)[0] for _ in range(2))
        _assert_equal(one, two)

    def test_a_budget_out_of_reach_is_refused(self) -> None:
        """In a ValueError that says how far one could go."""
        text = refusal(lambda: self._proposed(self.subject(), {"macs": 1.0}))
        assert "macs=1 " in text, f"{text!r} does not name the limit macs=1"

    def test_it_asks_for_what_it_needs(self) -> None:
        """In a ValueError that names it, where examples or their loss are missing."""
        model, space, examples = self.subject()
        method, limits = self.method(), self._limits(space)
        if not isinstance(method, Pruner) or method.needs == "nothing":
            return
        assert f"needs {method.needs}" in refusal(lambda: method.propose(Request(model, space, limits)))
        if method.needs == "labels":
            unlabelled = Request(model, space, limits, examples=Examples(batches=examples.batches))
            assert "needs labels" in refusal(lambda: method.propose(unlabelled))

    def test_a_training_that_is_cut_short_goes_on_bit_by_bit(self) -> None:
        """From what `state` gave after any epoch, through a file."""
        if not isinstance(self.method(), TrainingPruner):
            return
        keep = _Keep()
        whole = self._trained(keep)
        for saved in keep.states:
            _assert_equal(self._trained(_Keep(), torch.load(io.BytesIO(saved), weights_only=True)), whole)

    def _limits(self, space: Space) -> dict[str, float]:
        low, high = (float(value) for value in space.cost_table([space.smallest, space.full])["macs"])
        return {"macs": low + self.share * (high - low)}

    def _proposed(
        self, subject: tuple[nn.Module, Space, Examples], limits: Mapping[str, float], seed: int = 0
    ) -> tuple[Proposal, nn.Module | None]:
        """What the method proposes, and the network that a training ended with."""
        model, space, examples = subject
        method, request = self.method(), Request(model, space, limits, examples=examples, seed=seed)
        if isinstance(method, TrainingPruner):
            phase = method.start(request)
            OwnLoop(phase, examples).run()
            return phase.proposal(), phase.model
        assert isinstance(method, Pruner), f"{method!r} has neither `propose` nor `start`"
        return method.propose(request), None

    def _trained(self, keep: _Keep, state: Mapping[str, Any] | None = None) -> Proposal:
        """What a training method proposes at the end of our own loop."""
        model, space, _ = self.subject()
        method = self.method()
        assert isinstance(method, TrainingPruner)
        phase = method.start(Request(model, space, self._limits(space), seed=3))
        train(phase.model, self.task(), self.training, epochs=4, seed=5, callbacks=[phase, keep], state=state)
        return phase.proposal()


class OwnLoop:
    """A training loop that is none of ours: what a phase may count on in any."""

    def __init__(
        self, phase: Phase, examples: Examples, *, epochs: int = 3, lr: float = 0.01, momentum: float = 0.9
    ) -> None:
        self.model, self.phase, self.examples = phase.model, phase, examples
        self.epochs, self.lr, self.epoch, self.step = epochs, lr, 0, 0
        self.steps = epochs * len(examples.batches)
        learned = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(learned, lr=lr, momentum=momentum)

    def run(self) -> None:
        """Train to the end."""
        self._call("prepare")
        self.model.train()
        while self.epoch < self.epochs:
            for batch in self.examples.batches:
                self.optimizer.zero_grad()
                outputs, targets = self.examples.forward(self.model, batch)
                assert self.examples.loss is not None, "a training needs a loss"
                loss = self.examples.loss(outputs, targets)
                torch.autograd.backward(loss + getattr(self.phase, "extra_loss", _nothing)(self, outputs, targets))
                self._call("after_backward")
                self.optimizer.step()
                self.step += 1
                self._call("after_step")
            self.epoch += 1
            self._call("after_epoch")
        self._call("finalise")

    def _call(self, hook: str) -> None:
        method = getattr(self.phase, hook, None)
        if method is not None:
            method(self)


def _nothing(*_: Any) -> float:
    return 0.0


class _Keep:
    """The state after every epoch, as a file holds it."""

    def __init__(self) -> None:
        self.states: list[bytes] = []

    def after_epoch(self, loop: Any) -> None:
        buffer = io.BytesIO()
        torch.save(loop.state(), buffer)
        self.states.append(buffer.getvalue())


def _assert_equal(one: Proposal, two: Proposal) -> None:
    assert one.candidate == two.candidate and one.notes == two.notes
    assert all(torch.equal(scores, two.scores[group]) for group, scores in one.scores.items())
    mine, theirs = one.weights or {}, two.weights or {}
    assert set(mine) == set(theirs)
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in mine.items())
