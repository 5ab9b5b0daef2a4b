"""A study of a network whose blocks take a mask and give tuples: searched, stopped, gone on with, exported, loaded."""

import json

import torch
from tasks import classification
from torch import nn

from secateur import Budget, Candidate, Search, Space, Study, load
from secateur.evaluators import Training


class Layer(nn.Module):
    """Attention over positions, as in BERT: a norm after each sum, a mask by name, a tuple."""

    def __init__(self, c=16):
        super().__init__()
        self.attention, self.first = nn.MultiheadAttention(c, 2, batch_first=True), nn.LayerNorm(c)
        self.wide, self.narrow, self.second = nn.Linear(c, 32), nn.Linear(32, c), nn.LayerNorm(c)

    def forward(self, x, scale=1.0, *, mask=None):
        found, weights = self.attention(x, x, x, attn_mask=mask)
        x = self.first(x + found)
        return self.second((x + self.narrow(self.wide(x).relu())) / scale), weights


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 16, 2, stride=2), nn.Linear(16, 3)
        self.layers = nn.ModuleList(Layer() for _ in range(3))

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        for layer in self.layers:
            x = layer(x, 2.0, mask=mask)[0]
        return self.head(x.mean(1))


def encoder():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Encoder().eval()


def test_a_study_of_layers(tmp_path):
    task = classification()
    space = Space.trace(encoder(), torch.rand(1, 3, 8, 8))
    assert [stage.blocks for stage in space.stages] == [("layers.0", "layers.1", "layers.2")]
    study = Study.create(
        tmp_path / "study",
        model=encoder(),
        task=task,
        space=space,
        budget=Budget(macs=0.9),
        training=Training(short_epochs=1, long_epochs=1),
        search=Search(threads=1),
    )
    wanted = Candidate([*space.full[:-1], 1])
    study.enqueue(wanted)
    study.run(1)
    again = Study.open(tmp_path / "study", model=encoder(), task=task)
    assert again.space.fingerprint == space.fingerprint and again.space.layout.gives == space.layout.gives
    again.run(2)
    trials = again.trials()
    assert (trials.state == "complete").all()
    [number] = trials.index[trials["depth:layers"] == 1][:1]
    [folder] = again.export(tmp_path / "out", pick=int(number), formats=["pt2"])
    config = json.loads((folder / "config.json").read_text())
    assert config["removed"] == ["layers.2", "layers.1"] and set(config["gives"]) == {"layers.1", "layers.2"}
    x = torch.rand(3, 3, 8, 8)
    loaded = load(folder, encoder())
    torch.testing.assert_close(load(folder)(x), loaded(x), rtol=1e-4, atol=1e-5)
    loaded.train()(x).square().sum().backward()
    assert loaded.layers[0].wide.weight.grad.any()
