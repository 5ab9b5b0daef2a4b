"""ResRep in loops of others: each tells the method all that it needs to know, and both do the same."""

from importlib.util import find_spec

import pytest
from example_runs import ROOT, code_lines, quotes, run, run_beside_torchvision, run_example, trace_of

FOLDER = ROOT / "examples" / "training_loop"
BESIDE = find_spec("torchvision") is not None  # Lightning's metrics then import it
lightning = pytest.mark.skipif(find_spec("pytorch_lightning") is None, reason="pytorch-lightning is not installed")


def test_a_plain_loop(tmp_path):
    within_the_budget(run_example("training_loop", "--tiny", "--method", "granet", cwd=tmp_path))


@lightning
@pytest.mark.slow  # the next one runs its loop
def test_lightning_runs(tmp_path):
    run_it = run_beside_torchvision if BESIDE else run_example
    within_the_budget(run_it("training_loop", "--tiny", "--loop", "lightning", cwd=tmp_path))


@pytest.mark.slow
@lightning
def test_both_find_the_same_network(tmp_path):
    printed = run(
        [ROOT / "tests" / "examples" / "both_loops.py", "beside-torchvision" if BESIDE else "alone"], tmp_path
    )
    plain, other = (line for line in printed.splitlines() if line.startswith("["))
    assert plain == other


def test_a_line_traces_it(tmp_path):
    assert "6 groups of channels" in trace_of('"run:Net"', '{ reader = "mnist5k" }', FOLDER, tmp_path)


def test_the_pieces_are_short():
    assert code_lines((FOLDER / "plain.py").read_text()) < 30
    for names in (["Classifier"], ["Pruning"], ["fit"]):
        assert code_lines((FOLDER / "with_lightning.py").read_text(), *names) < 30
    assert code_lines((FOLDER / "run.py").read_text(), "Net", "batches") < 30
    quotes("training_loop.md", "training_loop")


def within_the_budget(printed: str) -> None:
    (line,) = [line for line in printed.splitlines() if line.startswith("seed 0:")]
    words = line.split()
    assert float(words[2]) <= 0.4 * float(words[4]) + 0.005  # both rounded to 0.01 million
