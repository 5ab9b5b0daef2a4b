"""Numbers that libraries keep beside their layers follow, though no layer reads them."""

from pathlib import Path

import pytest
import torch
from torch import nn

from secateur import Space, build, load, save


class Conv(nn.Module):
    def __init__(self, given, made, size=1):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(given, made, size, padding=size // 2), nn.BatchNorm2d(made)

    def forward(self, x):
        return self.bn(self.conv(x)).relu()


class Split(nn.Module):
    """As Ultralytics writes it: two forwards, of which an exporter takes the other one."""

    def __init__(self, given, made):
        super().__init__()
        self.c = made // 2
        self.cv1, self.m, self.cv2 = Conv(given, 2 * self.c), Conv(self.c, self.c, 3), Conv(3 * self.c, made)

    def forward(self, x):
        one, two = self.cv1(x).chunk(2, 1)
        return self.cv2(torch.cat([one, two, self.m(two)], 1))

    def forward_split(self, x):
        one, two = self.cv1(x).split((self.c, self.c), 1)
        return self.cv2(torch.cat([one, two, self.m(two)], 1))


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body, self.last = Conv(3, 8), Split(8, 16), nn.Conv2d(16, 4, 1)

    def forward(self, x):
        return self.last(self.body(self.stem(x)))


class Classifier(nn.Module):
    """As timm writes it, with or without a convolution after the pooling."""

    def __init__(self, head_conv):
        super().__init__()
        self.num_features = 8
        self.head_hidden_size = 16 if head_conv else 8
        self.stem = Conv(3, 8, 3)
        self.conv_head = nn.Conv2d(8, 16, 1) if head_conv else nn.Identity()
        self.fc = nn.Linear(self.head_hidden_size, 5)

    def get_classifier(self):
        return self.fc

    def forward(self, x):
        return self.fc(self.conv_head(self.stem(x).mean((2, 3), keepdim=True)).flatten(1))


def cut_and_loaded(model, folder):
    space = Space.trace(model.eval(), torch.rand(1, 3, 12, 12), divisor=2)
    candidate = space.uniform(0.5)
    small = build(model, space, candidate)
    save(folder, small, model=model, space=space, candidate=candidate, formats=())
    return small, load(folder, model=model)


def test_the_other_forward_of_a_split(tmp_path):
    model = Detector()
    for network in cut_and_loaded(model, tmp_path / "net"):
        assert network.body.c == network.body.cv1.conv.out_channels // 2 < 8
        inputs = torch.rand(2, network.body.cv1.conv.in_channels, 5, 5)
        torch.testing.assert_close(network.body.forward_split(inputs), network.body(inputs))
    assert model.body.c == 8


@pytest.mark.parametrize("head_conv", [False, True])
def test_features_of_a_classifier(head_conv, tmp_path):
    for network in cut_and_loaded(Classifier(head_conv), tmp_path / "net"):
        assert network.head_hidden_size == network.fc.in_features < (16 if head_conv else 8)
        assert network.num_features == network.stem.conv.out_channels < 8


def test_a_number_that_is_none_of_a_layer_stays(tmp_path):
    model = Classifier(False)
    model.num_features, model.head_hidden_size = 7, "eight"
    for network in cut_and_loaded(model, tmp_path / "net"):
        assert (network.num_features, network.head_hidden_size) == (7, "eight")


def test_where_the_divisor_does_not_hold_is_said():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 2)).eval()
    said = str(Space.trace(model, torch.rand(1, 4), divisor=8))
    assert "no narrower multiple of the divisor, 8, so it does not hold: 0\n" in f"{said}\n"
    assert "divisor" not in str(Space.trace(model, torch.rand(1, 4), divisor=2))


class Backbone(Classifier):
    """With the table that timm keeps of what inner modules give."""

    def __init__(self):
        super().__init__(False)
        self.inner = nn.Conv2d(8, 8, 3)
        self.feature_info = [{"num_chs": 8, "module": "stem"}, {"num_chs": 8, "module": "inner"}]

    def forward_intermediates(self, x, intermediates_only):
        features = self.stem(x)
        return [features, self.inner(features)]

    def forward(self, x):
        return self.fc(self.forward_intermediates(x, intermediates_only=True)[-1].mean((2, 3)))


def test_the_table_of_features_is_written_as_the_page_says(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "networks.md").read_text()
    lines = page.split("## timm's table of features")[1].split("```text\n")[1].split("```")[0]
    model = Backbone()
    for network in cut_and_loaded(model, tmp_path / "net"):
        exec(lines, {"network": network, "x": torch.rand(1, 3, 12, 12)})
        made = [network.stem.conv.out_channels, network.inner.out_channels]
        assert [entry["num_chs"] for entry in network.feature_info] == made and max(made) < 8
    assert [entry["num_chs"] for entry in model.feature_info] == [8, 8]


def test_an_encoder_without_the_head_that_it_names_is_traced():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

        def get_classifier(self):
            return self.head

        def forward(self, x):
            return self.second(self.first(x).relu())

    assert len(Space.trace(Encoder().eval(), torch.rand(1, 3, 8, 8), divisor=1).groups) == 1


class Flat(nn.Sequential):
    def forward(self, x):
        return self[1](self[0](x).relu().view(-1, 8 * 36))


def test_a_space_says_what_frees_channels_that_a_number_in_the_forward_holds_up():
    network = Flat(nn.Conv2d(3, 8, 1), nn.Linear(288, 4)).eval()
    spaces = [Space.trace(network, torch.rand(2, 3, 6, 6), as_graph=graph) for graph in (False, True)]
    assert [len(one.groups) for one in spaces] == [0, 1]
    assert ["as_graph=True may cut" in str(one) for one in spaces] == [True, False]
