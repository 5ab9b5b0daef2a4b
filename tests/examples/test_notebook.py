"""The notebook with an own CNN: every cell runs, and it is a whole notebook."""

import ast
import json

import pytest
from example_runs import ROOT, code_lines, run_example

NOTEBOOK = ROOT / "examples" / "notebook" / "own_cnn.ipynb"


@pytest.mark.slow
def test_every_cell_runs(tmp_path):
    printed = run_example("notebook", "--tiny", "--out", tmp_path / "out", cwd=tmp_path)
    assert "8 groups of channels" in printed and "2 stages of blocks" in printed
    assert list((tmp_path / "out" / "networks").glob("trial-*/model.safetensors"))
    (line,) = [line for line in printed.splitlines() if line.startswith("largest difference")]
    assert float(line.rpartition(" ")[2]) < 1e-4


def test_it_is_a_small_whole_notebook():
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], NOTEBOOK.stat().st_size < 100_000) == (4, True)
    sources = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["id"] and isinstance(cell["outputs"], list) for cell in notebook["cells"] if "outputs" in cell)
    (tagged,) = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", ())]
    assert {"IMAGES", "TRIALS", "BASE_EPOCHS", "EPOCHS", "SEED", "FOLDER"} <= names(tagged)
    (network,) = [source for source in sources if "class Net" in source]
    (data,) = [source for source in sources if "sc.Classification(" in source]
    assert code_lines(network) < 30 and len(data.splitlines()) < 30


def names(cell) -> set[str]:
    return {node.id for node in ast.walk(ast.parse("".join(cell["source"]))) if isinstance(node, ast.Name)}
