"""RANP's four networks: their costs as its authors count them, to the digit, and that they can be traced and cut."""

import functools
import math

import pytest
import torch
from conventions import count_as_ranp
from networks3d import cost_volume, i3d, mean_disparity, mobilenet_v2_3d, psmnet, unet3d

from secateur.pruners.one_shot.neurons import multipliers, resources
from secateur.spaces import Space, build, verify


def on_meta(make, **settings):
    with torch.device("meta"):
        return make(**settings)


def zeros(*shape):
    return torch.zeros(1).expand(1, *shape)


PAIR = (zeros(3, 256, 512), zeros(3, 256, 512))
FULL = {  # layers, neurons, params MiB, GFLOPs, memory MiB
    "unet, shapenet": (lambda: unet3d(1, 50, softmax=True), zeros(1, 64, 64, 64), 15, 2386, 62.2601, 237.8464, 997.0),
    "unet, brats": (lambda: unet3d(4, 5, base=32), zeros(4, 128, 128, 128), 15, 1173, 15.5728, 478.1255, 3628.0),
    "mobilenet v2": (mobilenet_v2_3d, zeros(3, 16, 112, 112), 53, 17157, 9.4735, 0.57524, 157.4696),
    "i3d": (i3d, zeros(3, 16, 224, 224), 58, 7381, 47.2671, 27.8768, 201.2838),
    "psmnet": (psmnet, PAIR, 61 + 28, 4352 + 1283, 19.9309, 257.006, 2405.79),
}


@pytest.mark.parametrize("name", FULL)
def test_full_networks(name):
    make, example, layers, neurons, params, gflops, memory = FULL[name]
    found = count_as_ranp(on_meta(make), example)
    assert (len(found.layers), found.neurons) == (layers, neurons)
    assert found.params_mib == pytest.approx(params, abs=6e-5)
    assert found.gflops == pytest.approx(gflops, abs=6e-6 if gflops < 1 else 6e-4 if gflops > 250 else 6e-5)
    assert found.memory_mib == pytest.approx(memory, abs=6e-5 if memory < 1000 else 6e-3)
    assert found.unnamed == ()


def test_the_two_parts_of_psmnet():
    found = count_as_ranp(on_meta(psmnet), PAIR)
    flat, deep = ([line for line in found.lines if line.kind.endswith(axes)] for axes in ("2d", "3d"))
    assert [sum(line.neurons > 0 for line in part) for part in (flat, deep)] == [61, 28]
    assert [sum(line.neurons for line in part) for part in (flat, deep)] == [4352, 1283]
    assert [sum(line.flops for line in part) / 1e9 for part in (flat, deep)] == pytest.approx(
        [58.313, 198.694], abs=6e-4
    )
    memory = [4 * sum(line.outputs for line in part) / 2**20 for part in (flat, deep)]
    assert memory == pytest.approx([634.25, 1198.5], abs=6e-3)  # convolutions, norms and pools
    assert sum(line.params for line in flat) * 4 / 2**20 == pytest.approx(12.739, abs=6e-4)
    batch = count_as_ranp(on_meta(psmnet), tuple(image.expand(3, -1, -1, -1) for image in PAIR))
    assert batch.gflops == pytest.approx(771.019, abs=6e-4) and batch.memory_mib == pytest.approx(7217.37, abs=6e-3)


@functools.cache
def unet(task):
    model, example = {
        "shapenet": (unet3d(1, 50, softmax=True), zeros(1, 64, 64, 64)),
        "brats": (unet3d(4, 5, base=32), zeros(4, 128, 128, 128)),
    }[task]
    return (
        model.eval(),
        example,
        Space.trace(model.eval(), example, divisor=1, prove=False),
    )  # costs alone are looked at


@pytest.mark.parametrize(
    "task, kappa, neurons, params, gflops, memory",
    [
        ("shapenet", 0.7824, 561, 2.9851, 11.6288, 296.2188),
        ("brats", 0.7817, 261, 0.7485, 24.0931, 836.8750),
    ],
)
def test_layer_wise_pruning(task, kappa, neurons, params, gflops, memory):
    model, example, space = unet(task)
    # every layer keeps ceil(N_l (1 - kappa)), the last one all
    candidate = space.check([math.ceil(group.units * (1 - kappa)) for group in space.groups])
    found = count_as_ranp(build(model, space, candidate), example)
    assert found.neurons == neurons
    assert found.params_mib == pytest.approx(params, abs=6e-5)
    assert found.gflops == pytest.approx(gflops, abs=6e-5)
    assert found.memory_mib == pytest.approx(memory, abs=6e-5)


@pytest.mark.parametrize(
    "task, resource, strength, expected",
    [
        # tau in GFLOPs: 0.226 14.496 3.624 7.248 1.812 3.624 0.906 1.812 21.743 7.248 43.487 14.496 86.973 28.991
        # 0.852; the sum of exp(-tau / 86.973) is 12.8572, and 1 + 11 exp(-0.226 / 86.973) / 12.8572 = 1.8533
        ("shapenet", "flops", 11, "1.8533 1.7242 1.8206 1.7871 1.8379 1.8206 1.8467 1.8379 1.6663 1.7871 1.5189 1.7242 "
         "1.3147 1.6130 1.8472"),
        ("shapenet", "memory", 11, "1.5983 1.3629 1.8705 1.7682 1.9561 1.9267 1.9788 1.9712 1.9267 1.9267 1.7682 "
         "1.7682 1.3629 1.3629 1.4516"),
        ("brats", "flops", 15, "2.1435 1.9883 2.1199 2.0742 2.1435 2.1199 2.1555 2.1435 1.9093 2.0742 1.7082 1.9883 "
         "1.4295 1.8366 2.1653"),
    ],
)  # fmt: skip
def test_multipliers_of_the_unet(task, resource, strength, expected):
    _, _, space = unet(task)
    found = multipliers(resources(space, resource), strength)
    assert found == pytest.approx([float(one) for one in expected.split()], abs=6e-5)


SMALL = {
    "unet": (lambda: unet3d(1, 3, base=4), lambda: torch.randn(1, 1, 11, 9, 8), 14),
    "mobilenet v2": (lambda: mobilenet_v2_3d(3), lambda: torch.randn(1, 3, 16, 32, 32), 25),
    "psmnet": (lambda: psmnet(16, windows=(8, 4, 2, 1)), lambda: tuple(torch.randn(2, 1, 3, 32, 32)), 52),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "psmnet" else name for name in SMALL]
)
def test_small_ones_are_traced_and_cut(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        make, example, groups = SMALL[name]
        model, example = make().double().eval(), example()
        example = tuple(x.double() for x in example) if isinstance(example, tuple) else example.double()
        for parameter in model.parameters():
            parameter.data += 0.03 * torch.randn_like(parameter)  # more, and PSMNet's softmax is saturated
    space = Space.trace(model, example, divisor=1)
    assert len(space.groups) == groups
    found = verify(model, space, space.uniform(0.5), example)
    assert found < 1e-9 and f"{groups} of {groups} groups" in str(found)
    assert set(space.frozen.values()) == {"its channels are the network's output"}


@pytest.mark.slow
def test_i3d_is_traced_and_cut():
    model, example = i3d(5).eval(), torch.randn(1, 3, 16, 224, 224, generator=torch.Generator().manual_seed(0))
    space = Space.trace(model, example, divisor=8)
    assert len(space.groups) == 57
    assert verify(model, space, space.uniform(0.25), example) < 1e-4


def test_the_cost_volume_moves_the_right_features():
    left, right = (torch.arange(1.0, 6).view(1, 1, 1, 5) * sign for sign in (1, -1))
    volume = cost_volume(left, right, 3)
    assert volume.shape == (1, 2, 3, 1, 5)
    assert volume[0, 0, :, 0].tolist() == [[1, 2, 3, 4, 5], [0, 2, 3, 4, 5], [0, 0, 3, 4, 5]]
    assert volume[0, 1, :, 0].tolist() == [[-1, -2, -3, -4, -5], [0, -1, -2, -3, -4], [0, 0, -1, -2, -3]]


def test_the_disparity_is_the_mean_of_all():
    probabilities = torch.tensor([0.0, 0.25, 0.25, 0.5]).view(1, 4, 1, 1).expand(1, 4, 2, 3)
    assert torch.equal(mean_disparity(probabilities), torch.full((1, 2, 3), 2.25))  # 0.25 + 0.5 + 1.5


def test_psmnet_gives_three_disparities_in_training_and_one_after():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, pair = psmnet(16, windows=(8, 4, 2, 1)), torch.randn(2, 2, 3, 32, 48)
    found = model.train()(*pair)
    assert [tuple(one.shape) for one in found] == [(2, 32, 48)] * 3
    sum(one.mean() for one in found).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.no_grad():
        last = model.eval()(*pair)
    assert last.shape == (2, 32, 48) and float(last.min()) >= 0 and float(last.max()) <= 15
    with pytest.raises(ValueError, match="multiple of 16"):
        psmnet(20)
