"""The ready functions for costs of the user's own: ONNX Runtime, a file's bytes, a table of a device."""

import cloudpickle
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import secateur as sc
from secateur.spaces.costs import ready

NETWORK = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
EXAMPLE = (torch.rand(1, 1, 8, 8),)
ROWS = "convolution,648,1\nconvolution,1944,2\nnative_batch_norm,1,0\nrelu,288,1\naddmm,288,4\n"


def table(path, rows, head="operator,size,cost\n"):
    path.write_text(head + rows)
    return sc.costs.table(path)


@pytest.mark.slow  # the exporter takes seconds
def test_milliseconds_and_bytes_in_onnx(monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = ready._onnx(NETWORK, EXAMPLE)
    monkeypatch.setattr(ready, "_onnx", lambda network, example: model)
    timed = sc.costs.onnxruntime_ms(threads=1, repeats=5)
    first, spread = sc.Cost("ort_ms", measure=timed).twice(NETWORK, EXAMPLE)
    assert 0 < first < 100 and spread >= 0
    assert cloudpickle.loads(cloudpickle.dumps(timed)).fingerprint == timed.fingerprint
    assert sc.costs.file_bytes("onnx")(NETWORK, EXAMPLE) == len(model) > 4 * (40 + 290)


def test_a_provider_that_is_not_there_is_refused():
    pytest.importorskip("onnxruntime")
    with pytest.raises(ValueError, match="cost 'ort_ms' raised ValueError: ONNX Runtime has no Nowhere here; it has"):
        sc.Cost("ort_ms", measure=sc.costs.onnxruntime_ms(providers=["Nowhere"]))(NETWORK, EXAMPLE)


def test_bytes_of_a_file(tmp_path):
    save_file(NETWORK.state_dict(), tmp_path / "network.safetensors")
    found = sc.costs.file_bytes("safetensors")(NETWORK, EXAMPLE)
    assert found == (tmp_path / "network.safetensors").stat().st_size
    assert sc.costs.file_bytes("pt2")(NETWORK, EXAMPLE) > found


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
    ],
)
def test_a_table_that_is_none(tmp_path, rows, said):
    with pytest.raises(ValueError, match=said):
        table(tmp_path / "phone.csv", rows)


def test_what_is_not_there_is_named(tmp_path):
    asked = table(tmp_path / "phone.csv", "relu,288,1\n")
    with pytest.raises(ValueError, match="no row for: addmm, convolution, native_batch_norm; add one"):
        asked(NETWORK, EXAMPLE)
    with pytest.raises(ValueError, match=r"file_bytes\('tflite'\): expected one of onnx, pt2, safetensors"):
        sc.costs.file_bytes("tflite")
    with pytest.raises(ValueError, match="threads=0, repeats=20: expected whole numbers of at least 1"):
        sc.costs.onnxruntime_ms(threads=0)
