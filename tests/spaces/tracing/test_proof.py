"""The proof at the end of a trace: it finds what shapes cannot tell, freezes that alone, and says what it saw."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from networks import image
from torch import nn

from secateur import Space, build, verify
from secateur.spaces.channels import rules
from secateur.spaces.tracing import proof
from secateur.spaces.tracing.proof import REASON


class Mixing(nn.Module):
    """A softmax over the channels of `a`, which must not be cut; `b` and `c` follow."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.c, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        y = self.a(F.relu(self.stem(x))).softmax(1)
        return self.head(self.c(F.relu(self.b(y))).mean((2, 3)))


@pytest.fixture
def a_wrong_rule(monkeypatch):
    """Softmax as if it worked channel by channel: shapes are right, numbers are not."""
    wrong = rules._RULES["relu"] if "relu" in rules._RULES else rules.elementwise
    for name in ("softmax", "_softmax", "aten.softmax", "aten._softmax"):
        if name in rules._RULES:
            monkeypatch.setitem(rules._RULES, name, wrong)


@pytest.mark.usefixtures("a_wrong_rule")
@pytest.mark.parametrize("as_graph", [False, True])
def test_a_group_that_gives_other_numbers_is_frozen_and_no_other(as_graph):
    model, example = Mixing().eval(), image(1, 3, 8, 8)
    blind = Space.trace(model, example, divisor=2, as_graph=as_graph, prove=False)
    assert {group.name for group in blind.groups} == {"stem", "a", "b", "c"} and "without" in blind.proof
    assert verify(model, blind, blind.smallest, example) > 1e-3
    space = Space.trace(model, example, divisor=2, as_graph=as_graph)
    assert {group.name for group in space.groups} == {"stem", "b", "c"}
    assert space.frozen["a"] == REASON and REASON in " ".join(str(space).split())
    assert verify(model, space, space.smallest, example) < 1e-4
    assert "3 of 3 groups" in space.proof and "2 candidates" in space.proof


class Dead(Mixing):
    """Its outputs are all negative, so a last ReLU gives zeros whatever is cut."""

    def forward(self, x):
        return F.relu(super().forward(x) - 3)


@pytest.mark.usefixtures("a_wrong_rule")
def test_what_is_wrong_behind_a_dead_activation_is_found_as_well():
    model, example = Dead().eval(), image(1, 3, 8, 8)
    assert not model(example).any()
    blind = Space.trace(model, example, divisor=2, prove=False)
    assert verify(model, blind, blind.smallest, example) > 1e-3
    space = Space.trace(model, example, divisor=2)
    assert space.frozen["a"] == REASON and "3 of 3 groups" in space.proof
    found = verify(model, space, space.smallest, example)
    assert found.reached == 3 and found < 1e-5


class Fading(Mixing):
    """Many norms that have seen no data, whose running variance of one lets what comes before fade away."""

    def __init__(self):
        super().__init__()
        layers = [nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()) for _ in range(8)]
        for convolution, *_ in layers:
            convolution.weight.data *= 0.1
        self.c = nn.Sequential(self.c, *layers)


@pytest.mark.usefixtures("a_wrong_rule")
def test_what_is_wrong_far_from_the_outputs_of_an_untrained_network_is_found_as_well():
    model, example = Fading().eval(), image(1, 3, 8, 8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    space = Space.trace(model, example, divisor=2)
    assert space.frozen["a"] == REASON and "11 of 11 groups" in space.proof
    blind = Space.trace(model, example, divisor=2, prove=False)
    errors = [verify(model, one, one.check((6,) * len(one.axes)), example) for one in (blind, space)]
    assert errors[0] > 1e-3 > errors[1] and errors[1].reached == 11
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class Scaled(Mixing):
    """A branch that begins with a scale of 1e-6 a channel, as ConvNeXt's do, around what must not be cut."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.full((8, 1, 1), 1e-6))

    def forward(self, x):
        y = F.relu(self.stem(x))
        y = y + self.scale * self.b(self.a(y).softmax(1))
        return self.head(self.c(y).mean((2, 3)))


@pytest.mark.usefixtures("a_wrong_rule")
def test_what_is_wrong_in_a_branch_that_hardly_counts_yet_is_found_as_well():
    model, example = Scaled().eval(), image(1, 3, 8, 8)
    space = Space.trace(model, example, divisor=2)
    assert space.frozen["a"] == REASON and len(space.groups) == 2 and "2 of 2 groups" in space.proof
    assert bool((model.scale == 1e-6).all())


class Grouped(nn.Module):
    """At half of its side each group of the norm has one value where one of its two channels goes, which it refuses."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 16, 16), nn.Conv2d(16, 4, 1)

    def forward(self, x):
        return self.b(F.relu(F.group_norm(self.a(x), 8)))


def test_a_side_at_which_a_built_network_does_not_run_tells_of_that_side_alone():
    space = Space.trace(Grouped().eval(), image(1, 3, 32, 32), divisor=1)
    assert [group.name for group in space.groups] == ["a"] and "1 of 1 groups" in space.proof


class Faint(nn.Module):
    """What `b` gives hardly counts."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
        self.ahead, self.behind = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.ahead(F.relu(self.a(x))) + 1e-10 * self.behind(F.relu(self.b(x)))


def test_what_rounding_hides_reaches_no_output():
    model, example = Faint().eval(), image(1, 3, 8, 8)
    space = Space.trace(model, example, divisor=2)
    assert "1 of 2 groups" in space.proof
    assert verify(model, space, space.smallest, example).reached == 1
    assert verify(model.double(), space, space.smallest, example.double()).reached == 2


@pytest.mark.usefixtures("a_wrong_rule")
def test_the_same_is_frozen_when_the_settings_are_traced_again():
    model, example = Mixing().eval(), image(1, 3, 8, 8)
    space = Space.trace(model, example, divisor=2)
    model.head.weight.data.fill_(float("nan"))  # nothing could be compared now
    again = Space.from_settings(model, space.settings)
    assert again.fingerprint == space.fingerprint and again.frozen == space.frozen and again.proof == space.proof


def test_a_proof_that_finds_nothing_changes_no_fingerprint():
    model, example = Mixing().eval(), image(1, 3, 8, 8)
    proven, blind = (Space.trace(model, example, divisor=2, prove=prove) for prove in (True, False))
    assert proven.fingerprint == blind.fingerprint and "proof" not in blind.settings


@dataclasses.dataclass
class Answer:
    """What some networks give."""

    scores: torch.Tensor
    best: torch.Tensor


@torch.library.custom_op("secateur_tests::noise", mutates_args=())
def _noise(like: torch.Tensor) -> torch.Tensor:
    return torch.rand_like(like)


_noise.register_fake(torch.empty_like)


class Head(nn.Module):
    """Any last step behind a network whose channels follow."""

    def __init__(self, last):
        super().__init__()
        self.a, self.b, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), last

    def forward(self, x):
        return self.last(self.b(F.relu(self.a(x))).mean((2, 3)))


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (lambda y: y + _noise(y), "not proven: the forward gives other numbers each time"),
        (lambda y: y + torch.rand_like(y), "1 of 1 groups"),
        (lambda y: y.argmax(1), "not proven: no output holds floating numbers"),
        (lambda y: y > 0, "not proven: no output holds floating numbers"),
        (lambda y: (y - y) / (y - y), "not proven: outputs are not finite"),
        (lambda y: y * 0, "not proven: no output reacts"),
        (lambda y: y - y.mean(1, keepdim=True), "1 of 1 groups"),
        (lambda y: F.layer_norm(y, (4,)), "1 of 1 groups"),
        (lambda y: y.softmax(1), "1 of 1 groups"),
        (lambda y: y.sum(), "1 of 1 groups"),
        (lambda y: F.relu(y - 1e3), "1 of 1 groups"),
        (lambda y: F.relu(y - 1e3, inplace=True), "1 of 1 groups"),
        (lambda y: (y - 1e3).clamp_(min=0), "1 of 1 groups"),
        (lambda y: F.hardtanh(input=y - 1e3), "1 of 1 groups"),
        (lambda y: y.detach(), "outputs have no gradient"),
        (lambda y: {"y": [Answer(y, y.argmax(1))], "none": None}, "1 of 1 groups"),
        (lambda y: torch.complex(y, y), "1 of 1 groups"),
        (lambda y: y + torch.eye(4, dtype=torch.float32) @ torch.ones(4), "1 of 1 groups"),
        (lambda y: y @ torch.eye(4, dtype=torch.float32), "in the dtype of the model"),
    ],
)
def test_what_cannot_be_compared_is_said(last, said):
    model = Head(last).eval()
    state = torch.get_rng_state()
    space = Space.trace(model, image(1, 3, 8, 8), divisor=2)
    assert said in space.proof
    assert [group.name for group in space.groups] == ["a"]
    assert torch.equal(torch.get_rng_state(), state)


class Sampled(nn.Module):
    """A variational autoencoder: its latents are channels, and drawn."""

    def __init__(self):
        super().__init__()
        self.encode, self.mean, self.spread = nn.Linear(12, 16), nn.Linear(16, 8), nn.Linear(16, 8)
        self.decode, self.out = nn.Linear(8, 16), nn.Linear(16, 12)

    def forward(self, x):
        seen = self.encode(x).relu()
        mean, spread = self.mean(seen), self.spread(seen)
        latent = torch.distributions.Normal(mean, spread.exp(), validate_args=False).rsample()
        return self.out(self.decode(latent + 0.1 * torch.randn_like(mean)).relu())


class SomeTokens(nn.Module):
    """Some tokens are drawn and kept, as masked autoencoders do."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.head = nn.Linear(5, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x):
        x = self.embed(x)
        order = torch.rand(x.shape[:2], dtype=x.dtype, device=x.device).argsort(1)[:, :4]
        x = x.gather(1, order[..., None].expand(-1, -1, x.shape[2]))
        return self.head(self.mix(x[:, torch.randperm(4)]).relu())


@pytest.mark.parametrize(("make", "shape", "groups"), [(Sampled, (2, 12), 3), (SomeTokens, (2, 6, 5), 2)])
def test_networks_that_draw_are_proven_and_verified(make, shape, groups):
    torch.manual_seed(0)
    model, x = make().eval(), torch.rand(shape)
    state = torch.get_rng_state()
    space = Space.trace(model, x, divisor=1)
    assert len(space.groups) == groups and f"{groups} of {groups} groups" in space.proof
    for candidate in space.sample(4, seed=1):
        assert verify(model.double(), space, candidate, x.double()) < 1e-12
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_that_runs_on_no_numbers_is_traced_all_the_same():
    class Refusing(Head):
        def forward(self, x):
            if not torch.compiler.is_compiling() and type(x) is torch.Tensor and x.device.type == "cpu":
                raise RuntimeError("no kernel on this machine")
            return super().forward(x)

    space = Space.trace(Refusing(nn.Identity()).eval(), image(1, 3, 8, 8), divisor=2)
    assert space.proof == "not proven: the network does not run: no kernel on this machine" and len(space.groups) == 1


def test_a_wrong_answer_to_whether_to_prove_is_refused():
    with pytest.raises(TypeError, match="prove='yes': expected True or False"):
        Space.trace(Head(nn.Identity()), image(1, 3, 8, 8), prove="yes")


def test_the_proof_leaves_the_model_alone():
    model, example = Head(nn.Identity()).train(), image(1, 3, 8, 8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    space = Space.trace(model, example, divisor=2)
    assert model.training and all(torch.equal(before[name], one) for name, one in model.state_dict().items())
    assert all(one.grad is None and one.requires_grad for one in model.parameters())
    build(model, space, space.smallest)


class Masked(nn.Module):
    """Blocks that take a mask beside their stream."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.blocks = nn.ModuleList(MaskedBlock() for _ in range(3))

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x, None)
        return self.last(x)


class MaskedBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x, mask):
        return x + self.conv2(torch.relu(self.conv1(x))) * (1 if mask is None else mask)


def test_graphs_without_blocks_that_take_a_mask_are_proven():
    model, x = Masked().double().eval(), torch.rand(2, 3, 4, 4).double()
    space = Space.trace(model, x[:1], divisor=1, as_graph=True)
    assert space.stages and "candidates built give what" in space.proof
    assert verify(model, space, space.smallest, x) <= 1e-12


class Steps(nn.Module):
    """A recurrent layer over the first axis, or over the second one."""

    def __init__(self, batch_first):
        super().__init__()
        self.embed, self.out = nn.Linear(6, 12), nn.Linear(8, 5)
        self.steps = nn.LSTM(12, 8, batch_first=batch_first)

    def forward(self, x):
        return self.out(self.steps(self.embed(x))[0])


class Graph(nn.Module):
    """Nodes that their edges name: rows are no examples."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x, edges):
        h = self.a(x).relu()
        return self.b(torch.zeros_like(h).index_add(0, edges[1], h[edges[0]]))


class Bank(nn.Module):
    """Examples held against prototypes, of which there is another number."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 32), nn.Linear(8, 32)

    def forward(self, x, bank):
        return self.a(x) @ self.b(bank).T


EDGES = torch.tensor([[0, 1, 2, 5], [1, 2, 3, 4]])


@pytest.mark.parametrize(
    ("model", "inputs", "mixed"),
    [
        (Steps(False), (torch.rand(10, 1, 6),), True),
        (Steps(False), (torch.rand(1, 1, 6),), True),
        (Steps(True), (torch.rand(1, 10, 6),), False),
        (Steps(True), (torch.rand(4, 10, 6),), False),
        (Graph(), (torch.rand(6, 8), EDGES), True),
        (Bank(), (torch.rand(1, 8), torch.rand(7, 8)), False),
        (Bank(), (torch.rand(3, 8), torch.rand(7, 8)), False),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)), (torch.rand(1, 3, 8, 8),), False),
    ],
)
def test_a_first_axis_that_is_no_batch_is_said(model, inputs, mixed):
    space = Space.trace(model.eval(), inputs)
    assert ("first axis of the inputs" in space.frozen) == mixed
    again = Space.trace(model, inputs, prove=space.settings["proof"])
    assert again.frozen == space.frozen


def test_what_is_the_same_for_every_example_costs_its_whole():
    space = Space.trace(Bank(), (torch.rand(1, 8), torch.rand(7, 8)), divisor=1)
    assert float(space.costs([space.full]).macs[0]) == 8 * 32 + 7 * 8 * 32 + 32 * 7
    assert [tuple(one.shape) for one in space.example(space.full, batch=3)] == [(3, 8), (7, 8)]


def test_small_inputs_are_proven_at_half_their_side_and_large_ones_at_a_quarter():
    assert proof._cheapest((), [(224, 224)], 1)[0] == (56, 56)
    assert proof._cheapest((), [(64, 48)], 4)[0] == (32, 24)
    assert proof._cheapest((), [(32, 32)], 8)[0] == (16, 16)
    assert proof._cheapest((), [(12, 12)], 1)[0] == (12, 12)  # too little is left of less
    assert proof._cheapest((), [(32, 32)], 0)[0] == (32, 32)
