"""Hooks and lambdas that a network holds: those of a built network are its own."""

from functools import partial
from types import MethodType

import pytest
import torch
from torch import nn

from secateur import Space, build, verify
from secateur.spaces import copied


class Hooked(nn.Module):
    """Adds what a hook kept of its first layer."""

    def __init__(self, how):
        super().__init__()
        self.kept = {}
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 4, 1)
        kept = self.kept

        def fill(module, inputs, output):
            kept["first"] = output

        hooks = {
            "lambda": lambda *given: self.kept.update(first=given[2]),
            "closure": fill,
            "method": self.keep,
            "partial": partial(lambda name, *given: self.kept.update({name: given[2]}), "first"),
        }
        self.first.register_forward_hook(hooks[how])

    def keep(self, module, inputs, output):
        self.kept["first"] = output

    def forward(self, x):
        return self.head(self.second(self.first(x).relu()) + self.kept["first"])


class Lambdas(nn.Module):
    """Calculates by functions that it holds."""

    def __init__(self, how):
        super().__init__()
        self.first, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
        self.scale = nn.Parameter(torch.randn(8, 1, 1))

        def normed(x):
            return self.norm(x)

        def again(x, times=2):
            return again(normed(x), times - 1) if times else x

        self.steps = {
            "attribute": [],
            "list": [lambda x: self.norm(x), lambda x: x * self.scale],
            "nested": [lambda x: normed(x) * self.scale],
            "shared": [
                *2 * [once := lambda x: self.norm(x)],
                lambda x: normed(x),
                lambda x: normed(once(x) * self.scale),
            ],
            "default": [lambda x, norm=self.norm, *, scale=self.scale: norm(x) if norm.training else norm(x) + 0 * x],
            "method": [MethodType(lambda module, x: normed(module(x)), self.norm)],
            "itself": [again, lambda x: again(x, 1)],
            "tuple": (lambda x: normed(x), partial(lambda factor, x: factor * self.scale * x, 2.0)),
        }[how]
        self.last = lambda x: self.head(x)

    def forward(self, x):
        x = self.first(x)
        for step in self.steps:
            x = step(x)
        return self.last(x.relu())


@pytest.mark.parametrize("how", ["lambda", "closure", "method", "partial"])
def test_hooks_fill_the_store_of_their_own_network(how):
    model, x = Hooked(how).eval(), torch.randn(2, 3, 10, 10)
    space = Space.trace(model, x[:1], divisor=2)
    half = space.uniform(0.5)
    assert len(space.groups) == 1 and verify(model, space, half, x) < 1e-5
    model.kept.clear()
    network = build(model, space, half)
    network(x)
    assert network.kept["first"].shape[1] < 8 and not model.kept


@pytest.mark.parametrize("how", ["attribute", "list", "nested", "tuple", "shared", "default", "method", "itself"])
def test_functions_calculate_with_modules_of_their_own_network(how):
    model, x = Lambdas(how).eval(), torch.randn(2, 3, 10, 10)
    space = Space.trace(model, x[:1], divisor=2)
    half = space.uniform(0.5)
    assert len(space.groups) == 1 and verify(model, space, half, x) < 1e-5
    network = build(model, space, half)
    network(x).sum().backward()
    used = {name for name, one in network.named_parameters() if one.grad is not None}
    assert {"first.weight", "head.weight"} <= used and ("norm.weight" in used) == (how != "attribute")
    assert all(one.grad is None for one in model.parameters())


def test_a_copy_of_a_copy_and_a_function_without_a_cell():
    model = Lambdas("nested")
    model.twice = lambda x: 2 * x
    other = copied(copied(model))
    assert other.twice is model.twice, "it closes over nothing"
    assert other.last.__closure__[0].cell_contents is other and model.last.__closure__[0].cell_contents is model


def test_what_functions_share_they_go_on_sharing():
    model = Lambdas("shared")
    count = 0

    def up():
        nonlocal count
        count += 1
        return model, count

    model.up, model.counted = up, lambda: (model, count)
    other = copied(model)
    assert other.steps[0] is other.steps[1] is not model.steps[0]
    assert other.up() == (other, 1) and other.counted() == (other, 1) and model.counted() == (model, 1)
