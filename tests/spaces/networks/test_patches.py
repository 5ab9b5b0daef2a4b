"""What a layer saw at its places, times its weights, is what it gave."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from secateur.spaces.networks.patches import (
    as_matrix,
    as_weight,
    by_places,
    call_of,
    drawn,
    inputs_at,
    outputs_at,
)
from secateur.spaces.networks.watching import Watching

LAYERS = {
    "linear": (nn.Linear(5, 4), (3, 5)),
    "linear of tokens": (nn.Linear(5, 4, bias=False), (3, 7, 5)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (3, 4, 9)),
    "conv2d": (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (3, 4, 9, 8)),
    "conv2d same": (nn.Conv2d(4, 6, (4, 3), padding="same", dilation=(2, 1)), (3, 4, 7, 8)),
    "conv2d valid": (nn.Conv2d(4, 6, 3, padding="valid"), (3, 4, 7, 8)),
    "conv2d reflected": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (3, 4, 7, 8)),
    "conv3d": (nn.Conv3d(2, 3, 3, padding=1, stride=(1, 2, 1)), (2, 2, 4, 5, 3)),
    "grouped": (nn.Conv2d(6, 9, 3, padding=1, groups=3), (3, 6, 5, 5)),
    "depthwise": (nn.Conv2d(6, 12, 3, padding=1, groups=6, bias=False), (3, 6, 5, 5)),
    "unbatched": (nn.Conv2d(4, 6, 3), (4, 7, 8)),
    "transposed 1d": (nn.ConvTranspose1d(4, 3, 3, stride=2, padding=1, output_padding=1), (3, 4, 6)),
    "transposed 2d": (nn.ConvTranspose2d(4, 6, (2, 3), stride=2, padding=(0, 1), dilation=(2, 1)), (3, 4, 5, 6)),
    "transposed 3d": (nn.ConvTranspose3d(2, 3, 2, stride=2), (2, 2, 3, 2, 3)),
    "transposed grouped": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (3, 4, 5, 6)),
}


@pytest.mark.parametrize("rows", [5, 10_000])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_a_product_of_matrices(name, rows):
    layer, shape = LAYERS[name]
    layer = layer.double()
    seen = []
    with torch.no_grad(), Watching({id(layer.weight): name}, after=lambda name, call, out: seen.append((call, out))):
        layer(torch.randn(shape).double())
    [(call, output)] = seen
    values = by_places(output, call)
    sides = tuple(output.shape[output.ndim - len(call.kernel) :])
    places = drawn(len(values) * values.shape[2], rows, seed=1)
    z = inputs_at(call, sides, places)
    assert z.shape == (len(places), call.groups, call.unknowns)
    weight = as_matrix(call, layer.weight)
    made = torch.einsum("rgd,gdo->rgo", z, weight).flatten(1)
    made = made if layer.bias is None else made + layer.bias
    torch.testing.assert_close(made, outputs_at(values, places), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(as_weight(call, weight), layer.weight)


def test_what_is_no_layer_is_none():
    assert call_of(F.relu, (torch.rand(2),), {}) is None
    assert call_of(torch.add, (torch.rand(2), torch.rand(2)), {}) is None


@pytest.mark.parametrize("places", [3, 50, 10**6])
def test_places_are_those_of_the_seed(places):
    found = drawn(places, 7, seed=3)
    assert torch.equal(found, drawn(places, 7, seed=3))
    assert len(found) == min(places, 7) and 0 <= int(found.min()) and int(found.max()) < places
    assert places <= 7 or not torch.equal(found, drawn(places, 7, seed=4))
