"""A cost from a table of a device."""

import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

import secateur as sc

NETWORK = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
EXAMPLE = (torch.rand(1, 1, 8, 8),)
ROWS = "convolution,648,1\nconvolution,1944,2\nnative_batch_norm,1,0\nrelu,288,1\naddmm,288,4\n"


def table(path, rows, head="operator,size,cost\n"):
    path.write_text(head + rows, errors="surrogateescape")
    return sc.costs.table(path)


def test_a_table_is_read_between_its_rows_and_beyond_them(tmp_path):
    """The convolution has 36 * 36 = 1296 multiply-adds, the ReLU 144 elements, the linear layer 288."""
    found = sc.Cost("phone_ms", measure=table(tmp_path / "phone.csv", ROWS))(NETWORK, EXAMPLE)
    assert found == pytest.approx(1.5 + 0 + 1 + 4)
    twice = table(tmp_path / "phone.csv", ROWS.replace("addmm,288", "addmm,144"))(NETWORK, EXAMPLE)
    assert twice == pytest.approx(1.5 + 0 + 1 + 8)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("relu,288\n", "phone.csv, line 2: expected the columns operator, size and cost"),
        ("relu,-1,1\n", "phone.csv, line 2: expected the columns operator, size and cost"),
        ("", "phone.csv has no row"),
        ("x" * 200_000 + ",1,1\n", "phone.csv is no CSV"),
        ("\udcff,1,1\n", "phone.csv is no CSV"),
        ("x" * 100_000 + ",1,q\n", "phone.csv, line 2: .{300,400}$"),
    ],
)
def test_a_table_that_is_none(tmp_path, rows, said):
    with pytest.raises(ValueError, match=said):
        table(tmp_path / "phone.csv", rows)


def test_what_is_not_there_is_named(tmp_path):
    asked = table(tmp_path / "phone.csv", "relu,288,1\n")
    with pytest.raises(ValueError, match="no row for: addmm, convolution, native_batch_norm; add one"):
        asked(NETWORK, EXAMPLE)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="phone.csv does not exist; give a CSV with the columns"):
        sc.costs.table(tmp_path / "phone.csv")


# --- what the allocator gives out ---


def test_the_measured_peak_is_what_is_held_and_the_most_that_lives_at_once():
    """The parameter, the buffer and the input; and two tensors of the input's size."""

    class Squares(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(64))
            self.register_buffer("shift", torch.zeros(36))

        def forward(self, x):
            once = x * self.scale  # 6,400 numbers
            return (once * once).sum()  # as many beside it, then one

    found = sc.costs.measured_peak()(Squares(), (torch.rand(100, 64),))
    assert found == pytest.approx(4 * (64 + 36 + 6_400 + 2 * 6_400), abs=2_000)  # a sum has a little of its own


def test_the_measured_peak_falls_with_the_width_and_is_near_arithmetic():
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(2)]
    network, image = nn.Sequential(*layers).eval(), torch.rand(1, 3, 96, 96)  # of small ones PyTorch unfolds the input
    space = sc.Space.trace(network, image, divisor=1)
    full, half = space.full, space.uniform(0.5)
    small = sc.build(network, space, half)
    found = [sc.costs.measured_peak()(one, (image,)) for one in (network, small)]
    costs = space.costs([full, half])["peak_bytes"]
    assert found[1] < found[0] and all(0.7 < a / b < 1.6 for a, b in zip(found, costs, strict=True))


def test_it_is_a_cost_of_a_study_file_that_pickles():
    measure = sc.costs.measured_peak()
    assert pickle.loads(pickle.dumps(measure))(NETWORK, EXAMPLE) > 0 and measure.fingerprint == "measured peak"
    with pytest.raises(ValueError, match="measured on cpu and cuda; the network is on meta"):
        measure(nn.Linear(2, 2, device="meta"), (torch.zeros(1, 2, device="meta"),))


def test_measuring_says_nothing_and_leaves_the_environment():
    code = "import os, torch, secateur as sc; before = dict(os.environ); measure = sc.costs.measured_peak()"
    code += "; print(measure(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))); assert dict(os.environ) == before"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(ran.stdout) >= 4 * (6 + 2 + 2) and ran.stderr == ""
