"""A cost from a table of a device."""

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
