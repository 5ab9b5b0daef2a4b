"""Learning from the full network while units go: its outputs, what its blocks give, and its maps of attention.

The terms are added where gradients flow, at the outputs themselves, so that any training loop has them: of a loss
`(1 - a) L + a (D + sum of M)` the loop knows `L` alone. `D` is how far the outputs are from the teacher's, by the
task's own `distill`; `M` is the mean squared difference of what a block gives, and of each map of attention. Start at
`Teaching`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .maps import Scores, hearing

Distil = Callable[[Tensor, Tensor, float], Tensor]


class Teaching:
    """Hooks on a network that is trained, taken off by `remove`.

    Attributes:
        distil: `distil(outputs, teacher_outputs, temperature)` gives a scalar; None leaves the outputs to the loss.
        scale: what the loop multiplies its loss by: of mixed precision, and of batches in parts.
    """

    def __init__(
        self, model: nn.Module, teacher: nn.Module, blocks: Sequence[str], *, weight: float, temperature: float
    ) -> None:
        """Put the hooks on.

        Args:
            model: what is trained.
            teacher: the full network as it was, with modules of the same names.
            blocks: the modules whose outputs are compared.
            weight: a, of the teacher's part, 0..1.
            temperature: what outputs are divided by before they are compared.
        """
        self.distil: Distil | None = None
        self.scale: Callable[[], float] = lambda: 1.0
        self._teacher, self._weight, self._temperature = teacher.eval().requires_grad_(False), weight, temperature
        self._theirs: dict[str, list[Tensor]] = {}  # of a block that is called again, one a call
        self._maps: list[Tensor] = []
        self._listening = ExitStack()
        self._answer: Any = None
        self._hooks = [model.register_forward_pre_hook(self._ask, with_kwargs=True)]
        self._hooks += [model.register_forward_hook(self._judge, always_call=True)]
        for name in blocks:
            self._hooks.append(teacher.get_submodule(name).register_forward_hook(self._noting(name)))
            self._hooks.append(model.get_submodule(name).register_forward_hook(self._pulling(name)))

    def to(self, device: torch.device) -> None:
        """Move the teacher."""
        self._teacher.to(device)

    def remove(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._forget()

    def _forget(self) -> None:
        self._listening.close()
        self._maps.clear()
        self._theirs.clear()
        self._answer = None

    def _ask(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        """The teacher's outputs for what the network is about to be given."""
        self._forget()
        if model.training and torch.is_grad_enabled():
            with torch.no_grad(), hearing(lambda made_of, scores: self._maps.append(scores(*made_of))):
                self._answer = self._teacher(*args, **kwargs)
            if self._maps:
                self._listening.enter_context(hearing(self._pull_map))

    def _noting(self, name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                self._theirs.setdefault(name, []).append(output)

        return note

    def _pulling(self, name: str) -> Callable[..., None]:
        def pull(module: nn.Module, inputs: Any, output: Any) -> None:
            theirs = self._theirs.get(name)
            if theirs and isinstance(output, Tensor) and output.requires_grad:
                apart = output.detach() - theirs.pop(0)
                _add(output, 2 * self._weight * self.scale() / output.numel() * apart)

        return pull

    def _pull_map(self, made_of: Sequence[Tensor], scores: Scores) -> None:
        if not self._maps or not torch.is_grad_enabled():
            return
        theirs, mine = self._maps.pop(0), [one.detach().requires_grad_() for one in made_of]
        added = torch.autograd.grad(F.mse_loss(scores(*mine), theirs), mine)
        for one, pull in zip(made_of, added, strict=True):
            if one.requires_grad:
                _add(one, self._weight * self.scale() * pull)

    def _judge(self, model: nn.Module, inputs: Any, output: Any) -> None:
        """The labels' part of the gradient is made smaller, and the distance to the teacher's outputs added."""
        self._listening.close()
        answer = self._answer
        if self.distil is None or not isinstance(output, Tensor) or not output.requires_grad or answer is None:
            return
        with torch.enable_grad():
            mine = output.detach().requires_grad_()
            (added,) = torch.autograd.grad(self.distil(mine, answer, self._temperature), mine)
        _add(output, self._weight * self.scale() * added, of_own=1 - self._weight)


def _add(output: Any, added: Tensor, of_own: float = 1.0) -> None:
    """Let the gradient of an output be `of_own` of itself and what is added."""
    output.register_hook(lambda gradient: of_own * gradient + added.to(gradient.dtype))
