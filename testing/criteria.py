"""What is relied on in a criterion. Start at `CriterionContract`."""

from __future__ import annotations

import torch
from torch import nn

from ..pruners import Criterion, Examples
from ..spaces import Space, build, check_scores
from .promises import refusal, untouched
from .toys import tiny_subject


class CriterionContract:
    """Tests of a criterion on a small network: every unit gets a score, and the network stays as it was."""

    def criterion(self) -> Criterion:
        """A criterion: override this."""
        raise NotImplementedError("say how your criterion is made: def criterion(self)")

    def subject(self) -> tuple[nn.Module, Space, Examples]:
        """What is scored: override it for another network, its space and examples that it takes."""
        return tiny_subject()

    def test_every_unit_gets_a_finite_score(self) -> None:
        """One a unit of every group, by which a network is built."""
        model, space, examples = self.subject()
        scores = self.criterion()(model, space, examples)
        check_scores(space, scores)
        build(model, space, space.uniform(0.5), scores)

    def test_equal_networks_get_equal_scores(self) -> None:
        """Whatever is random has a seed of its own."""
        model, space, examples = self.subject()
        one, two = (self.criterion()(model, space, examples) for _ in range(2))
        assert all(torch.equal(one[group.name], two[group.name]) for group in space.groups)

    def test_the_network_stays_as_it_was(self) -> None:
        """Its weights, statistics, modes, gradients and hooks; and the global generator."""
        model, space, examples = self.subject()
        with untouched(model):
            self.criterion()(model, space, examples)

    def test_it_asks_for_what_it_needs(self) -> None:
        """In an error that says so, where examples or their loss are missing."""
        model, space, examples = self.subject()
        criterion = self.criterion()
        if criterion.needs == "nothing":
            criterion(model, space)
            return
        assert criterion.needs in refusal(lambda: criterion(model, space))
        if criterion.needs == "labels":
            assert "labels" in refusal(lambda: criterion(model, space, Examples(batches=examples.batches)))
        else:
            criterion(model, space, Examples(batches=examples.batches))
