"""Searches replayed on tables of trained networks that others published, beside samplers of other libraries.

    python benchmarks/external.py DIR [run] [--only auto gp] [--on nas_bench_macro] [--share 0.5 0.3] [--seeds 3]
    python benchmarks/external.py DIR show
    python benchmarks/external.py DIR page

DIR holds a `.npz` a table but for `groups`, the complete landscape of benchmarks/landscape.py (its other one, `layers`,
has too many networks to judge each): `levels (n, d)`, every combination of the axes' levels, the full network last;
`macs` and `params (n,)`; `runs (n, r)`, errors between 0 and 1 of r trainings; and `truth (n,)`, the errors without the
noise of a training. A search is told one training of each network (drawn by row and replay) and its standard error, and
judged by the truth: the hypervolume of what it tried within the budget against twice the full network's error, in
percent of what the whole table reaches; and the true error of the network that it names the best, above the least there
is.

`auto` and the samplers of Optuna go through the loop of a study: proposer, repair, several trials at once. The rivals
beside them see the whole table's costs and judge every network in it: `gp`, BoTorch's Gaussian process with a length
scale an axis, its hyperparameters as BoTorch sets them, and the expected hypervolume improvement over its posterior
means at exact costs; `forest`, the same by a random forest of scikit-learn; `evolution`, regularised evolution by
non-domination. `gp` and `forest` start from four networks of spread sizes, evolution, TPE and NSGA-II by chance.
`gp` needs BoTorch: `pip install --no-deps botorch gpytorch linear_operator pyro-ppl pyro-api multipledispatch
jaxtyping wadler-lindig threadpoolctl pyre-extensions typing-inspect opt_einsum` beside this project's torch.

Cells are kept in build/external, one a file, and taken from there; `--again` runs them anew. The page also says how
many trials `auto` and `gp` take for what TPE has after 200, if `--only tpe --trials 200` was run.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from fashion import commit
from landscape import load as recorded
from scipy.linalg import cho_factor, cho_solve
from sklearn.ensemble import RandomForestRegressor

from secateur.search import SAMPLERS, Problem, non_dominated
from secateur.search.pareto import ranks
from secateur.search.polynomial.improvement import expected_hypervolume_improvement
from secateur.search.scaling import compound
from secateur.spaces import Axis, Candidate, repair
from secateur.spaces.candidate import check_limits
from secateur.studies.proposals.proposer import Proposer
from secateur.studies.proposals.seeds import Seed
from secateur.studies.trials.trial import Scored

ROOT = Path(__file__).parents[1]
KEPT, PAGE = ROOT / "build" / "external", ROOT / "docs" / "search_external.md"
MARKS = "<!-- external: begin -->", "<!-- external: end -->"
OWN_TABLE = "groups"
TABLES = (
    *("channel_bench_resnet", "channel_bench_mobilenet", "nats_sss_cifar10", "nats_sss_cifar100", "nas_bench_macro"),
    OWN_TABLE,
)
DRAWS = 15  # measurements of each network of our own table, by its noise
DEEP = ("nas_bench_macro",)  # the axes say how much of a layer there is, not how wide it is
RIVALS = ("gp", "forest", "evolution", "tpe", "nsga2", "random")
AT = (10, 20, 40, 80)
TPE_AT = 200  # trials of TPE, for what of it others take fewer
HELD, WITHIN = AT[1:], 0.2  # after so many trials `auto` is held against the best rival, to so many points
NOTHING = {("nas_bench_macro", 0.1)}  # one network within the budget, and none beyond the corner


# --- a table as a space -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Table:
    """A complete table, rows in row-major order; attributes as the file's."""

    name: str
    levels: np.ndarray
    costs: dict[str, np.ndarray]
    runs: np.ndarray
    truth: np.ndarray

    @cached_property
    def choices(self):
        return [np.unique(column) for column in self.levels.T]

    @cached_property
    def shares(self):
        """`(n,)` of the full network's multiply-adds."""
        return self.costs["macs"] / self.costs["macs"][-1]

    def rows(self, levels):
        places = [np.searchsorted(own, levels[:, i]) for i, own in enumerate(self.choices)]
        return np.ravel_multi_index(places, [len(own) for own in self.choices])

    def told(self, row, seed):
        return self.runs[row, np.random.default_rng([seed, int(row)]).integers(self.runs.shape[1])]

    @cached_property
    def std(self):
        """Of one training: by the spread of trainings of a network, or of the only one around the truth."""
        count = self.runs.shape[1]
        if count == 1:
            return float((self.runs[:, 0] - self.truth).std())
        return float(np.sqrt(self.runs.var(axis=1, ddof=1).mean()))

    def volume(self, rows, share):
        rows = np.asarray(rows)[self.shares[rows] <= share]
        rows = rows[np.argsort(self.shares[rows], kind="stable")]
        gained = np.maximum(2 * self.truth[-1] - np.minimum.accumulate(self.truth[rows]), 0)
        return float((gained * np.diff(self.shares[rows], append=share)).sum())

    @cached_property
    def reachable(self):
        return {share: self.volume(np.arange(len(self.truth)), share) for share in (0.5, 0.3, 0.1)}


class TableSpace:
    """What samplers ask of a `Space`, answered from a table."""

    resolutions, layers = (), ()

    def __init__(self, table):
        deep = table.name in DEEP
        self.table = table
        self.axes = tuple(
            Axis(f"{'depth' if deep else 'width'}:{i}", tuple(own.tolist())) for i, own in enumerate(table.choices)
        )
        units = [int(np.gcd.reduce(own)) for own in table.choices]
        self.groups, self.stages = (), ()
        if deep:
            self.stages = tuple(SimpleNamespace(name=axis.name, blocks=("", "")) for axis in self.axes)
        else:
            self.groups = tuple(
                SimpleNamespace(name=axis.name, unit=unit, units=axis.full // unit, widths=axis.choices)
                for axis, unit in zip(self.axes, units, strict=True)
            )
        self.default_scores = {group.name: torch.ones(group.units) for group in self.groups}
        self.full = Candidate(axis.full for axis in self.axes)
        self.smallest = Candidate(axis.choices[0] for axis in self.axes)
        self.full_costs, self.smallest_costs = (
            {name: float(column[row]) for name, column in table.costs.items()} for row in (-1, 0)
        )

    def check(self, candidate):
        return Candidate(candidate)

    canonical = check
    check_limits, repair = check_limits, repair

    def encode(self, candidates):
        return np.array(candidates, np.int64).reshape(len(candidates), len(self.axes))

    def cost_table(self, candidates):
        rows = self.table.rows(self.encode(candidates))
        return {name: column[rows] for name, column in self.table.costs.items()}

    def uniform(self, width=1.0, depth=1.0, resolution=1.0):
        return Candidate(axis.nearest((width if axis.kind == "width" else depth) * axis.full) for axis in self.axes)


@cache
def load(name, folder):
    if name == OWN_TABLE:
        return own_table()
    with np.load(Path(folder) / f"{name}.npz", allow_pickle=False) as file:
        costs = {cost: file[cost].astype(np.float64) for cost in ("macs", "params")}
        found = [file[key].astype(kind) for key, kind in (("levels", np.int64), ("runs", float), ("truth", float))]
    return Table(name, found[0], costs, *found[1:])


def own_table():
    """Every network of the landscape that is complete, with the noise of its measurements."""
    found = recorded(OWN_TABLE)
    grid = np.meshgrid(*[axis.choices for axis in found.space.axes], indexing="ij")
    levels = np.stack(grid, axis=-1).reshape(-1, len(grid)).astype(np.int64)
    costs = {name: found.space.cost_table(levels)[name].astype(np.float64) for name in ("macs", "params")}
    runs = np.stack([found.noisy(levels, seed) for seed in range(DRAWS)], axis=1)
    return Table(OWN_TABLE, levels, costs, runs, found.error(levels))


def space_of(table):
    return recorded(OWN_TABLE).space if table.name == OWN_TABLE else TableSpace(table)


# --- rivals -----------------------------------------------------------------------------------------------------------


class Rival:
    """Proposes rows of a table; `ask` is given the rows tried and the errors told, NaN of those still running."""

    def __init__(self, table, share, seed):
        self.table, self.share = table, share
        self.random = np.random.default_rng(seed)
        self.inside = np.flatnonzero(table.shares <= share)
        tops = [max(len(own) - 1, 1) for own in table.choices]
        places = [np.searchsorted(own, table.levels[:, i]) for i, own in enumerate(table.choices)]
        self.inputs = np.stack(places, axis=1) / tops  # (n, d), 0 to 1

    def new(self, tried):
        return self.inside[~np.isin(self.inside, tried)]

    def ask(self, tried, errors):
        """A row that was not tried; None where there is none."""
        new = self.new(tried)
        return int(self.random.choice(new)) if len(new) else None


class Modelled(Rival):
    """Takes what a model of the error expects to add most to the front of its own means."""

    def ask(self, tried, errors):
        new = self.new(tried)
        if not len(new):
            return None
        if np.isfinite(errors).sum() < 4:
            sizes = np.log(self.table.shares[new])
            wanted = np.log(self.share * (1.0, 0.1, 0.35, 0.03)[len(tried) % 4])
            near = new[np.argsort(np.abs(sizes - max(wanted, sizes.min())), kind="stable")[:64]]
            return int(near[np.argmax(self.inputs[near].min(axis=1))])
        tried = np.asarray(tried)
        known = np.isfinite(errors)
        mean, std = self.predicted(tried[known], errors[known], tried[~known])
        points = np.stack([mean[tried], self.table.shares[tried]], axis=1)[self.table.shares[tried] <= self.share]
        seen = errors[known & (self.table.shares[tried] <= self.share)]
        worst = seen.max() + 0.1 * np.ptp(seen) if len(seen) else errors[known].max()
        value = expected_hypervolume_improvement(
            mean[new],
            std[new],
            self.table.shares[new][:, None],
            points[non_dominated(points)] if len(points) else points,
            np.array([worst, self.share]),
        )
        return int(new[np.argmax(value)])


class Forest(Modelled):
    def predicted(self, rows, errors, running):
        forest = RandomForestRegressor(100, min_samples_leaf=1, random_state=int(self.random.integers(2**31)))
        forest.fit(self.inputs[rows], errors)
        if len(running):
            more = forest.predict(self.inputs[running])
            forest.fit(np.concatenate([self.inputs[rows], self.inputs[running]]), np.append(errors, more))
        inputs = self.inputs.astype(np.float32)
        trees = np.stack([tree.tree_.predict(inputs)[:, 0] for tree in forest.estimators_])
        return trees.mean(axis=0), trees.std(axis=0)


class Process(Modelled):
    fitted = None

    def predicted(self, rows, errors, running):
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import SingleTaskGP
        from gpytorch.mlls import ExactMarginalLogLikelihood

        if self.fitted is None or self.fitted[0] != len(rows):
            model = SingleTaskGP(torch.from_numpy(self.inputs[rows]), torch.from_numpy(errors)[:, None])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
            found = model.covar_module.lengthscale, model.likelihood.noise, model.mean_module.constant
            self.fitted = len(rows), *[one.detach().numpy().ravel() for one in found]
        _, lengths, noise, constant = self.fitted
        centre, scale = errors.mean(), max(errors.std(ddof=1), 1e-12)
        x, y = self.inputs / lengths, (errors - centre) / scale - constant
        mean, _ = posterior(x[rows], y, noise, x[running])
        mean, std = posterior(x[np.append(rows, running)], np.append(y, mean), noise, x)
        return (mean + constant) * scale + centre, std * scale


def posterior(x, y, noise, new):
    """Mean and standard deviation at new points, of BoTorch's kernel of unit variance: a Gaussian of the distance."""

    def kernel(one, two):
        return np.exp(-0.5 * np.maximum((one**2).sum(1)[:, None] + (two**2).sum(1) - 2 * one @ two.T, 0))

    factor, cross = cho_factor(kernel(x, x) + noise * np.eye(len(x)), lower=True), kernel(new, x)
    left = 1 - (cross * cho_solve(factor, cross.T).T).sum(axis=1)
    return cross @ cho_solve(factor, y), np.sqrt(np.maximum(left, 1e-12))


class Evolution(Rival):
    """Real 2019: a population of the last 24; the best of 6 has one axis changed; best is by non-domination."""

    def ask(self, tried, errors):
        known = np.flatnonzero(np.isfinite(errors))
        new = self.new(tried)
        if len(known) < 8 or not len(new):
            return super().ask(tried, errors)
        living = known[-24:]
        points = np.stack([errors[living], self.table.shares[np.asarray(tried)[living]]], axis=1)
        order = ranks(points)
        for _ in range(200):
            some = self.random.choice(len(living), size=min(6, len(living)), replace=False)
            levels = self.table.levels[tried[living[some[np.argmin(order[some])]]]].copy()
            axis = self.random.integers(len(levels))
            levels[axis] = self.random.choice(self.table.choices[axis])
            row = int(self.table.rows(levels[None])[0])
            if row not in tried and self.table.shares[row] <= self.share:
                return row
        return super().ask(tried, errors)


OWN = {"gp": Process, "forest": Forest, "evolution": Evolution, "random": Rival}


# --- replays ----------------------------------------------------------------------------------------------------------


def seeds_of(space, limits, seeded):
    """The full network, and `compound` at what a study tries it at."""
    found = {}
    for level in (1.0, 0.5, 0.25, 0.125, 0.0625) if seeded else ():
        aim = {name: level * limit for name, limit in limits.items()}
        if all(space.smallest_costs[name] <= limit for name, limit in aim.items()):
            found[compound(space, aim)] = None
    return [space.full, *found] if seeded else []


def replay(table, method, *, share, batch, seeded, seed, trials):
    """Rows in the order in which they were tried, errors told, and seconds of processor time."""
    space = space_of(table)
    limits = {"macs": share * table.costs["macs"][-1]}
    planted = seeds_of(space, limits, seeded)
    problem = Problem(space=space, limits=limits, batch=batch, seed=seed, trials=trials)
    started = time.process_time()
    loop = _by_rival if method in OWN else _by_study
    rows, errors = loop(table, problem, method, planted, share, seed, trials)
    seconds = time.process_time() - started
    return {"rows": rows, "told": errors, "seconds": seconds, "best": named(problem, table, rows, errors)}


def _by_rival(table, problem, method, planted, share, seed, trials):
    rival, rows, errors = OWN[method](table, share, seed), [], np.zeros(0)
    planted = table.rows(problem.space.encode(planted)).tolist()
    for first in range(0, trials, problem.batch):
        for number in range(first, min(first + problem.batch, trials)):
            row = planted[number] if number < len(planted) else rival.ask(rows, errors)
            if row is not None:
                rows.append(row)
                errors = np.append(errors, np.nan)
        errors = np.array([table.told(row, seed) for row in rows])
    return rows, errors.tolist()


def _by_study(table, problem, method, planted, share, seed, trials):
    def seeds(number):
        return Seed(name="planted", candidate=planted[number]) if number < len(planted) else None

    proposer = Proposer(problem=problem, factory=SAMPLERS[method], seeds=seeds, ranking="", fidelity="")
    rows, errors = [], []
    for first in range(0, trials, problem.batch):
        mates = [proposer.propose(number) for number in range(first, min(first + problem.batch, trials))]
        mates = [mate for mate in mates if mate is not None]
        found = table.rows(problem.space.encode([mate.candidate for mate in mates])).tolist()
        told = [table.told(row, seed) for row in found]
        ended = [
            mate.ended(Scored(error=float(error), error_std=table.std)) for mate, error in zip(mates, told, strict=True)
        ]
        proposer.close([one.ended(one.outcome, proposer.after(one)) for one in ended])
        rows, errors = rows + found, errors + told
    return rows, errors


def named(problem, table, rows, errors):
    """By count of trials: the row of the least error told within the budget."""
    inside = table.shares[np.asarray(rows)] <= problem.limits["macs"] / table.costs["macs"][-1]
    told = np.where(inside, errors, np.inf)
    return {n: rows[int(np.argmin(told[:n]))] for n in AT if n <= len(rows)}


# --- cells ------------------------------------------------------------------------------------------------------------


def cell_path(name, method, share, batch, seeded, seed):
    return KEPT / f"{name}-{method}-{share}-{batch}-{'seeded' if seeded else 'bare'}-{seed}.json"


def run(arguments):
    KEPT.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        for name in arguments.on:
            table = load(name, arguments.folder)
            for share in arguments.share:
                for method in arguments.only:
                    key = name, method, share, arguments.batch, arguments.seeded, seed
                    path = cell_path(*key)
                    if (name, share) in NOTHING or path.exists() and not arguments.again:
                        continue
                    found = replay(
                        table,
                        method,
                        share=share,
                        batch=arguments.batch,
                        seeded=arguments.seeded,
                        seed=seed,
                        trials=arguments.trials,
                    )
                    path.write_text(json.dumps(found | {"commit": commit()}))
                    shown = " ".join(f"{value:.2f}" for value in percents(table, found["rows"], share))
                    print(f"{' '.join(map(str, key))}: {shown}, {found['seconds']:.1f} s", flush=True)


def percents(table, rows, share):
    """Percent of the reachable hypervolume after so many trials as `AT` says."""
    return [100 * table.volume(rows[:n], share) / table.reachable[share] for n in AT if n <= len(rows)]


def regret(table, found, share):
    """Points of true error between the network named best and the least within the budget, along `AT`."""
    least = table.truth[table.shares <= share].min()
    return [100 * (table.truth[found["best"][str(n)]] - least) for n in AT if str(n) in found["best"]]


def cells(name, method, share, batch, seeded):
    paths = sorted(KEPT.glob(f"{name}-{method}-{share}-{batch}-{'seeded' if seeded else 'bare'}-*.json"))
    return [json.loads(path.read_text()) for path in paths]


def lines_of(arguments, batch, seeded):
    """Markdown lines of one way to search."""
    lines, heads = [], " | ".join(f"{n} trials" for n in AT)
    for name in arguments.on:
        table = load(name, arguments.folder)
        for share in arguments.share:
            rows = []
            for method in ("auto", *RIVALS):
                found = cells(name, method, share, batch, seeded)
                if not found:
                    continue
                medians = np.median([percents(table, one["rows"], share) for one in found], axis=0)
                missed = np.median([regret(table, one, share) for one in found], axis=0)
                seconds = np.median([one["seconds"] / len(one["rows"]) for one in found])
                shown = [f"{value:.2f}" for value in medians] + ["–"] * (
                    len(AT) - len(medians)
                )  # nothing is left to try
                rows.append(
                    f"| {method} | {len(found)} | {' | '.join(shown)} "
                    f"| {' / '.join(f'{value:.2f}' for value in missed)} | {1000 * seconds:.0f} |"
                )
            if rows:
                lines += ["", f"`{name}`, budget {share:g}", ""]
                lines += [f"| method | replays | {heads} | best named, points above the least | ms a trial |"]
                lines += ["| --- | --- |" + " --- |" * (len(AT) + 2), *rows]
    return lines


def goal(arguments, batch, seeded):
    """Markdown lines: medians of `auto` less those of the best rival, over as many replays of each as there are."""
    lines, less, met, below = [], {n: [] for n in HELD}, 0, []
    for name in arguments.on:
        table = load(name, arguments.folder)
        for share in arguments.share:
            found = {method: cells(name, method, share, batch, seeded) for method in ("auto", *RIVALS)}
            if not found["auto"] or not any(found[method] for method in RIVALS):
                continue
            medians = {
                method: dict(
                    zip(AT, np.median([percents(table, one["rows"], share) for one in own], axis=0), strict=False)
                )
                for method, own in found.items()
                if own
            }
            chance = medians.get("random", {})
            below += [f"{name} at {share:g} after {n}" for n in chance if medians["auto"].get(n, np.inf) < chance[n]]
            shown = []
            for n in HELD:
                if n not in medians["auto"]:
                    shown.append("–")
                    continue
                rival = max((method for method in medians if method != "auto"), key=lambda one: medians[one][n])
                less[n].append(medians["auto"][n] - medians[rival][n])
                met += less[n][-1] >= -WITHIN
                shown.append(f"{less[n][-1]:+.2f} ({rival})")
            counts = ", ".join(f"{len(own)} of {method}" for method, own in found.items() if own)
            lines.append(f"| {name} | {share:g} | {' | '.join(shown)} | {counts} |")
    if not lines:
        return []
    means = [f"{np.mean(less[n]):+.2f}" for n in HELD]
    count = sum(map(len, less.values()))
    return [
        "",
        f"`auto` less the best rival, medians, points: no more than {WITHIN} behind in {met} of {count}.",
        f"Below `random` after {', '.join(map(str, AT))} trials: {', '.join(below) or 'nowhere'}.",
        "",
        f"| table | budget | {' | '.join(f'after {n}' for n in HELD)} | replays |",
        "| --- | --- |" + " --- |" * (len(HELD) + 1),
        *lines,
        f"| mean | | {' | '.join(means)} | |",
    ]


def saved(arguments, batch, seeded):
    """Markdown lines: how many trials take a method to the median that TPE has after 200."""
    lines = []
    for name in arguments.on:
        table = load(name, arguments.folder)
        for share in arguments.share:
            long = [one for one in cells(name, "tpe", share, batch, seeded) if len(one["rows"]) >= TPE_AT]
            if not long:
                continue
            goal = np.median([table.volume(one["rows"][:TPE_AT], share) for one in long])
            shown = []
            for method in ("auto", "gp"):
                rows = [one["rows"] for one in cells(name, method, share, batch, seeded)]
                counts = [
                    next((n for n in range(1, len(own) + 1) if table.volume(own[:n], share) >= goal), np.inf)
                    for own in rows
                ]
                most = max(map(len, rows), default=0)
                middle = np.median(counts) if counts else np.nan
                shown.append("–" if not counts else f"{middle:.0f}" if np.isfinite(middle) else f"more than {most}")
            lines.append(f"| {name} | {share:g} | {100 * goal / table.reachable[share]:.2f} | {' | '.join(shown)} |")
    if not lines:
        return []
    heads = f"| table | budget | TPE after {TPE_AT} | auto | gp |"
    said = f"Trials to what TPE has after {TPE_AT}, medians of the replays:"
    return ["", said, "", heads, "| --- |" + " --- |" * 4, *lines]


def show(arguments):
    print("\n".join(measured(arguments)))


def measured(arguments):
    lines = []
    for batch in (4, 1):
        for seeded in (False, True):
            if own := lines_of(arguments, batch, seeded):
                at_once = "four trials" if batch == 4 else "one trial"
                lines += ["", f"## {at_once.capitalize()} at once, {'with' if seeded else 'without'} seeds"]
                lines += [*goal(arguments, batch, seeded), *saved(arguments, batch, seeded), *own]
    return lines


def page(arguments):
    head, rest = PAGE.read_text().split(MARKS[0])
    PAGE.write_text("\n".join([head + MARKS[0], *measured(arguments), "", MARKS[1]]) + rest.split(MARKS[1])[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="where the tables are")
    parser.add_argument("what", nargs="?", choices=("run", "show", "page"), default="run")
    parser.add_argument("--only", nargs="+", default=["auto", *RIVALS], help="methods")
    parser.add_argument("--on", nargs="+", default=list(TABLES), choices=TABLES)
    parser.add_argument("--share", nargs="+", type=float, default=[0.5, 0.3, 0.1], help="budgets")
    parser.add_argument("--seeds", type=int, default=3, help="replays")
    parser.add_argument("--first", type=int, default=0, help="number of the first replay")
    parser.add_argument("--trials", type=int, default=80)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seeded", action="store_true")
    parser.add_argument("--again", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    {"run": run, "show": show, "page": page}[arguments.what](arguments)


if __name__ == "__main__":
    main()
