"""A YOLO within a budget, trained and validated by Ultralytics: every step runs, where Ultralytics is installed."""

from importlib.util import find_spec

import pytest
from example_runs import quotes, run_beside_torchvision


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ultralytics") is None, reason="Ultralytics is not installed")
def test_it_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    printed = run_beside_torchvision("yolo", "--tiny", "--all-boxes", "--out", tmp_path / "out", cwd=tmp_path)
    rows = [line for line in printed.splitlines() if line.startswith("| ")]
    assert len(rows) == 5 and (tmp_path / "out" / "boxes.png").exists()
    assert (tmp_path / "out" / "tuned_onnx" / "model.onnx").exists()


def test_the_page_quotes_the_example():
    assert quotes("yolo.md", "yolo")
