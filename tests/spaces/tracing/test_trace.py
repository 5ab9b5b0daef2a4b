"""What tracing finds beyond channels: plain blocks that may go, the sides a network takes, very deep networks."""

import pytest
import torch
import torch.nn.functional as F
from networks import Plain, UNet, image
from torch import nn

from secateur import Space, build, verify


class Plainly(nn.Module):
    """Blocks without a shortcut: two keep the shape, one does not."""

    def __init__(self, c=8):
        super().__init__()
        self.stem = nn.Conv2d(3, c, 3, padding=1)
        self.body = nn.Sequential(*[nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.ReLU()) for _ in range(2)])
        self.wide, self.head = nn.Conv2d(c, 2 * c, 3, stride=2), nn.Linear(2 * c, 3)

    def forward(self, x):
        return self.head(F.relu(self.wide(self.body(F.relu(self.stem(x))))).mean((2, 3)))


def plainly():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Plainly().double().eval()


def test_plain_blocks_may_go_where_the_user_says_so():
    model, x = plainly(), image(2, 3, 9, 9).double()
    assert not Space.trace(model, x, divisor=2).stages
    space = Space.trace(model, x, divisor=2, plain_blocks=["body.0", "body.1"])
    assert [stage.blocks for stage in space.stages] == [("body.0", "body.1")]
    [tied] = [group for group in space.groups if "stem" in group.members]
    assert set(tied.members) == {"stem", "body.0.0", "body.1.0"}  # what goes in comes out where a block is gone
    for candidate in [space.smallest, *space.sample(6)]:
        assert verify(model, space, candidate, x) < 1e-10
    none = build(model, space, space.uniform(depth=0))
    assert isinstance(none.body[0], nn.Identity) and isinstance(none.body[1], nn.Identity)
    again = Space.from_settings(model, space.settings)
    assert again.fingerprint == space.fingerprint


@pytest.mark.parametrize("name, message", [("wide", "another shape"), ("nobody", "no module")])
def test_a_plain_block_that_cannot_go_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        Space.trace(plainly(), image(2, 3, 9, 9).double(), plain_blocks=[name])


class Deep(nn.Module):
    """U-Net levels need sides that are multiples of four."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 1, 1)

    def forward(self, x):
        x = self.a(x)
        y = F.interpolate(self.b(F.max_pool2d(x, 4)), scale_factor=4)
        return self.c(torch.cat([x, y], 1))


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 8 * 8, 2)

    def forward(self, x):
        return self.fc(self.a(x).flatten(1))


@pytest.mark.parametrize(
    "make, side, multiple",
    [(Plain, 12, 1), (lambda: UNet(2), 8, 2), (Deep, 16, 4), (Fixed, 8, 0)],
    ids=["any", "even", "fours", "fixed"],
)
def test_sides_that_a_network_takes(make, side, multiple):
    channels = 3 if make is Plain else 1
    space = Space.trace(make().eval(), image(1, channels, side, side), divisor=2)
    assert space.side_multiple == multiple


class Folding(nn.Module):
    """Written for a side of six: at twelve it takes four parts of an image for four examples, and nothing raises."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 4, 1), nn.Linear(144, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(F.relu(self.b(self.a(x).reshape(-1, 144))))


def test_a_side_at_which_positions_become_examples_is_refused():
    with pytest.raises(ValueError, match="cannot take the resolution 12x12: its output has 8 rows for 2 examples"):
        Space.trace(Folding(), image(2, 3, 6, 6), resolutions=(6, 12))


class Products(nn.Module):
    """Channels of a product of activations are summed over; where `how` leaves them zero they may go, else not."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.a, self.b, self.gate, self.head = (
            nn.Conv2d(3, 8, 1),
            nn.Conv2d(3, 8, 1),
            nn.Conv2d(3, 1, 1),
            nn.Linear(9, 2),
        )

    def forward(self, x):
        a, b = self.a(x), torch.sigmoid(self.b(x))
        if self.how == "gate over sigmoid":
            a = torch.sigmoid(a) * self.gate(x)
        elif self.how == "map added":
            a = a + self.gate(x)
        elif self.how == "map divided":
            a = self.gate(x) / torch.cosh(a)
        elif self.how == "written over":
            a.add_(1)
        elif self.how == "gated":
            a = torch.relu(a) * torch.sigmoid(self.gate(x))
        return self.head(torch.einsum("nchw,nckl->nhwkl", a, b).mean((3, 4)).flatten(1))


@pytest.mark.parametrize("how", ["gate over sigmoid", "map added", "map divided", "written over", "gated", "plain"])
def test_channels_that_are_summed_over_go_only_where_they_are_zero(how):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Products(how).double().eval()
    x = image(2, 3, 3, 3).double()
    space = Space.trace(model, x, divisor=1)
    assert bool(space.groups) == (how in ("gated", "plain")), space.frozen
    for candidate in space.sample(4):
        assert verify(model, space, candidate, x) < 1e-10


class Keeping(nn.Module):
    """Its forward keeps tensors in a list and in an attribute, as heads of deep supervision do."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.heads = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1), [torch.rand(1)]

    def forward(self, x):
        self.last = self.heads[0] = self.b(F.relu(self.a(x)))
        return self.heads[0]


@pytest.mark.parametrize("ran", [False, True])
def test_what_a_forward_keeps_is_put_back(ran):
    model, x = Keeping().double().eval(), image(2, 3, 4, 4).double()
    if ran:
        model(x)
    before, names = model.heads[0], set(vars(model))
    space = Space.trace(model, x, divisor=1)
    assert model.heads[0] is before and set(vars(model)) == names
    assert [group.name for group in space.groups] == ["a"]
    assert verify(model, space, space.uniform(0.5), x) < 1e-10


class Step(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 1)

    def forward(self, x):
        return x + F.relu(self.conv(x))


def test_a_network_of_three_hundred_blocks():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), *[Step(4) for _ in range(300)], nn.Conv2d(4, 2, 1)).double().eval()
    for block in model[1:-1]:
        nn.init.normal_(block.conv.weight, std=0.05)
    x = image(1, 3, 2, 2).double()
    space = Space.trace(model, x, divisor=1)
    assert len(space.groups) == 1 and [len(stage.blocks) for stage in space.stages] == [300]
    assert verify(model, space, space.uniform(0.5, depth=0.3), x) < 1e-10


class Data(nn.Module):
    """Reads `.data` in its forward, as the zero-padded shortcut of several libraries does."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.a(x)
        return self.b(torch.cat([F.relu(x).data[:, :4], x[:, 4:]], 1))


def test_data_of_a_tensor_is_followed():
    model, x = Data().double().eval(), image(1, 3, 4, 4).double()
    space = Space.trace(model, x, divisor=1, as_graph=True)
    assert [group.name for group in space.groups] == ["a", "a#2"] or [group.name for group in space.groups] == ["a"]
    for candidate in space.sample(4):
        assert verify(model, space, candidate, x) < 1e-10


@pytest.mark.parametrize(
    ("example", "said"),
    [
        (
            torch.rand(1, 1, 8, 8),
            r"Conv2d does not take a batch of 2 made of example_inputs, \(2, 1, 8, 8\): RuntimeError",
        ),
        (torch.rand(3, 8, 8), r"made of example_inputs, \(2, 8, 8\): .*the batch first: \(1, channels, \*sides\)$"),
    ],
)
def test_an_example_that_the_network_does_not_take(example, said):
    with pytest.raises(ValueError, match=said):
        Space.trace(nn.Conv2d(3, 8, 1), example)


class Residual(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), activation, nn.Conv2d(12, 8, 1))

    def forward(self, x):
        return x + self.body(x)


def called(layers, x):
    return layers[-1](layers[:-1](x))


def iterated(layers, x):
    for layer in layers[:-1]:
        x = layer(x)
    return layers[-1](x)


def backwards(layers, x):
    x = layers[0](x)
    for layer in reversed(layers[1:-1]):
        x = layer(x)
    return layers[-1](x)


def sliced_twice(layers, x):
    x = layers[0](x)
    for part in (layers[1:][:2], layers[1:-1][2:]):
        for layer in part:
            x = layer(x)
    return layers[-1](x)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kind", [nn.ModuleList, nn.Sequential])
@pytest.mark.parametrize("how", [called, iterated, backwards, sliced_twice])
def test_layers_of_a_slice_keep_their_names(how, kind, shared):
    """Where a module has several names, export has names of its own for what is taken out of a slice."""
    if kind is nn.ModuleList and how is called:
        pytest.skip("a ModuleList is not called")
    one = nn.SiLU()
    layers = [nn.Conv2d(3, 8, 3), *(Residual(one if shared else nn.SiLU()) for _ in range(4)), nn.Conv2d(8, 2, 1)]

    class Sliced(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = kind(layers) if kind is nn.ModuleList else kind(*layers)

        def forward(self, x):
            return how(self.layers, x)

    model, x = Sliced().double().eval(), image(2, 3, 8, 8).double()
    space = Space.trace(model, x, divisor=4)
    names = ["layers.1", "layers.2", "layers.3", "layers.4"]
    assert sorted(space.stages[0].blocks) == names and len(space.stages) == 1
    assert {group.name for group in space.groups} == {"layers.0", *(f"{name}.body.0" for name in names)}
    assert verify(model, space, space.uniform(0.5, depth=0.5), x) < 1e-12


class Shared(nn.Module):
    """An encoder that hangs at a second place, a parameter and a layer that nothing reads."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3))
        self.decoder = nn.Module()
        self.decoder.encoder, self.decoder.out = self.encoder, nn.Conv2d(16, 4, 1)
        self.decoder.token, self.spare = nn.Parameter(torch.zeros(8)), nn.Linear(4, 4)
        self.top = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return self.decoder.out(self.encoder(x))


def test_what_is_not_used_is_named_and_nothing_else():
    frozen = Space.trace(Shared().eval(), image(1, 3, 8, 8)).frozen
    unused = [name for name, reason in frozen.items() if reason == "the forward does not use it"]
    assert unused == ["decoder.token", "spare", "top"]


def test_a_side_is_not_claimed_that_was_not_tried():
    """Two strides bring sides of 13 to 16 to four, which the linear layer takes; twelve is refused."""
    strided = nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.Flatten(), nn.Linear(128, 4)
    )
    space = Space.trace(strided.eval(), image(1, 1, 16, 16))
    assert space.side_multiple == 0 and "no regular steps below it" in str(space)
    with pytest.raises(ValueError, match="cannot take the resolution 12x12"):
        Space.trace(strided, image(1, 1, 16, 16), resolutions=(16, 12))


class Positions(nn.Module):
    """Tables of which only a layer reads the features: one is projected and added, one is concatenated."""

    def __init__(self):
        super().__init__()
        self.stem, self.table, self.project = nn.Conv2d(3, 8, 1), nn.Parameter(torch.rand(16, 12)), nn.Linear(12, 8)
        self.register_buffer("waves", torch.rand(16, 6))
        self.join, self.head = nn.Linear(14, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x).flatten(2).mT + self.project(self.table)
        return self.head(F.relu(self.join(torch.cat([x, self.waves.expand(len(x), -1, -1)], -1))).mean(1))


def test_a_table_that_a_layer_reads_is_a_width_or_is_named():
    model, x = Positions().double().eval(), image(2, 3, 4, 4).double()
    space = Space.trace(model, x, divisor=2)
    assert {group.name: group.units for group in space.groups} == {"stem": 8, "table": 12, "waves": 6, "join": 8}
    assert space.frozen.keys() == {"head"}
    for candidate in [space.smallest, *space.sample(3)]:
        assert verify(model, space, candidate, x) < 1e-10
    frozen = Space.trace(model, x, divisor=2, ignore=["project"]).frozen
    assert frozen["table"] == "it is named in ignore" and "waves" not in frozen
