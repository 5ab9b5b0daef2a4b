"""The length of a sequence of tokens as a resolution: an axis, its costs, and what follows it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from secateur.spaces import Candidate, Space, build, verify


class Tagger(nn.Module):
    """Attention over the tokens that a mask keeps; one answer a sequence."""

    def __init__(self, words=20, length=12, width=16, heads=4):
        super().__init__()
        self.words, self.places, self.num_heads = nn.Embedding(words, width), nn.Embedding(length, width), heads
        self.qkv, self.proj, self.head = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, tokens, mask=None):
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        n, s, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, s, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v, None if mask is None else mask[:, None, None, :])
        x = x + self.proj(attended.transpose(1, 2).flatten(2))
        return self.head(x.mean(1))


def tokens(length=12):
    return torch.arange(length)[None] % 20


def test_lengths_are_an_axis_and_costs_are_those_of_the_length():
    model = Tagger().eval()
    space = Space.trace(model, tokens(), resolutions=(12, 8, 5), divisor=4)
    assert [axis.name for axis in space.axes][-1] == "resolution" and space.resolutions == ((5,), (8,), (12,))
    for number, (length,) in enumerate(space.resolutions):
        candidate = Candidate([*space.smallest[:-1], number])
        (example,) = space.example(candidate, batch=2)
        assert example.shape == (2, length) and example.dtype == torch.int64
        small = build(model, space, candidate)
        assert small(example).shape == (2, 3)
        with FlopCounterMode(display=False) as counter:
            small.to("meta")(example[:1].to("meta"))
        assert 2 * space.cost_table([candidate])["macs"][0] == counter.get_total_flops()
    assert torch.equal(build(model, space, space.full)(tokens(5)), model(tokens(5)))


class Texts(nn.Module):
    """Convolutions over tokens, of any length: one export stands for all of them."""

    def __init__(self):
        super().__init__()
        self.words, self.near, self.head = nn.Embedding(20, 8), nn.Conv1d(8, 12, 3, padding=1), nn.Linear(12, 3)

    def forward(self, tokens):
        return self.head(F.relu(self.near(self.words(tokens).transpose(1, 2))).mean(2))


@pytest.mark.parametrize("as_graph", [False, True])
def test_a_free_length_is_no_number_of_examples(as_graph):
    model = Texts().eval()
    space = Space.trace(model, tokens(), resolutions=(12, 6), divisor=1, as_graph=as_graph)
    for number, (length,) in enumerate(space.resolutions):
        candidate = Candidate([*space.uniform(0.5)[:-1], number])
        small = build(model, space, candidate)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            assert small(tokens(length).expand(5, -1)).shape == (5, 3)
        assert 2 * 5 * space.cost_table([candidate])["macs"][0] == counter.get_total_flops()
    assert verify(model, space, space.uniform(0.5), tokens().expand(5, -1)) < 1e-5


def test_a_mask_of_the_same_length_follows():
    example = {"tokens": tokens(), "mask": torch.ones(1, 12, dtype=torch.bool)}
    space = Space.trace(Tagger().eval(), example, resolutions=(12, 6), divisor=4)
    assert [tuple(one.shape) for one in space.example(space.smallest)] == [(1, 6), (1, 6)]
    assert Space.from_settings(Tagger().eval(), space.settings).resolutions == space.resolutions


def test_without_resolutions_tokens_have_no_side():
    space = Space.trace(Tagger().eval(), tokens(), divisor=4)
    assert space.resolutions == () and space.side(space.full) == ()


@pytest.mark.parametrize(
    ("example", "resolutions", "said"),
    [
        (tokens(), (24,), "24 is longer than the example, 12 tokens"),
        (tokens(), ((6, 6),), "expected a positive integer or 1 of them"),
        (torch.rand(1, 12), (6,), "no example input has spatial axes .*, nor tokens"),
    ],
)
def test_what_is_no_length_is_refused(example, resolutions, said):
    with pytest.raises(ValueError, match=said):
        Space.trace(Tagger().eval(), example, resolutions=resolutions)
