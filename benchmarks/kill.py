"""kill -9 at random moments, then compare the table of trials with an uninterrupted run's, row by row.

    python benchmarks/kill.py [--kills 20] [--real-kills 5] [--samplers random tpe nsga2 gp]

Each line is one study: it is killed so many times, every time in a new process that goes on where the last one stood,
and then finished. Rows are compared in every column but the times.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from killing import kill_often, study_in, table  # noqa: E402


def compare(name: str, *, sampler: str, real: bool, kills: int, trials: int, longest_s: float) -> bool:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        straight = study_in(folder / "straight", sampler, real)
        straight.run(trials)
        struck = kill_often(
            folder / "killed", kills=kills, trials=trials, sampler=sampler, real=real, longest_s=longest_s
        )
        expected, found = table(straight), table(study_in(folder / "killed", sampler, real))
        same = 0
        if list(expected.columns) == list(found.columns) and len(expected) == len(found):
            same = sum(expected.loc[i].equals(found.loc[i]) for i in expected.index)
        print(f"{name:16}{sampler:8}{struck:>6}{len(found):>8}{same:>8}/{len(expected)}", flush=True)
        return same == len(expected) and struck > 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--real-kills", type=int, default=5)
    parser.add_argument("--samplers", nargs="+", default=["tpe"], choices=["random", "tpe", "nsga2", "gp"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'evaluator':16}{'sampler':8}{'kills':>6}{'trials':>8}{'equal rows':>12}")
    good = True
    for sampler in asked.samplers:
        good &= compare("instant", sampler=sampler, real=False, kills=asked.kills, trials=120, longest_s=0.4)
        good &= compare("real training", sampler=sampler, real=True, kills=asked.real_kills, trials=40, longest_s=0.8)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
