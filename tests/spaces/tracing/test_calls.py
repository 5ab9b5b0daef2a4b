"""What a forward takes and gives, as people have it: containers of their own, plain values, inputs by name."""

import dataclasses
import json
from collections import OrderedDict, UserDict, namedtuple
from typing import Any

import pytest
import torch
from networks import image
from torch import nn
from torch.utils import _pytree as pytree

from secateur import Space, build, verify
from secateur.spaces import plain


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    features: Any = None
    classes: int = 4


class Results(dict):
    """Not known to PyTorch."""


class ModelOutput(OrderedDict):
    """As in transformers: known to PyTorch."""


pytree.register_pytree_node(
    ModelOutput,
    lambda one: (list(one.values()), list(one)),
    lambda values, keys: ModelOutput(zip(keys, values, strict=True)),
)
Pair = namedtuple("Pair", "logits features")
OUTPUTS = {
    "a dataclass": lambda y, z: Output(y, z),
    "a dict of their own": lambda y, z: Results(logits=y, features=z, nothing=None),
    "a ModelOutput": lambda y, z: ModelOutput(logits=y, features=z),
    "a named tuple": lambda y, z: Pair(y, z),
    "nested": lambda y, z: {"head": Output(y, Results(deep=[z])), "all": (Output(z), None)},
    "plain values among them": lambda y, z: (y, None, 3, 2.5, "mean", True, z),
}


class Network(nn.Module):
    def __init__(self, gives=lambda y, z: y):
        super().__init__()
        self.first, self.head, self.gives = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), gives

    def forward(self, x):
        z = self.first(x).relu()
        return self.gives(self.head(z.mean((2, 3))), self.head(z.amax((2, 3))))


def leaves(outputs):
    return [leaf for leaf in pytree.tree_leaves(plain(outputs)) if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("how", [{}, {"as_graph": True}, {"resolutions": (8, 6)}])
def test_what_a_forward_gives_may_be_in_any_container(name, how):
    model, x = Network(OUTPUTS[name]).double().eval(), image(2, 3, 8, 8).double()
    space = Space.trace(model, x, divisor=1, **how)
    assert not model._forward_hooks
    bare = Space.trace(Network(lambda y, z: (y, z)), x.float(), divisor=1)
    assert [group.name for group in space.groups] == [group.name for group in bare.groups] == ["first"]
    candidate = space.uniform(0.5)
    assert verify(model, space, candidate, x) < 1e-12
    small = build(model, space, candidate)
    outputs = small(x)
    assert [one.shape for one in leaves(outputs)] == [one.shape for one in leaves(model(x))]
    if not how.get("as_graph"):
        assert type(outputs) is type(model(x))


@pytest.mark.parametrize("gives", [lambda y, z: {1, 2}, lambda y, z: [y, object()], lambda y, z: Output(y, nn.ReLU())])
def test_what_is_no_tensor_is_named(gives):
    with pytest.raises(ValueError, match=r"Network returns a (set|object|ReLU); expected tensors and plain values"):
        Space.trace(Network(gives), image(1, 3, 8, 8))


class Choosy(nn.Module):
    """Inputs of many kinds."""

    def __init__(self):
        super().__init__()
        self.first, self.time, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(5, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x, t=None, *, scale=1.0, size=None, pooled=True, mode="relu", mask=None):
        y = self.first(x) * scale
        if t is not None:
            y = y + self.time(t)[:, :, None, None]
        y = y.relu() if mode == "relu" else y.tanh()
        if mask is not None:
            y = y * mask
        if size is not None:
            y = nn.functional.interpolate(y, size=tuple(size))
        y = self.head(y)
        return y.mean((2, 3)) if pooled else y


X, T, MASK = image(2, 3, 8, 8).double(), image(2, 5).double(), image(2, 1, 8, 8).double()
CALLS = [
    (X, {"pooled": False}),
    (X, {"t": T, "mode": "tanh", "scale": 0.5}),
    ((X, T), {"size": (4, 4), "pooled": False}),
    ((X, None), {}),
    ({"x": X, "t": T, "pooled": False}, {}),
    ({"x": X}, {"mask": MASK, "t": T, "size": [4, 4]}),
]


@pytest.mark.parametrize(("examples", "further"), CALLS)
@pytest.mark.parametrize("as_graph", [False, True])
def test_inputs_by_name_and_plain_values(examples, further, as_graph):
    model = Choosy().double().eval()
    space = Space.trace(model, examples, divisor=1, as_graph=as_graph, example_kwargs=further)
    assert len(space.groups) == 1
    candidate = space.uniform(0.5)
    assert verify(model, space, candidate, examples if not further else given(examples, further)) < 1e-12
    inputs = space.inputs(model, candidate, batch=2)
    full = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    assert leaves(full)[0].shape == model(**given(examples, further)).shape
    network, tensors = space.call(model, candidate, batch=2)
    assert torch.equal(network(*tensors), full)
    again = Space.from_settings(model, json.loads(json.dumps(space.settings)))
    assert again.fingerprint == space.fingerprint
    small, tensors = space.call(build(model, space, candidate), candidate)
    assert small(*tensors).shape[1:] == full.shape[1:]


def given(examples, further):
    """All by name."""
    if isinstance(examples, dict):
        return examples | further
    return dict(zip(("x", "t"), examples if isinstance(examples, tuple) else (examples,), strict=False)) | further


def test_verify_takes_the_plain_values_of_the_space():
    model = Choosy().double().eval()
    space = Space.trace(model, X, divisor=1, example_kwargs={"mode": "tanh", "pooled": False})
    assert verify(model, space, space.uniform(0.5), X) < 1e-12
    assert verify(model, space, space.uniform(0.5), (X,)) < 1e-12


def test_resolutions_with_plain_values():
    space = Space.trace(Choosy(), X.float(), resolutions=(8, 6), example_kwargs={"pooled": False, "mode": "tanh"})
    assert [side for side in space.resolutions] == [(6, 6), (8, 8)]


@pytest.mark.parametrize(
    ("examples", "further", "said"),
    [
        ((X, object()), {}, "example_inputs holds a object; expected tensors, and plain values"),
        (X, {"mask": [MASK]}, "example_inputs holds a list; expected tensors"),
        (X, {"x": X}, "example_kwargs gives 'x', which example_inputs gives too"),
        ({"x": X}, {"x": X}, "example_kwargs gives 'x', which example_inputs gives too"),
        ((X, T, 1.0, None, True, "relu", None, 3), {}, "Choosy.forward has no name for input 8"),
    ],
)
def test_inputs_that_cannot_be_taken_are_said(examples, further, said):
    with pytest.raises(TypeError, match=said):
        Space.trace(Choosy().double(), examples, example_kwargs=further)


class Words(nn.Module):
    """A text, as a tokenizer gives it."""

    def __init__(self):
        super().__init__()
        self.embed, self.body, self.head = nn.Embedding(20, 16), nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, input_ids, attention_mask=None, past_key_values=None):
        found = self.body(self.embed(input_ids)) * attention_mask[..., None]
        return self.head(found.sum(1) / attention_mask.sum(1, keepdim=True))


class StaticCache:
    """Keys and values of what came before."""


def test_what_a_tokenizer_gives_is_taken_as_it_is():
    given = {"input_ids": [[3, 4, 5], [6, 7, 0]], "attention_mask": [[1, 1, 1], [1, 1, 0]]}
    model = Words().eval()
    with pytest.raises(ValueError, match=r"no tensor, only input_ids \(a list\), .*return_tensors='pt'"):
        Space.trace(model, UserDict(given))
    encoding = UserDict({name: torch.tensor(rows) for name, rows in given.items()})
    space = Space.trace(model, encoding)
    assert verify(model, space, space.uniform(0.5), encoding) < 1e-5
    with pytest.raises(TypeError, match=r"holds a StaticCache; .*; decoders give and take no cache with use_cache=Fal"):
        Space.trace(model, encoding, example_kwargs={"past_key_values": StaticCache()})


def test_a_name_that_the_forward_lacks_is_said():
    with pytest.raises(ValueError, match="unexpected keyword argument 'colour'"):
        Space.trace(Choosy().double(), X, example_kwargs={"colour": True})


def on_meta():
    with torch.device("meta"):
        return Network()


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (
            lambda: torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 3))),
            ValueError,
            "trace the module that it was made of",
        ),
        (lambda: torch.jit.trace(nn.Conv2d(3, 8, 3), X.float()), ValueError, "trace the module that it was made of"),
        (lambda: nn.Sequential(nn.LazyConv2d(8, 3)), ValueError, "0.weight has no shape yet.*call the network once"),
        (on_meta, ValueError, "first.weight is on the meta device .* load the weights first"),
        (lambda: nn.Conv2d, TypeError, "model is a type; expected a torch.nn.Module"),
        (lambda: Network().state_dict(), TypeError, "model is a OrderedDict; expected a torch.nn.Module"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Lazy modules:UserWarning")
def test_models_that_cannot_be_traced_get_the_hint_that_fits(make, kind, said):
    with pytest.raises(kind, match=said):
        Space.trace(make(), X.float(), example_kwargs={"pooled": True})


def test_a_network_of_several_processes_is_refused_with_what_to_give(tmp_path):
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)))
        with pytest.raises(ValueError, match=r"give what it wraps, model\.module"):
            Space.trace(model, torch.rand(1, 3, 8, 8))
        assert Space.trace(model.module, torch.rand(1, 3, 8, 8), divisor=1).groups
    finally:
        torch.distributed.destroy_process_group()


class Reading(nn.Module):
    """Two convolutions, and what `how` makes of the output, of the number of examples that it reads from the input."""

    def __init__(self, how):
        super().__init__()
        self.conv, self.head, self.how = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), how

    def forward(self, x):
        return self.how(x, self.head(self.conv(x).relu()))


@pytest.mark.parametrize(
    "how",
    [
        lambda x, y: y.reshape(len(x), -1),
        lambda x, y: y.reshape(int(x.size(0)), -1) / float(len(x)),
    ],
    ids=["len", "int"],
)
def test_a_graph_takes_any_number_of_examples_that_its_forward_reads(how):
    model = Reading(how).eval()
    space = Space.trace(model, torch.rand(2, 3, 8, 8), divisor=1, as_graph=True)
    small = build(model, space, space.uniform(0.5))
    for number in (1, 5):
        assert verify(model, space, space.uniform(0.5), torch.rand(number, 3, 8, 8)) < 1e-5
        assert small(torch.rand(number, 3, 8, 8)).shape == (number, 144)


@pytest.mark.parametrize(
    "how",
    [
        lambda x, y: torch.cat([one[None] for one in y]),
        lambda x, y: torch.stack([y[number] for number in range(len(x))]),
        lambda x, y: y.reshape(2, -1),
    ],
    ids=["unbound", "range", "written"],
)
def test_a_graph_whose_forward_fixes_the_number_of_examples_is_refused_with_the_line(how):
    place = rf"at {__file__}:{how.__code__.co_firstlineno}, so a graph of it takes 2 only"
    with pytest.raises(ValueError, match=place):
        Space.trace(Reading(how).eval(), torch.rand(2, 3, 8, 8), as_graph=True)


def test_a_graph_writes_no_number_of_examples_from_a_tensor_that_was_made_of_it():
    model = Reading(lambda x, y: y * torch.full((1,), x.shape[0]).item()).eval()
    with pytest.raises(ValueError, match="depends on the values of a tensor"):
        Space.trace(model, torch.rand(2, 3, 8, 8), as_graph=True)


class Tabled(nn.Module):
    """Position embeddings that a module keeps, in one of the ways that people write."""

    def __init__(self, use, registered):
        super().__init__()
        self.embed, self.mix, self.head, self.use = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 5), use
        table = torch.linspace(-1, 1, 6 * 32).view(1, 6, 32)
        if registered:
            self.register_buffer("table", table)
        else:
            self.table = table

    def forward(self, x):
        x = self.embed(x)
        return self.head(self.mix(x + self.use(self.table, x)).relu())


@pytest.mark.parametrize(
    "use",
    [
        lambda table, x: table,
        lambda table, x: table[:, : x.shape[1]].to(x),
        lambda table, x: table.detach().type_as(x).to(x.device, copy=True),
    ],
    ids=["plain", "slice", "of the type of x"],
)
def test_a_tensor_that_is_no_buffer_is_named(use):
    x = torch.rand(2, 6, 8)
    assert "embed" not in Space.trace(Tabled(use, registered=True), x).frozen
    reason = Space.trace(Tabled(use, registered=False), x).frozen["embed"]
    assert (
        reason
        == "it meets table, a tensor that is no parameter and no buffer; with register_buffer it may be cut along"
    )
