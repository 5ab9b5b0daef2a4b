"""What the front of another search is worth to begin with, on tables of networks that others published.

    python benchmarks/priors.py DIR [--trials 40] [--share 0.5 0.3 0.1]

DIR is that of benchmarks/external.py. The same space was trained on CIFAR-10 and on CIFAR-100 (NATS-Bench SSS, 32,768
networks). *none* begins as a study does by default; *prior* with
five networks of the front that `auto` found in 80 trials on the other data, as `Search(prior=)` takes them; *shuffled*
with five of the same trials whose errors were exchanged: a prior that says nothing. Judged as there: percent of the
true front's hypervolume within the budget after so many trials. One replay: the table has one training of a network,
and every network is judged, so a search has no chance in it.
"""

from __future__ import annotations

import argparse
from types import SimpleNamespace

import numpy as np
from external import TableSpace, _by_study, load, seeds_of
from fashion import commit
from scipy.stats import spearmanr

from secateur.search import Problem
from secateur.studies.drivers.prior import seeds_from

PAIRS = {"nats_sss_cifar10": "nats_sss_cifar100", "nats_sss_cifar100": "nats_sss_cifar10"}
AT = (6, 10, 20, 40)


def tried(table, share, trials, seeds=None):
    """Rows that `auto` tries, and the errors that it is told."""
    space = TableSpace(table)
    limits = {"macs": share * table.costs["macs"][-1]}
    problem = Problem(space=space, limits=limits, batch=4, trials=trials)
    return _by_study(table, problem, "auto", seeds or seeds_of(space, limits, True), share, 0, trials)


def seeds(kind, table, other, share):
    """What the search begins with; None: as by default."""
    if kind == "none":
        return None
    space, limits = TableSpace(table), {"macs": share * table.costs["macs"][-1]}
    rows, errors = tried(other, share, 80)
    if kind == "shuffled":
        errors = np.random.default_rng(0).permutation(errors)
    trials = [
        SimpleNamespace(candidate=tuple(other.levels[row].tolist()), error=error)
        for row, error in zip(rows, errors, strict=True)
    ]
    return [space.full, *seeds_from(trials, space, limits, "macs")]


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--trials", type=int, default=max(AT))
    parser.add_argument("--share", type=float, nargs="+", default=[0.5, 0.3, 0.1])
    given = parser.parse_args()
    one, other = (load(name, given.folder).truth for name in PAIRS)
    print(f"Commit {commit()}. Rank correlation of the errors: {spearmanr(one, other).statistic:.2f}.\n")
    print("| table | MACs | begins with | " + " | ".join(f"after {count}" for count in AT) + " |")
    print("|---|---|---|" + "---|" * len(AT))
    for name, of in PAIRS.items():
        table, other = load(name, given.folder), load(of, given.folder)
        for share in given.share:
            for kind in ("none", "prior", "shuffled"):
                rows, _ = tried(table, share, given.trials, seeds(kind, table, other, share))
                shown = [100 * table.volume(rows[:count], share) / table.reachable[share] for count in AT]
                print(f"| {name} | {share} | {kind} | {' | '.join(f'{one:.1f}' for one in shown)} |", flush=True)


if __name__ == "__main__":
    main()
