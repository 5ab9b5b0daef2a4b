"""Runs the cells of `own_cnn.ipynb` in plain Python, with other numbers where they are given; needs no Jupyter.

pip install 'secateur[mnist,plot]'
python examples/notebook/run.py --out runs/own_cnn
"""

from __future__ import annotations

import argparse
import ast
import json
import time
from pathlib import Path


def run(path, parameters):
    """The names that the cells leave; prints what a notebook would show."""
    names = {"__name__": "__main__"}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            program = ast.parse("".join(cell["source"]))
            shown = program.body.pop() if isinstance(program.body[-1], ast.Expr) else None
            exec(compile(program, path.name, "exec"), names)
            value = None if shown is None else eval(compile(ast.Expression(shown.value), path.name, "eval"), names)
            if value is not None:
                print(value)
            if "parameters" in cell["metadata"].get("tags", ()):
                names.update(parameters)
    return names


def main():
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/own_cnn")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--base-epochs", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=4, help="of every network of the front")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="so small that it shows only that all runs")
    given = parser.parse_args()
    numbers = {"TRIALS": given.trials, "BASE_EPOCHS": given.base_epochs, "EPOCHS": given.epochs, "SEED": given.seed}
    if given.tiny:
        numbers |= {"IMAGES": 500, "TRIALS": 2, "BASE_EPOCHS": 1, "EPOCHS": 0}
    run(Path(__file__).with_name("own_cnn.ipynb"), numbers | {"FOLDER": given.out})
    print(f"{time.process_time():.0f} s of one core")


if __name__ == "__main__":
    main()
