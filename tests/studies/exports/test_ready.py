"""Costs of the user's own that an export has: its time in ONNX Runtime, the bytes of its file."""

import cloudpickle
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import secateur as sc
from secateur.studies.exports.ready import _converted

NETWORK = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
EXAMPLE = (torch.rand(1, 1, 8, 8),)


class Named(nn.Module):
    """Returns a dict whose names are those of an operator and of its input."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x):
        return {"relu": torch.relu(self.conv(x)), "x": x.mean()}


@pytest.mark.slow  # the exporter takes seconds
def test_milliseconds_and_bytes_in_onnx():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    timed = sc.onnxruntime_ms(threads=1, repeats=5)
    first, spread = sc.Cost("ort_ms", measure=timed).twice(NETWORK, EXAMPLE)
    assert 0 < first < 100 and spread >= 0
    assert cloudpickle.loads(cloudpickle.dumps(timed)).fingerprint == timed.fingerprint
    assert sc.file_bytes("onnx")(NETWORK, EXAMPLE) > 4 * (40 + 290)


def test_a_provider_that_is_not_there_is_refused():
    pytest.importorskip("onnxruntime")
    with pytest.raises(ValueError, match="cost 'ort_ms' raised ValueError: ONNX Runtime has no Nowhere here; it has"):
        sc.Cost("ort_ms", measure=sc.onnxruntime_ms(providers=["Nowhere"]))(NETWORK, EXAMPLE)


def test_bytes_of_a_file(tmp_path):
    save_file(NETWORK.state_dict(), tmp_path / "network.safetensors", metadata={"format": "pt"})
    found = sc.file_bytes("safetensors")(NETWORK, EXAMPLE)
    assert found == (tmp_path / "network.safetensors").stat().st_size
    assert sc.file_bytes("pt2")(NETWORK, EXAMPLE) > found


@pytest.mark.slow  # the exporter takes seconds
def test_what_an_export_can_write_can_be_timed():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert sc.onnxruntime_ms(repeats=1)(Named().eval(), EXAMPLE) > 0


def test_settings_that_make_no_sense():
    with pytest.raises(ValueError, match=r"file_bytes\('tflite'\): expected one of safetensors, pt2, onnx"):
        sc.file_bytes("tflite")
    with pytest.raises(ValueError, match="threads=0, repeats=20: expected whole numbers of at least 1"):
        sc.onnxruntime_ms(threads=0)


def test_what_is_measured_is_what_an_export_writes(tmp_path):
    """With a free batch, which ONNX Runtime takes longer for: an export would miss a limit that a fixed one met."""
    space = sc.Space.trace(NETWORK, EXAMPLE)
    assert _converted(NETWORK, EXAMPLE).program.range_constraints, "the batch is free"
    sc.save(tmp_path / "out", NETWORK, model=NETWORK, space=space, candidate=space.full)
    written = (tmp_path / "out" / "model.onnx").stat().st_size
    assert 0 <= written - sc.file_bytes("onnx")(NETWORK, EXAMPLE) < 4000, "but for its notes"
