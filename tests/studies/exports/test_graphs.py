"""A network whose forward writes channel numbers down: traced as a graph, searched, trained, exported, loaded."""

import pytest
import torch
import torch.nn.functional as F
from tasks import classification
from torch import nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from secateur import Budget, Search, Space, Study, build, load, save, verify
from secateur.evaluators import Training


class Split(nn.Module):
    """A split with its sizes written in, a batch norm, a dropout."""

    def __init__(self, c=12):
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, c, 3, padding=1), nn.BatchNorm2d(c)
        self.b, self.drop, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Dropout(0.2), nn.Linear(c, 3)

    def forward(self, x):
        left, right = F.relu(self.norm(self.a(x))).split([8, 4], 1)
        x = torch.cat([F.relu(self.b(left)), right], 1)
        return self.head(self.drop(x.mean((2, 3))))


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Split().eval()


@pytest.mark.parametrize("kind", ["dict", "list", "tuple"])
def test_graphs_of_nested_outputs_are_exported(kind, tmp_path):
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

        def forward(self, x):
            y = self.body(x).relu()
            found = {"logits": self.head(y), "more": {"features": (y.mean((2, 3)), [y])}}
            return {"dict": found, "list": [found, y], "tuple": (y, found)}[kind]

    model, x = Nested().eval(), torch.rand(2, 3, 8, 8)
    space = Space.trace(model, x, divisor=1, as_graph=True)
    network = build(model, space, space.uniform(0.5))
    save(tmp_path / "out", network, model=model, space=space, candidate=space.uniform(0.5))
    found, wanted = load(tmp_path / "out")(x), network(x)
    assert pytree.tree_structure(found) == pytree.tree_structure(wanted)
    torch.testing.assert_close(found, wanted)


def test_a_module_is_frozen_and_a_graph_is_not():
    model, x = network(), torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    as_module = Space.trace(model, x, divisor=1)
    assert "written as a constant" in as_module.frozen["a"]
    space = Space.trace(model, x, divisor=1, as_graph=True)
    assert {"a", "b"} <= {group.name.partition("#")[0] for group in space.groups}
    for candidate in (space.uniform(0.5), *space.sample(5)):
        small = build(model, space, candidate)
        assert isinstance(small, GraphModule)
        assert verify(model, space, candidate, x) < 1e-5
    with pytest.raises(ValueError, match="as_graph=False"):
        build(model, space, space.full, as_graph=False)
    with pytest.raises(ValueError, match="as_graph=True"):
        build(model, as_module, as_module.full, as_graph=True)


def test_a_graph_trains_as_the_module_does():
    model, x = network(), torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    space = Space.trace(model, x, divisor=1, as_graph=True)
    graph = build(model, space, space.full)
    assert isinstance(graph.norm, nn.BatchNorm2d) and not graph.training
    for network_ in (model, graph):
        network_.train()
        for module in network_.modules():
            if isinstance(module, nn.Dropout):
                assert module.p == 0.2
                module.p = 0.0
        network_(x).square().sum().backward()
    assert torch.allclose(model.norm.running_var, graph.norm.running_var)
    ours = dict(graph.named_parameters())
    assert set(ours) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, ours[name].grad, atol=1e-6), name


def test_a_study_of_graphs(tmp_path):
    model, task = network(), classification()
    space = Space.trace(model, torch.rand(1, 3, 8, 8), divisor=1, as_graph=True)
    training = Training(short_epochs=1, long_epochs=1)
    study = Study.create(
        tmp_path / "study",
        model=model,
        task=task,
        space=space,
        budget=Budget(macs=0.5),
        training=training,
        search=Search(threads=1),
    )
    study.run(4)
    front = study.front()
    assert len(front) >= 1 and (study.trials().state == "complete").all()
    again = Study.open(tmp_path / "study", model=network(), task=task)
    assert again.space.fingerprint == space.fingerprint
    [folder] = again.export(tmp_path / "out", pick="best")
    x = torch.rand(3, 3, 8, 8)
    loaded = load(folder, network())
    torch.testing.assert_close(load(folder)(x), loaded(x))
    assert isinstance(loaded, GraphModule) and not loaded.training
    before = loaded.norm.running_mean.clone()
    loaded.train()(x).square().sum().backward()
    assert not torch.equal(loaded.norm.running_mean, before)
    assert all(parameter.grad is not None for parameter in loaded.parameters())


class Plain(nn.Module):
    """A block that may be dropped though nothing leads around it, and a layer that is named in ignore."""

    def __init__(self):
        super().__init__()
        self.a, self.block = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.b, self.head = nn.Conv2d(8, 6, 3, padding=1), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(F.relu(self.b(F.relu(self.block(self.a(x))))).mean((2, 3)))


def test_a_graph_is_rebuilt_as_its_space_was_traced(tmp_path):
    torch.manual_seed(0)
    model, x = Plain().eval(), torch.rand(2, 3, 8, 8)
    space = Space.trace(model, x, divisor=2, as_graph=True, plain_blocks=("block",), ignore=("b",), resolutions=(8, 6))
    candidate = space.uniform(0.5, depth=0, resolution=0.75)
    small = build(model, space, candidate)
    save(tmp_path / "net", small, model=model, space=space, candidate=candidate, formats=())
    loaded, x = load(tmp_path / "net", Plain()), torch.rand(3, 3, 6, 6)
    assert space.removed(candidate) == ("block",)
    assert torch.equal(loaded(x), small(x))
    loaded.train()(x).sum().backward()
