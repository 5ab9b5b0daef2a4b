"""A vision transformer of Hugging Face, cut and trained by its Trainer: it runs where its packages are installed."""

import re
from importlib.util import find_spec

import pytest
from example_runs import quotes, run_beside_torchvision

PACKAGES = ("transformers", "accelerate", "torchao", "openvino")


@pytest.mark.slow
@pytest.mark.skipif(not all(map(find_spec, PACKAGES)), reason=f"one of {', '.join(PACKAGES)} is not installed")
def test_it_runs(tmp_path):
    printed = run_beside_torchvision("hugging_face", "--tiny", "--out", tmp_path / "out", cwd=tmp_path)
    rows = dict(re.findall(r"^\| (.*) \| ([\d.]+%) \|$", printed, re.MULTILINE))
    assert list(rows) == ["full", "cut", "trained again", "loaded", "in OpenVINO", "int8 weights, torchao"]
    assert rows["trained again"] == rows["loaded"] == rows["in OpenVINO"]
    share = float(re.search(r"^([\d.]+)% of the multiply-adds", printed, re.MULTILINE)[1])
    assert 30 < share <= 40


def test_the_page_quotes_the_example():
    assert quotes("hugging_face.md", "hugging_face")
