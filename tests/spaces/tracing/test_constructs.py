"""Everything that a network may contain: followed, cut as far as it can be, and never wrong."""

import numpy as np
import pytest
import torch
from constructs import CONSTRUCTS
from scattered import flat, masked, relative_error
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from secateur.spaces import Space, build, named_tensors, verify
from secateur.spaces.graph.network import as_call

TRACED = [name for name, construct in CONSTRUCTS.items() if not construct.error]
GRAPHS = [name for name, construct in CONSTRUCTS.items() if construct.graph]
TRAINED = ["pre_activation", "norm_over_concat", "unet_2d", "unet_3d_depthwise", "batch_norm_plain", "group_norm"]
REFUSED = [name for name, construct in CONSTRUCTS.items() if construct.error]
pytestmark = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")


class Case:
    """A network, its space, and what is expected."""

    def __init__(self, name, as_graph=False):
        self.construct = CONSTRUCTS[name]
        self.model, self.example = self.construct.network()
        how = {"as_graph": True} if as_graph else {}
        self.batch = flat(self.example)[0].shape[0]
        self.space = Space.trace(self.model, self.example, divisor=1, **how)

    def call(self, model):
        args, kwargs = as_call(self.example)
        return model(*args, **kwargs)

    def reference(self, candidate, scores=None):
        """The full network, masked; without the fused path of attention, which would pass by our layers."""
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            return self.call(masked(self.model, self.space, candidate, self.construct.mixes, scores))
        finally:
            torch.backends.mha.set_fastpath_enabled(True)

    def choices(self):
        """Candidates, each with scores: those of the weights (None), or such that the last or the first units stay."""
        space = self.space
        last = {group.name: torch.arange(group.units, dtype=torch.float32) for group in space.groups}
        first = {name: -scores for name, scores in last.items()}
        half = space.uniform(0.5)
        chosen = [*((one, None) for one in (half, space.smallest, space.full)), (half, last), (half, first)]
        return [*chosen, *zip(space.sample(3, seed=1), (None, last, first), strict=True)]

    def ids(self, name):
        """Units of an axis of a tensor, and how it is named."""
        if ":" in name:
            tensor, axis = name.split(":")
            axis = int(axis)
        else:
            module = self.model.get_submodule(name)
            tensor, axis = f"{name}.weight", int(isinstance(module, nn.Embedding))
            if isinstance(module, nn.modules.conv._ConvTransposeNd):
                tensor, axis = (f"{name}.bias", 0) if module.groups > 1 else (tensor, 1)
        shape = named_tensors(self.model)[tensor].shape
        return self.space.slots.get(tensor, {}).get(axis, np.zeros(shape[axis], np.int64))

    def check_cut(self, names, partly=()):
        """All of these can be cut."""
        frozen = self.space.frozen
        for name in names:
            ids = self.ids(name)
            assert (ids > 0).all(), f"{name}: {int((ids == 0).sum())} of {len(ids)} stay; frozen: {frozen}"
        for name in partly:
            assert (self.ids(name) > 0).any(), f"{name} stays whole; frozen: {frozen}"

    def check_equal(self):
        with torch.no_grad():
            for candidate, scores in self.choices():
                got = self.call(build(self.model, self.space, candidate, scores))
                want = self.reference(candidate, scores)
                assert relative_error(got, want) <= self.construct.tolerance, (candidate, scores)


@pytest.fixture(scope="module", params=TRACED)
def case(request):
    return Case(request.param)


def test_built_equals_masked(case):
    case.check_equal()


def test_the_user_can_check_it_too(case):
    half = case.space.uniform(0.5)
    assert verify(case.model, case.space, half, case.example) <= case.construct.tolerance


def test_what_can_go_goes(case):
    case.check_cut(case.construct.prunable, case.construct.partly)
    assert case.space.groups or not case.construct.prunable
    for name, reason in case.construct.frozen.items():
        assert name in case.space.frozen and reason in case.space.frozen[name], case.space.frozen


def test_nothing_is_left_whole_in_silence(case):
    kinds = (nn.modules.conv._ConvNd, nn.Linear, nn.Embedding)
    silent = []
    for name, module in case.model.named_modules():
        if isinstance(module, kinds) and not any(part.startswith("parametrizations") for part in name.split(".")):
            tensors = {f"{name}.weight", f"{name}.bias"}
            outputs = 1 if isinstance(module, nn.modules.conv._ConvTransposeNd) and module.groups == 1 else 0
            outputs = 1 if isinstance(module, nn.Embedding) else outputs
            slots = {axis: ids for tensor in tensors for axis, ids in case.space.slots.get(tensor, {}).items()}
            whole = not (slots.get(outputs, np.zeros(1)) > 0).all()
            if whole and not any(f"{name}.".startswith(f"{known}.") for known in case.space.frozen):
                silent.append(name)
    assert not silent, case.space.frozen


def _kind(module):
    """Attention that lost heads is one of PyTorch's by inheritance."""
    return nn.MultiheadAttention if isinstance(module, nn.MultiheadAttention) else type(module)


def test_the_network_stays_the_users(case):
    half = case.space.uniform(0.5)
    small = build(case.model, case.space, half)
    assert type(small) is type(case.model)
    assert {name: _kind(module) for name, module in small.named_modules()}.items() >= {
        name: _kind(module)
        for name, module in case.model.named_modules()
        if not any(f"{name}.".startswith(f"{gone}.") for gone in case.space.removed(half))
    }.items()
    flags = {name: parameter.requires_grad for name, parameter in case.model.named_parameters()}
    assert all(flags[name] == parameter.requires_grad for name, parameter in small.named_parameters())
    assert all(
        named_tensors(case.model)[name].dtype == tensor.dtype and tensor.is_contiguous()
        for name, tensor in named_tensors(small).items()
    )


def test_it_can_be_read(case):
    text = str(case.space)
    assert all(group.name[-20:] in text for group in case.space.groups)
    assert all(name in text for name in case.space.frozen)


def test_gradients_flow(case):
    small = build(case.model, case.space, case.space.smallest).train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        outputs = [output for output in flat(case.call(small)) if output.is_floating_point()]
    sum(output.float().square().sum() for output in outputs).backward()
    assert any(p.grad is not None for p in small.parameters())
    for parameter in small.parameters():
        assert parameter.grad is None or parameter.grad.shape == parameter.shape


def test_costs_are_those_of_the_built_network(case):
    assert case.space.uncounted == case.construct.uncounted
    for candidate in (case.space.full, case.space.uniform(0.5)):
        small = build(case.model, case.space, candidate)
        found = case.space.costs([candidate]).iloc[0]
        assert found.params == sum(p.numel() for p in small.parameters())
        assert found.param_bytes == sum(p.numel() * p.element_size() for p in small.parameters())
        if case.construct.macs:
            assert found.macs * case.batch == counted_macs(small, case.example)


def counted_macs(model, example):
    """By PyTorch's counter, on the meta device: on the CPU it does not see fused attention."""
    args, kwargs = as_call(example)
    torch.backends.mha.set_fastpath_enabled(False)
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter, torch.device("meta"):
            moved = {name: tensor.to("meta") for name, tensor in kwargs.items()}
            model.to("meta")(*[tensor.to("meta") for tensor in args], **moved)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_frees_what_constants_hold(name):
    case = Case(name, as_graph=True)
    case.check_cut(case.construct.graph)
    small = build(case.model, case.space, case.space.uniform(0.5))
    assert isinstance(small, torch.fx.GraphModule)
    case.check_equal()
    small = build(case.model, case.space, case.space.smallest)
    sum(output.square().sum() for output in flat(case.call(small))).backward()
    assert any(p.grad is not None for p in small.parameters())


def test_it_takes_a_step_of_training(case):
    small = build(case.model, case.space, case.space.uniform(0.5)).train()
    loss = sum(leaf.double().square().mean() for leaf in flat(case.call(small)) if leaf.requires_grad)
    if isinstance(loss, torch.Tensor):
        loss.backward()
        assert torch.isfinite(loss)
    torch.optim.SGD(small.parameters(), 1e-3).step()


@pytest.mark.parametrize("name", TRAINED)
def test_a_network_in_train_mode(name):
    """Traced and built in train mode, and equal with the statistics of the batch."""
    case = Case(name)
    case.model.train()
    case.space = Space.trace(case.model, case.example, divisor=1)
    assert case.model.training
    small = build(case.model, case.space, case.space.uniform(0.5))
    assert all(module.training for module in small.modules())
    assert relative_error(case.call(small), case.reference(case.space.uniform(0.5))) <= 1e-10


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_traced_is_said(name):
    construct = CONSTRUCTS[name]
    model, example = construct.network()
    with pytest.raises(ValueError, match=construct.error):
        Space.trace(model, example)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACED)
def test_a_module_with_two_names_changes_nothing(name):
    def found(shared):
        torch.manual_seed(0)
        model, example = CONSTRUCTS[name].network()
        if shared:  # torch.export passes others in the place of all modules then
            model.one_name = model.other_name = nn.Identity()
        space = Space.trace(model, example, divisor=1, prove=False)
        frozen = {place: why for place, why in space.frozen.items() if not place.endswith("_name")}
        groups = {group.name: group.units for group in space.groups}
        return groups, frozen, space.full_costs, [stage.name for stage in space.stages]

    assert found(True) == found(False)
