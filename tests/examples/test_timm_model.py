"""A network of timm by name: the three commands run, and any name will do."""

import json
from importlib.util import find_spec

import pytest
from example_runs import ROOT, code_lines, quotes, run_example, trace_of

FOLDER = ROOT / "examples" / "timm_model"
SHORTER = {
    "base_epochs = 12": "base_epochs = 1",
    "long_epochs = 6": "long_epochs = 0",
    "trials = 24": "trials = 2",
    'reader = "mnist5k"': 'reader = "mnist5k"\nvalidation = 0.1\ntest = 0.8',
}
timm = pytest.mark.skipif(
    find_spec("timm") is None or find_spec("torchvision") is None, reason="timm or torchvision is not installed"
)


@pytest.mark.slow
@timm
def test_the_study_file_runs(tmp_path):
    text = (FOLDER / "study.toml").read_text()
    for long, short in SHORTER.items():
        assert text.count(long) == 1
        text = text.replace(long, short)
    (tmp_path / "study.toml").write_text(f'folder = "{FOLDER}"\n{text}')
    printed = run_example("timm_model", "--study", "study.toml", "--out", "out", cwd=tmp_path)
    networks = sorted((tmp_path / "out" / "networks").glob("trial-*"))
    rows = [line for line in printed.splitlines() if line.startswith("| ")]
    assert "groups of channels" in printed  # of `secateur trace`
    assert networks and len(rows) == 3 + len(networks)
    for folder in networks:
        record = json.loads((folder / "config.json").read_text())
        assert record["costs"]["macs"] <= 0.33 * record["full_costs"]["macs"]


@timm
@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "resnet10t"])
def test_another_name_is_traced(name, tmp_path):
    model = f'{{ factory = "by_name:network", arguments = {{ name = "{name}" }} }}'
    said = trace_of(model, '{ reader = "mnist5k" }', FOLDER, tmp_path)
    assert "groups of channels" in said


def test_the_piece_is_short():
    assert code_lines((FOLDER / "by_name.py").read_text()) < 30
    quotes("timm_model.md", "timm_model")
