"""The U-Net on slices of a head: every step runs, and the pieces that users copy are short."""

import json
from importlib.util import find_spec

import pytest
from example_runs import ROOT, code_lines, quotes, run_example, trace_of

FOLDER = ROOT / "examples" / "segmentation"
slices = pytest.mark.skipif(find_spec("nilearn") is None, reason="nilearn, which brings the slices, is not installed")


@pytest.mark.slow
@slices
def test_it_runs_within_both_budgets(tmp_path):
    printed = run_example("segmentation", "--tiny", "--out", tmp_path / "out", cwd=tmp_path)
    rows = [line for line in printed.splitlines() if line.startswith("| ")]
    networks = sorted((tmp_path / "out" / "networks").glob("trial-*"))
    assert networks and len(rows) == 3 + len(networks)  # two of the head, one of the full network
    for folder in networks:
        record = json.loads((folder / "config.json").read_text())
        assert record["costs"]["macs"] <= 0.25 * record["full_costs"]["macs"]
        assert record["costs"]["peak_bytes"] <= 0.5 * record["full_costs"]["peak_bytes"]


@slices
def test_two_lines_trace_it(tmp_path):
    said = trace_of('"unet:UNet"', '"slices:task"', FOLDER, tmp_path)
    assert "13 groups of channels" in said and "3 stages of blocks" in said


def test_the_pieces_are_short():
    assert code_lines((FOLDER / "unet.py").read_text()) < 30
    assert code_lines((FOLDER / "slices.py").read_text()) < 30
    quotes("segmentation.md", "segmentation")
