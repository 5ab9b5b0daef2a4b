"""What is relied on in a criterion. Start at `CriterionContract`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ..pruners import Criterion, Examples
from ..spaces import Space, build, check_scores
from .toys import tiny_net, tiny_space


class CriterionContract:
    """Tests of a criterion on a small network: every unit gets a score, and the network stays as it was."""

    def criterion(self) -> Criterion:
        """A criterion: override this."""
        raise NotImplementedError("say how your criterion is made: def criterion(self)")

    def subject(self) -> tuple[nn.Module, Space, Examples]:
        """What is scored: override it for another network, its space and examples that it takes."""
        model = tiny_net().eval()
        batches = [(torch.rand(8, 1, 12, 12, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 4)]
        return model, tiny_space(model), Examples(batches=batches, loss=nn.functional.cross_entropy)

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
        before, generator = list(_facts(model)), torch.get_rng_state()
        self.criterion()(model, space, examples)
        assert all(_same(one, two) for one, two in zip(before, _facts(model), strict=True))
        assert torch.equal(generator, torch.get_rng_state())

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


def refusal(call: Callable[[], object]) -> str:
    """The text of the ValueError that a call must raise."""
    try:
        found = call()
    except ValueError as error:
        return str(error)
    raise AssertionError(f"expected a ValueError; got {found!r}")


def _facts(model: nn.Module) -> Iterator[object]:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        yield from (name, tensor.detach().clone(), tensor.requires_grad, tensor.grad is None)
    for module in model.modules():
        yield from (module.training, len(module._forward_hooks), len(module._forward_pre_hooks))


def _same(one: object, two: object) -> bool:
    return torch.equal(one, two) if isinstance(one, Tensor) and isinstance(two, Tensor) else one == two
