"""A smaller network whose layers are solved again, beside the full one."""

import copy
import math
from dataclasses import replace

import networks
import pytest
import torch
import torch.nn.functional as F
from pairs import quick_in
from torch import nn

import secateur as sc
from secateur.evaluators import Origin, Reconstruction, Reconstructor, reconstruct
from secateur.evaluators.reconstruction.layers import Solving
from secateur.evaluators.reconstruction.pictures import given
from secateur.evaluators.reconstruction.targets import observed, with_one_rise
from secateur.spaces import channel_map


class Tokens(nn.Module):
    """Attention whose projections are linear layers, and one that is packed."""

    def __init__(self, c=8, heads=2):
        super().__init__()
        self.embed, self.heads = nn.Linear(3, c), heads
        self.q, self.k, self.v, self.out = (nn.Linear(c, c) for _ in range(4))
        self.up, self.down, self.head = nn.Linear(c, 2 * c), nn.Linear(2 * c, c), nn.Linear(c, 5)

    def forward(self, x):
        x = self.embed(x)
        q, k, v = (one(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for one in (self.q, self.k, self.v))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.head((x + self.down(F.gelu(self.up(x)))).mean(1))


class Parametrised(nn.Module):
    """A weight that is computed for every call, one that multiplies, and a layer that can be solved."""

    def __init__(self, c=8):
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, c, 3, padding=1))
        self.second, self.last = nn.Conv2d(c, c, 3, padding=1), nn.Conv2d(c, 3, 1)

    def forward(self, x):
        return self.last(F.relu(self.second(F.relu(self.first(x)))))


class Split(nn.Module):
    """Takes two inputs by name and gives two tensors by name."""

    def __init__(self, c=8):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, c, 3), nn.Linear(4, c), nn.Linear(c, 3)

    def forward(self, *, picture, vector):
        x = F.relu(self.a(picture)).mean((2, 3)) + F.relu(self.b(vector))
        return {"classes": self.c(x), "length": self.c(x).square().sum(1)}


NETWORKS = {
    "plain": (networks.Plain, (3, 8, 8)),
    "residual": (networks.Residual, (3, 8, 8)),
    "1d": (networks.Residual1d, (3, 12)),
    "3d": (networks.Residual3d, (3, 6, 6, 6)),
    "depthwise": (networks.Mobile, (3, 8, 8)),
    "grouped": (networks.Grouped, (3, 6, 6)),
    "shuffled": (networks.Shuffled, (3, 6, 6)),
    "transposed": (networks.UNet, (1, 8, 8)),
    "transposed 3d": (lambda: networks.UNet(3), (1, 4, 4, 4)),
    "shared": (networks.Shared, (3, 6, 6)),
    "norms before": (networks.Dense, (3, 6, 6)),
    "attention": (Tokens, (6, 3)),
    "attention of PyTorch": (
        lambda: nn.Sequential(
            nn.Linear(3, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Flatten(), nn.Linear(48, 5)
        ),
        (6, 3),
    ),
}


def made(name, n=96, width=0.5, **options):
    """A trained-looking network in double, its space, a smaller network, and pictures."""
    build, shape = NETWORKS[name]
    model, x = build().double().eval(), torch.randn(n, *shape).double()
    with torch.no_grad():
        model.train()(x)  # statistics of its norms are those of the pictures
    space = sc.Space.trace(model.eval(), x[:1], divisor=1, rules={"*": {"depth": False}}, **options)
    candidate = space.uniform(width=width)
    return model, space, candidate, sc.build(model, space, candidate), x


def asked(model, space, candidate, small, x, **changes):
    return {"model": model, "space": space, "candidate": candidate, "images": x} | changes


@pytest.mark.parametrize("name", NETWORKS)
def test_it_comes_nearer_to_the_full_network(name):
    model, space, candidate, small, x = made(name)
    kept, full = copy.deepcopy(small), copy.deepcopy(model)
    found = reconstruct(small, **asked(model, space, candidate, small, x))
    fresh = torch.randn(300, *x.shape[1:]).double()
    with torch.no_grad():
        gaps = [float((one(fresh) - model(fresh)).square().mean()) for one in (small, kept)]
    assert found.solved and gaps[0] < gaps[1] and found.error < found.error_before
    assert all(one.after < one.before for one in found.solved.values())
    for one, other in zip(model.state_dict().values(), full.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    layers = {layer.name for layer in space.layers}
    assert set(found.solved) | set(found.left) == layers and not set(found.solved) & set(found.left)


@pytest.mark.parametrize(("name", "as_graph"), quick_in(1 / 2, NETWORKS, [False, True]))
def test_with_all_channels_kept_nothing_changes(name, as_graph):
    model, space, _, _, x = made(name, as_graph=as_graph)
    small = sc.build(model, space, space.full)
    kept = copy.deepcopy(small.state_dict())
    found = reconstruct(small, **asked(model, space, space.full, small, x))
    assert not found.solved and found.error < 1e-20 and found.left
    for tensor, other in zip(small.state_dict().values(), kept.values(), strict=True):
        torch.testing.assert_close(tensor, other, rtol=0, atol=1e-10)


def test_networks_that_are_graphs():
    model, space, candidate, small, x = made("residual", as_graph=True)
    plain_space = sc.Space.trace(model, x[:1], divisor=1, rules={"*": {"depth": False}})
    other = sc.build(model, plain_space, candidate)
    found = [
        reconstruct(one, **asked(model, where, candidate, one, x))
        for one, where in ((small, space), (other, plain_space))
    ]
    assert found[0].solved.keys() == found[1].solved.keys()
    with torch.no_grad():
        torch.testing.assert_close(small(x), other(x))


def duplicated():
    """A network whose channels 4 to 7 behind the activation are sums of channels 0 to 3, and scores that keep these."""
    model = networks.Plain(8).double().eval()
    with torch.no_grad():
        model.conv1.weight[4:] = 2 * model.conv1.weight[:4]
        for tensor in (model.bn1.running_mean, model.bn1.bias):
            tensor.uniform_(-0.2, 0.2)
            tensor[4:] = 2 * tensor[:4]
        model.bn1.running_var[4:] = model.bn1.running_var[:4]
    space = sc.Space.trace(model, torch.randn(1, 3, 8, 8).double(), divisor=1)
    scores = {name: torch.ones_like(one) for name, one in space.default_scores.items()}
    scores["conv1"][4:] = 0
    widths = {axis.name: axis.choices[-1] for axis in space.axes} | {"width:conv1": 4}
    candidate = space.check([widths[axis.name] for axis in space.axes])
    return model, space, candidate, scores


def test_channels_that_are_multiples_of_others_can_go():
    # the norm divides by sqrt(var + eps), alike for both; ReLU(2 x) = 2 ReLU(x): conv2 takes them over exactly
    model, space, candidate, scores = duplicated()
    small, x = sc.build(model, space, candidate, scores), torch.randn(96, 3, 8, 8).double()
    with torch.no_grad():
        assert float((small(x) - model(x)).abs().max()) > 1e-2
    found = reconstruct(small, **asked(model, space, candidate, small, x, scores=scores, ridge=1e-12))
    assert "conv2" in found.solved and "conv1" in found.left
    with torch.no_grad():
        torch.testing.assert_close(small(x), model(x), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_the_optimum_of_an_independent_solver(bias):
    """By numpy, from unfolded patches at all places; the intercept in the bias, or in the norm behind."""
    model, x = nn.Sequential(nn.Conv2d(2, 6, 1), nn.Sigmoid(), nn.Conv2d(6, 3, 3, padding=1, bias=bias)), None
    model = nn.Sequential(*model, *([] if bias else [nn.BatchNorm2d(3)]), nn.ReLU(), nn.Conv2d(3, 2, 1)).double().eval()
    space = sc.Space.trace(model, torch.randn(1, 2, 5, 5).double(), divisor=1)
    candidate = space.check([{"width:0": 3}.get(axis.name, axis.choices[-1]) for axis in space.axes])
    small, x = sc.build(model, space, candidate), torch.randn(64, 2, 5, 5).double()
    inherited = small[2].weight.detach().clone()
    found = reconstruct(small, **asked(model, space, candidate, small, x, ridge=0.0))
    assert "2" in found.solved
    pictures = given(small, space, candidate, x, most=1024, memory=2**31)
    solved_on = torch.cat([batch[0] for n, batch in enumerate(pictures.batches) if not pictures.held_out(n)])
    assert len(solved_on) == found.pictures == 56
    with torch.no_grad():
        z = F.unfold(small[:2](solved_on), 3, padding=1).transpose(1, 2).reshape(-1, 27)
        y = model[:3](solved_on).flatten(2).transpose(1, 2).reshape(-1, 3)
        design = torch.cat([z, torch.ones(len(z), 1).double()], 1)
        best = torch.linalg.lstsq(design, y).solution
        torch.testing.assert_close(small[2].weight.flatten(1).T, best[:-1], rtol=1e-7, atol=1e-7)
        moved = small[2].bias if bias else model[3].running_mean - small[3].running_mean
        torch.testing.assert_close(moved, best[-1], rtol=1e-7, atol=1e-7)
    assert not torch.equal(inherited, small[2].weight)


def test_the_intercept_is_worth_the_same_in_a_bias_and_in_a_norm():
    class Small(nn.Module):
        def __init__(self, bias):
            super().__init__()
            self.a, self.b, self.bn = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3, bias=bias), nn.BatchNorm2d(4)
            self.c = nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.c(F.relu(self.bn(self.b(F.relu(self.a(x))))))

    one, other, x = Small(True).double().eval(), Small(False).double().eval(), torch.randn(64, 3, 6, 6).double()
    with torch.no_grad():
        one.bias = one.b.bias.zero_()
    other.load_state_dict({k: v for k, v in one.state_dict().items() if k not in ("b.bias", "bias")})
    outputs = []
    for model in (one, other):
        space = sc.Space.trace(model, x[:1], divisor=1)
        candidate = space.uniform(width=0.5)
        small = sc.build(model, space, candidate)
        reconstruct(small, **asked(model, space, candidate, small, x))
        with torch.no_grad():
            outputs.append(small(x))
    torch.testing.assert_close(*outputs, rtol=1e-8, atol=1e-8)


def test_removed_blocks_and_other_sides():
    model = networks.Residual(8).eval()
    space = sc.Space.trace(model, torch.randn(1, 3, 12, 12), divisor=2, resolutions=(8, 12))
    candidate = space.uniform(width=0.5, depth=0.5, resolution=0.7)
    assert space.side(candidate) == (8, 8) and space.removed(candidate)
    small = sc.build(model, space, candidate)
    found = reconstruct(small, **asked(model, space, candidate, small, torch.randn(64, 3, 8, 8)))
    assert found.error < found.error_before


def test_inputs_and_outputs_by_name():
    model = Split().eval()
    batch = {"picture": torch.randn(40, 3, 6, 6), "vector": torch.randn(40, 4)}
    space = sc.Space.trace(model, {name: one[:1] for name, one in batch.items()}, divisor=1)
    candidate = space.uniform(width=0.5)
    small = sc.build(model, space, candidate)
    found = reconstruct(small, **asked(model, space, candidate, small, [batch]))
    assert found.error < found.error_before and found.agreement is not None
    assert found.pictures + found.held_out == 40


def test_batches_of_any_kind_are_the_same():
    model, space, candidate, small, x = made("plain", n=60)
    kinds = [
        x,
        [x[:7], x[7:50], x[50:]],
        [[one, torch.zeros(len(one))] for one in x.split(9)],
        (one for one in x.split(60)),
    ]
    outputs = []
    for images in kinds:
        one = copy.deepcopy(small)
        reconstruct(one, **asked(model, space, candidate, one, images))
        with torch.no_grad():
            outputs.append(one(x))
    for other in outputs[1:]:
        torch.testing.assert_close(other, outputs[0])


def test_modes_and_gradients_are_left_as_they_were():
    model, space, candidate, small, x = made("residual")
    small.train()
    small.layer1.eval()
    model.bn.train()
    modes = [(m, m.training) for one in (small, model) for m in one.modules()]
    small.head.requires_grad_(False)
    reconstruct(small, **asked(model, space, candidate, small, x))
    assert all(module.training is mode for module, mode in modes)
    assert small.stem.weight.requires_grad and not small.head.weight.requires_grad
    assert small.stem.weight.grad is None


def test_twice_is_the_same():
    model, space, candidate, small, x = made("shared")
    other = copy.deepcopy(small)
    torch.manual_seed(7)
    one = reconstruct(small, **asked(model, space, candidate, small, x))
    state = torch.get_rng_state()
    two = reconstruct(other, **asked(model, space, candidate, other, x))
    assert torch.equal(state, torch.get_rng_state()) and one.solved == two.solved
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), other.parameters(), strict=True))


def test_what_is_worse_on_other_pictures_is_undone(caplog):
    """The pictures that judge are of another kind than those solved on."""
    model, space, candidate, small, x = made("plain", n=48)
    pictures = given(small, space, candidate, x, most=48, memory=2**31)
    size = pictures.sizes[0]
    x = torch.cat([30 * one + 9 if n % 8 == 1 else one for n, one in enumerate(x.split(size))])
    kept = copy.deepcopy(small.state_dict())
    found = reconstruct(small, **asked(model, space, candidate, small, x))
    assert found.error <= found.error_before
    if not found.solved:
        assert all(torch.equal(one, kept[name]) for name, one in small.state_dict().items())


def test_few_pictures_are_said():
    model, space, candidate, small, x = made("residual", n=4)
    found = reconstruct(small, **asked(model, space, candidate, small, x, ridge=1.0))
    assert found.error <= found.error_before
    wide = [name for name, one in found.solved.items() if one.rows < one.unknowns]
    assert found.few == tuple(wide)
    if found.few:
        assert "the ridge takes over" in str(found)


def test_a_layer_with_fewer_rows_than_unknowns_is_named():
    model, space, candidate, small, x = made("plain", n=6)
    found = reconstruct(small, **asked(model, space, candidate, small, x))
    left = {"fc"} & set(found.left) or {"fc"} & set(found.few)
    assert left  # five pictures for eight unknowns: it keeps its weights, or it is said


def test_pictures_unlike_the_training_are_said(caplog):
    model, space, candidate, small, x = made("residual", n=128)
    found = reconstruct(small, **asked(model, space, candidate, small, 255 * x + 100))
    assert any("unlike those that the network was trained on" in doubt for doubt in found.doubts)
    assert "scale, mean, order of channels" in caplog.text and "scale, mean" in str(found)
    same = reconstruct(small, **asked(model, space, candidate, small, x[:1].expand(600, -1, -1, -1)))
    assert any("look like chance" in doubt for doubt in same.doubts)


def test_good_pictures_raise_no_doubt():
    model, space, candidate, small, x = made("residual", n=128)
    assert not any("unlike" in doubt for doubt in reconstruct(small, **asked(model, space, candidate, small, x)).doubts)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (lambda x: x[:1], "holds 1 pictures; give at least 2"),
        (lambda x: [], "holds 0 pictures"),
        (lambda x: x[:, :2], r"images are \(96, 2, 8, 8\); the network takes \(n, 3, 8, 8\)"),
        (lambda x: x[:, :, :6], r"the network takes \(n, 3, 8, 8\)"),
        (lambda x: (255 * x).to(torch.uint8), "images are uint8; the network takes float64: scale and normalise"),
        (lambda x: x.masked_fill(x > 2, math.nan), "hold NaN or infinite numbers"),
        (lambda x: [["a", "b"]], "a batch of images holds str, str; the network takes 1 tensors"),
        (lambda x: [{}], "a batch of images holds nothing"),
    ],
)
def test_wrong_pictures_are_refused(images, said):
    model, space, candidate, small, x = made("plain")
    kept = copy.deepcopy(small.state_dict())
    with pytest.raises(ValueError, match=said):
        reconstruct(small, **asked(model, space, candidate, small, images(x)))
    assert all(torch.equal(one, kept[name]) for name, one in small.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"most": 1}, "most is 1; expected an integer of at least 2"),
        ({"memory": 0.5}, "memory is 0.5"),
        ({"distill": -1}, "distill is -1; expected an integer of at least 0"),
        ({"ridge": -1.0}, "ridge is -1.0; expected a share of at least 0"),
    ],
)
def test_wrong_settings_are_refused(changes, said):
    model, space, candidate, small, x = made("plain")
    with pytest.raises(ValueError, match=said):
        reconstruct(small, **asked(model, space, candidate, small, x), **changes)


def test_a_full_network_that_is_not_finite_is_refused():
    model, space, candidate, small, x = made("plain")
    with torch.no_grad():
        model.fc.weight[0, 0] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        reconstruct(small, **asked(model, space, candidate, small, x))


def test_a_network_without_layers_is_said(caplog):
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()).eval()
    space = sc.Space.trace(model, torch.randn(1, 3, 4, 4))
    found = reconstruct(model, model=model, space=space, candidate=space.full, images=torch.randn(20, 3, 4, 4))
    assert not found.solved and "no convolution or linear layer" in str(found)


def test_weights_that_are_computed_are_left_and_said():
    model, x = Parametrised().eval(), torch.randn(64, 3, 6, 6)
    space = sc.Space.trace(model, x[:1], divisor=1)
    candidate = space.uniform(width=0.5)
    small = sc.build(model, space, candidate)
    found = reconstruct(small, **asked(model, space, candidate, small, x))
    assert found.error <= found.error_before and "last" in found.solved
    assert not any(name.startswith("first") for name in found.solved)


def test_a_layer_too_wide_for_the_memory_is_left():
    model, space, candidate, small, x = made("plain")
    found = reconstruct(small, **asked(model, space, candidate, small, x, memory=2**14))
    assert "raise memory" in found.left["conv2"]  # 36 inputs: 2 * 8 * 36^2 = 20,736 bytes


def test_memory_bounds_how_many_pictures_wait():
    x = torch.randn(96, 3, 8, 8)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(8)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 5)).eval()
    space = sc.Space.trace(model, x[:1], divisor=1)
    candidate = space.uniform(width=0.5)
    small = sc.build(model, space, candidate)
    pictures = given(small, space, candidate, x, most=96, memory=2**31)
    batch = 4 * pictures.sizes[0] * 8 * 8 * 8  # bytes of the first layer's output, of a batch
    with torch.no_grad():
        tight = observed(model, pictures, space.layers, memory=4 * batch, rows=64)
        wide = observed(model, pictures, space.layers, memory=2**30, rows=64)
    assert all(one.batches == len(pictures.batches) for one in wide.calls.values())
    assert 2 <= tight.calls["2.weight", 0].batches <= 4  # its input waits, and the picture
    assert tight.calls["6.weight", 0].batches == len(pictures.batches)
    kept = sum(value.nbytes for one in tight.calls.values() for value in one.values)
    assert kept <= 4 * batch
    shared = {"shares": (1e-2,), "memory": 2**31}
    kept = channel_map(space, candidate)
    with torch.no_grad():
        progress = Solving(small.eval(), pictures, tight, space.layers, kept, **shared).run()
    assert progress.solved


def test_batches_that_do_not_fit_for_some_layers_do_not_come_back():
    assert with_one_rise([9, 9, 5, 7, 2, 4, 6, 9, 9], [*[0.5] * 8, 20]) == [2, 2, 2, 2, 2, 4, 6, 9, 9]
    assert with_one_rise([9, 9, 5, 7, 2, 4, 6, 9, 9], [20, *[0.5] * 8]) == [9, 9, 5, 5, 2, 2, 2, 2, 2]
    assert with_one_rise([2, 5, 9, 6, 7, 3], [1] * 6) == [2, 5, 9, 6, 6, 3]  # a decoder ends as large as it begins
    assert with_one_rise([], []) == []


def test_steps_on_the_answers_go_on_from_there():
    model, space, candidate, small, x = made("residual", n=128)
    other = copy.deepcopy(small)
    plain = reconstruct(other, **asked(model, space, candidate, other, x))
    found = reconstruct(small, **asked(model, space, candidate, small, x, distill=40))
    assert found.error <= plain.error and found.seconds["distill"] > 0
    assert all(parameter.grad is None for parameter in small.parameters())


def test_such_steps_leave_statistics_as_they_are_and_drop_nothing_by_chance():
    class Dropped(nn.Module):
        def __init__(self):
            super().__init__()
            self.features, self.modes = networks.Residual(8), set()
            self.drop = nn.Dropout(0.9)

        def forward(self, x):
            self.modes.add(self.drop.training)
            return self.drop(self.features(x))

    model, x = Dropped(), torch.randn(128, 3, 8, 8)
    with torch.no_grad():
        model.features(x)  # statistics of its norms are those of the pictures
    space = sc.Space.trace(model.eval(), x[:1], divisor=1, rules={"*": {"depth": False}})
    candidate = space.uniform(width=0.6)
    small, other = (sc.build(model, space, candidate) for _ in range(2))
    before = reconstruct(other, **asked(model, space, candidate, other, x))
    small.modes = set()
    found = reconstruct(small, **asked(model, space, candidate, small, x, distill=40))
    assert found.error < before.error and small.modes == {False}
    weights = dict(other.named_parameters())
    assert any(not torch.equal(one, weights[name]) for name, one in small.named_parameters())
    for (name, one), same in zip(small.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(one, same), name


def test_where_its_seconds_go():
    model, space, candidate, small, x = made("residual")
    found = reconstruct(small, **asked(model, space, candidate, small, x, distill=2))
    assert set(found.seconds) == {"full", "small", "gather", "solve", "distill"}
    assert all(value > 0 for value in found.seconds.values())


def test_few_unknowns_ask_for_fewer_places():
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Flatten(), nn.Linear(2048, 4)
    )
    space = sc.Space.trace(model.eval(), torch.randn(1, 1, 8, 8), divisor=1)
    pictures = given(model, space, space.full, torch.randn(96, 1, 8, 8), most=96, memory=2**31)
    with torch.no_grad():
        calls = observed(model, pictures, space.layers, memory=2**30, rows=4096).calls
    rows = {name: sum(len(one) for one in seen.values) for (name, _), seen in calls.items()}
    assert 1024 <= rows["1.weight"] < 1100  # nine unknowns: a quarter
    assert rows["3.weight"] == 96  # all there are


def test_one_side_of_the_full_network_serves_many():
    import tasks

    task, model = tasks.classification(), networks.Plain(8, 3).eval()
    space = sc.Space.trace(model, torch.rand(1, 3, 8, 8), divisor=1)
    one = Reconstructor(task, images=64)
    for width in (0.5, 0.75):
        candidate = space.uniform(width=width)
        small, alone = (sc.build(model, space, candidate) for _ in range(2))
        origin = Origin(model=model, space=space, candidate=candidate)
        found = one(small, origin)
        assert found == Reconstructor(task, images=64)(alone, origin) or found.error == pytest.approx(found.error)
        assert all(torch.equal(a, b) for a, b in zip(small.parameters(), alone.parameters(), strict=True))


@pytest.mark.gpu
def test_on_cuda():
    model, space, candidate, small, x = made("residual")
    other = copy.deepcopy(small).cuda()
    reconstruct(small, **asked(model, space, candidate, small, x))
    reconstruct(other, **asked(model, space, candidate, other, x))
    with torch.no_grad():
        torch.testing.assert_close(other(x.cuda()).cpu(), small(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("agreement", "held_out", "interval"),
    [(0.0, 16, (0.0, 0.194)), (1.0, 16, (0.806, 1.0)), (0.5, 100, (0.404, 0.596)), (0.81, 263, (0.758, 0.853))],
)
def test_an_agreement_has_an_interval_that_says_how_few_pictures_there_were(agreement, held_out, interval):
    """Wilson's, calculated by hand; at 0 and 1 as well, where a deviation of the pictures would be none."""
    found = Reconstruction(
        solved={},
        left={},
        error_before=1.0,
        error=1.0,
        agreement_before=0.0,
        agreement=agreement,
        pictures=9,
        held_out=held_out,
    )
    assert found.agreement_interval == pytest.approx(interval, abs=5e-4)
    assert f"{agreement:.1%} ({found.agreement_interval[0]:.1%} to " in str(found)
    assert replace(found, agreement=None).agreement_interval is None
