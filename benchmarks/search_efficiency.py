"""How many evaluations a search needs: every sampler replayed on the landscapes of benchmarks/landscape.py.

    python benchmarks/search_efficiency.py run [--only tpe random] [--seeds 20] [--trials 200] [--batch 4] [--share 0.5]
    python benchmarks/search_efficiency.py show [--batch 4] [--share 0.5]
    python benchmarks/search_efficiency.py time
    python benchmarks/search_efficiency.py page

A replay is the loop of a study without its training: the same proposer, repair and seeds, error and multiply-adds
minimised within half of the full network's multiply-adds, four trials at once. Samplers are told the landscape's error
with the noise of its measurement (drawn by candidate and replay). What they are judged by is free of it: the
hypervolume of the true errors of all networks tried so far, within the budget, as a share of the front's that can be
reached. It is taken against the budget and either the error of chance (0.9), where every small network counts, or
twice the full network's error, where only good ones do. `seeded` replays begin with the networks a study tries by
default (`full`, `uniform`, `magnitude`, the last two at several costs), the others with the full network only.

Beside the samplers stand two methods that are no samplers: `fastnas` measures every level of every axis with all
others full, and gives the axes the least levels whose error stays below one threshold, found by bisection on the cost
for one budget after another; `compound` is EfficientNet's scaling downwards, one network a budget.

Cells are kept in build/search_efficiency one a file, so that the table can be filled over several sittings; a cell of
another landscape is run again. `page` writes docs/search.md between its marks, and docs/search-efficiency.png.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from fashion import commit
from landscape import CHANCE, LANDSCAPES, Network, load

from secateur import Space
from secateur.pruners import METHODS, Request
from secateur.search import SAMPLERS, Problem, hypervolume, non_dominated
from secateur.search.scaling import compound
from secateur.spaces import threshold_candidate
from secateur.studies.proposals.proposer import Proposer, Seeds
from secateur.studies.proposals.seeds import Seed
from secateur.studies.settings.search import DEFAULT
from secateur.studies.trials.trial import Scored

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "build" / "search_efficiency"
PAGE, PICTURE = ROOT / "docs" / "search.md", ROOT / "docs" / "search-efficiency.png"
MARKS = "<!-- search_efficiency: begin -->", "<!-- search_efficiency: end -->"
SLOW = {"gp": (60, 3), "three-dimensions": (60, 5)}
OTHERS = ("fastnas", "compound")
OTHERWISE = {
    "One trial at once instead of four": {"batch": 1},
    "A budget of 0.3 of the multiply-adds": {"share": 0.3},
    "The per-layer landscape by a forest instead": {"on": ["layers-forest"]},
}
LEVELS = np.array(
    [1, 0.5, 0.25, 0.75, 0.125, 0.375, 0.625, 0.875, *np.arange(1, 16, 2) / 16, *np.arange(1, 32, 2) / 32]
)


# --- one replay -------------------------------------------------------------------------------------------------------


def problem_of(landscape, share, batch, seed):
    space = landscape.space
    full = space.full_costs["macs"]
    return Problem(space=space, limits={"macs": share * full}, batch=batch, seed=seed)


def replay(landscape, sampler, *, trials, batch=4, share=0.5, seeded=True, seed=0, noise=True):
    """Candidates in the order in which they were tried, the errors told, and milliseconds of each proposal."""
    problem = problem_of(landscape, share, batch, seed)
    proposer = Proposer(
        problem=problem,
        factory=SAMPLERS[sampler],
        seeds=planted(landscape.name, share) if seeded else only_full(problem.space),
        ranking="l2",
        fidelity="recalibrated",
    )
    tried, errors, spent = [], [], []
    for first in range(0, trials, batch):
        mates = []
        for number in range(first, min(first + batch, trials)):
            started = time.perf_counter()
            trial = proposer.propose(number)
            spent.append(1000 * (time.perf_counter() - started))
            if trial is None:
                break
            mates.append(trial)
        if not mates:
            break
        encoded = problem.space.encode([trial.candidate for trial in mates])
        told = landscape.noisy(encoded, seed) if noise else landscape.error(encoded)
        stds = landscape.error_std(told)
        ended = []
        for trial, error, std in zip(mates, told.tolist(), stds.tolist(), strict=True):
            done = trial.ended(Scored(error=error, error_std=std))
            ended.append(replace(done, memory=proposer.after(done)))
        proposer.close(ended)
        tried += encoded.tolist()
        errors += told.tolist()
    return {"encoded": tried, "told": errors, "ms": spent[: len(tried)]}


@cache
def planted(name, share):
    """A study's default seeds, made without weights."""
    space = load(name).space

    def make(kind, aim):
        if kind == "compound":
            candidate = compound(space, aim.limits)
        elif kind == "magnitude":
            candidate = threshold_candidate(space, None, aim.limits, depth=aim.depth, resolution=aim.resolution)
        else:
            method = METHODS[kind]()
            found = method.propose(
                Request(torch.nn.Module(), space, aim.limits, depth=aim.depth, resolution=aim.resolution)
            )
            candidate = space.canonical(found.candidate)
        return Seed(name=kind, candidate=candidate)

    return Seeds(DEFAULT, space, {"macs": share * space.full_costs["macs"]}, make)


def only_full(space):
    return lambda number: Seed(name="full", candidate=space.full) if number == 0 else None


# --- methods that are no samplers -------------------------------------------------------------------------------------


def by_compound(landscape, *, share, seed, noise=True):
    problem = problem_of(landscape, share, 1, seed)
    return tried_at(landscape, problem, seed, noise, lambda limits: compound(problem.space, limits))


def by_sensitivity(landscape, *, share, seed, noise=True):
    """FastNAS's way: the error of each level of each axis alone, then one threshold a budget.

    FastNAS itself (NVIDIA ModelOpt) searches widths and depths; resolution is one more axis here.
    """
    problem = problem_of(landscape, share, 1, seed)
    space = problem.space
    rows, levels = [space.full], []
    for i, axis in enumerate(space.axes):
        own = [0]
        for choice in reversed(axis.choices[:-1]):
            own.append(len(rows))
            rows.append(space.canonical((*space.full[:i], choice, *space.full[i + 1 :])))
        levels.append(own)
    encoded = space.encode(rows)
    errors = landscape.noisy(encoded, seed) if noise else landscape.error(encoded)
    worse = [np.maximum.accumulate(errors[own] - errors[0])[::-1] for own in levels]  # along the choices, ascending

    def chosen(limits):
        thresholds = np.unique(np.concatenate(worse))
        low, high = 0, len(thresholds) - 1  # at the highest every axis is at its least
        while low < high:
            middle = (low + high) // 2
            inside = problem_at(thresholds[middle])
            low, high = (low, middle) if costs_of(space, inside) <= limits["macs"] else (middle + 1, high)
        return problem_at(thresholds[low])

    def problem_at(threshold):
        least = [int(np.argmax(own <= threshold + 1e-12)) for own in worse]
        return space.canonical([axis.choices[at] for axis, at in zip(space.axes, least, strict=True)])

    after = tried_at(landscape, problem, seed, noise, chosen)
    return {
        "encoded": encoded.tolist() + after["encoded"],
        "told": errors.tolist() + after["told"],
        "ms": [0.0] * len(rows) + after["ms"],
    }


def tried_at(landscape, problem, seed, noise, chosen):
    """One network a budget, different ones only."""
    space, found = problem.space, {}
    for level in LEVELS:
        limits = {name: level * limit for name, limit in problem.limits.items()}
        if costs_of(space, space.smallest) <= limits["macs"]:
            found[chosen(limits)] = None
    encoded = space.encode(list(found))
    errors = landscape.noisy(encoded, seed) if noise else landscape.error(encoded)
    return {"encoded": encoded.tolist(), "told": errors.tolist(), "ms": [0.0] * len(encoded)}


def costs_of(space, candidate):
    return float(space.cost_table([candidate])["macs"][0])


# --- cells ------------------------------------------------------------------------------------------------------------


def samplers():
    """By name: all that can be replayed."""
    return [name for name in SAMPLERS if name not in ("auto",)]


@cache
def digest(name):
    """Of what a replay depends on."""
    found = load(name)
    parts = [found.encoded, found.measured, *(scores.numpy() for scores in found.space.default_scores.values())]
    model = found.facts.get("model", "").encode()
    return hashlib.sha256(b"".join(part.tobytes() for part in parts) + model).hexdigest()[:12]


def cell_path(name, sampler, seeded, batch, share, seed):
    return KEPT / f"{name}-{sampler}-{'seeded' if seeded else 'bare'}-{batch}-{share}-{seed}.json"


def kept(name, sampler, seeded, batch, share, seed):
    """What is kept of a cell of this landscape; None where nothing is."""
    path = cell_path(name, sampler, seeded, batch, share, seed)
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    return found if found["landscape"] == digest(name) else None


def wanted(sampler, trials, seeds):
    most, few = SLOW.get(sampler, (trials, seeds))
    return min(trials, most), min(seeds, few)


def run(arguments):
    KEPT.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.seeds):
        for sampler in arguments.only or [*samplers(), *OTHERS]:
            trials, seeds = wanted(sampler, arguments.trials, arguments.seeds)
            for name in arguments.on:
                for seeded in (True, False):
                    alone = sampler in OTHERS
                    if seed >= seeds or alone and seeded or seeded and arguments.seeding == "bare":
                        continue
                    if not seeded and not alone and arguments.seeding == "seeded":
                        continue
                    key = name, sampler, seeded, arguments.batch, arguments.share, seed
                    before = kept(*key)
                    if before is not None and (alone or before["trials"] >= trials) and not arguments.again:
                        continue
                    started = time.perf_counter()
                    found = cell(*key, trials)
                    cell_path(*key).write_text(json.dumps(found))
                    volume = curve(name, found["encoded"], arguments.share)[-1]
                    seconds = time.perf_counter() - started
                    print(f"{' '.join(map(str, key))}: {volume:.4f}, {seconds:.1f} s", flush=True)


def cell(name, sampler, seeded, batch, share, seed, trials):
    landscape = load(name)
    if sampler in OTHERS:
        found = {"fastnas": by_sensitivity, "compound": by_compound}[sampler](landscape, share=share, seed=seed)
    else:
        found = replay(landscape, sampler, trials=trials, batch=batch, share=share, seeded=seeded, seed=seed)
    return found | {"trials": trials, "landscape": digest(name), "commit": commit()}


# --- what came of it --------------------------------------------------------------------------------------------------


def points_of(name, encoded, share):
    """`(n, 2)` true errors and shares of the full multiply-adds, and `(n,)` whether each is within the budget."""
    landscape = load(name)
    encoded = np.asarray(encoded, np.int64)
    full = costs_of(landscape.space, landscape.space.full)
    macs = landscape.space.cost_table(encoded)["macs"] / full
    return np.stack([landscape.error(encoded), macs], axis=1), macs <= share


def corner(name, share, against):
    """The reference of the hypervolume; `against` is `"chance"` or `"twice"`."""
    landscape = load(name)
    full = float(landscape.error(landscape.space.encode([landscape.space.full]))[0])
    return {"chance": CHANCE, "twice": 2 * full}[against], share


def curve(name, encoded, share, against="chance"):
    """`(n,)` hypervolume after each trial, as a share of what can be reached."""
    reference = corner(name, share, against)
    points, inside = points_of(name, encoded, share)
    volumes, last = [], 0.0
    front = np.zeros((0, 2))
    for point, fine in zip(points, inside, strict=True):
        if fine and not ((front <= point).all(axis=1)).any():
            front = np.concatenate([front, point[None]])
            front = front[non_dominated(front)]
            last = hypervolume(front, reference)
        volumes.append(last)
    return np.array(volumes) / hypervolume(best_front(name, share), reference)


@cache
def best_front(name, share):
    """`(f, 2)` the best front known: of all candidates, or where these are too many, of a long search.

    That search knows the true errors: 150 rounds of 4,000 mutations and crossings of the front so far.
    """
    space = load(name).space
    sizes = [len(axis.choices) for axis in space.axes]
    if np.prod(sizes, dtype=float) <= 100_000:
        grid = np.stack(np.meshgrid(*[axis.choices for axis in space.axes], indexing="ij"), axis=-1)
        points, inside = points_of(name, grid.reshape(-1, len(sizes)), share)
        return _best(grid.reshape(-1, len(sizes))[inside], points[inside])[1]
    path = KEPT / f"front-{name}-{share}-{digest(name)}.json"
    if path.exists():
        return np.array(json.loads(path.read_text()))
    random = np.random.default_rng(0)
    front = np.concatenate([load(name).encoded, space.encode(space.sample(2000))])
    points, inside = points_of(name, front, share)
    front, points = _best(front[inside], points[inside])
    for _ in range(150):
        children = canonical(space, _children(space, front, 4000, random))
        new, inside = points_of(name, children, share)
        front, points = _best(np.concatenate([front, children[inside]]), np.concatenate([points, new[inside]]))
    KEPT.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(points.tolist()))
    return points


def _best(encoded, points):
    _, first = np.unique(points, axis=0, return_index=True)
    order = first[np.lexsort((points[first, 1], points[first, 0]))]
    # In ascending order of error a point is on the front exactly where it is cheaper than all before it.
    macs = points[order, 1]
    on = order[macs < np.concatenate([[np.inf], np.minimum.accumulate(macs)[:-1]])]
    return encoded[on], points[on]


def _children(space, front, count, random):
    choices = [np.array(axis.choices) for axis in space.axes]
    places = np.stack([np.searchsorted(own, front[:, i]) for i, own in enumerate(choices)], axis=1)
    one, two = (places[random.integers(0, len(places), count)] for _ in range(2))
    mixed = np.where(random.random(one.shape) < 0.3 * (random.random((count, 1)) < 0.5), two, one)
    moved = random.random(one.shape) < 1.5 / one.shape[1]
    mixed = mixed + np.where(moved, random.choice([-2, -1, 1, 2], one.shape), 0)
    mixed = np.clip(mixed, 0, np.array([len(own) - 1 for own in choices]))
    return np.stack([own[mixed[:, i]] for i, own in enumerate(choices)], axis=1)


def canonical(space, encoded):
    """As `Space.canonical`, for an array."""
    unique = np.unique(encoded, axis=0)
    return space.encode([space.canonical(row) for row in unique.tolist()])


def picked(name, cell, share, n):
    """True error of the network a study would call best after `n` trials: the least told error within the budget."""
    points, inside = points_of(name, cell["encoded"][:n], share)
    told = np.where(inside, np.array(cell["told"][:n]), np.inf)
    return points[int(np.argmin(told)), 0] if np.isfinite(told).any() else np.nan


@cache
def curves(name, sampler, seeded, batch, share, seeds, against="chance"):
    """`(replays, trials)` curves of all cells that are kept; as long as the shortest."""
    cells = [kept(name, sampler, seeded, batch, share, seed) for seed in range(seeds)]
    cells = [cell for cell in cells if cell is not None]
    if not cells:
        return None, []
    found = [curve(name, cell["encoded"], share, against) for cell in cells]
    if sampler in OTHERS or min(map(len, found)) < min(cell["trials"] for cell in cells):  # nothing left to try
        longest = max(map(len, found))
        found = [np.append(one, np.full(longest - len(one), one[-1])) for one in found]
    length = min(map(len, found))
    return np.stack([one[:length] for one in found]), cells


AT = (10, 20, 40, 60, 100, 200)


def tables(arguments):
    """Markdown lines: a table for each landscape, with seeds and without."""
    lines = []
    for name in arguments.on:
        landscape = load(name)
        full = float(landscape.error(landscape.space.encode([landscape.space.full]))[0])
        for seeded in (True, False):
            rows = []
            for sampler in [*samplers(), *OTHERS]:
                found, cells = curves(
                    name, sampler, seeded and sampler not in OTHERS, arguments.batch, arguments.share, arguments.seeds
                )
                if found is None:
                    continue
                medians = np.median(found, axis=0)
                last = min(len(medians), max(AT))
                if sampler in OTHERS:
                    medians = np.append(medians, np.full(max(AT), medians[-1]))
                shown = [f"{100 * medians[n - 1]:.2f}" if n <= len(medians) else "" for n in AT]
                best = np.median([picked(name, cell, arguments.share, last) for cell in cells])
                ms = np.mean([np.mean(cell["ms"][20:] or cell["ms"]) for cell in cells])
                cost = f"{ms:.0f}" if sampler not in OTHERS else ""
                rows.append((-medians[min(39, last - 1)], sampler, len(cells), last, shown, best, cost))
            if not rows:
                continue
            title = "with seeds" if seeded else "without seeds"
            lines += ["", f"### `{name}`, {title} (the full network's error: {100 * full:.1f} %)", ""]
            head = " | ".join(f"{n} trials" for n in AT)
            lines += [f"| sampler | replays | {head} | its best network, error % | ms a proposal |"]
            lines += ["| --- | --- |" + " --- |" * (len(AT) + 2)]
            for _, sampler, count, last, shown, best, cost in sorted(rows):
                least = f"{100 * best:.2f}" + (f" (of {last})" if last != max(AT) else "")
                lines.append(f"| {sampler} | {count} | {' | '.join(shown)} | {least} | {cost} |")
    return lines


def target(arguments, against):
    """Lines that hold the polynomial sampler against TPE and random search."""
    lines = []
    for name in arguments.on:
        for seeded in (True, False):
            key = arguments.batch, arguments.share, arguments.seeds, against
            ours, theirs, chance = (
                curves(name, sampler, seeded, *key)[0] for sampler in ("polynomial", "tpe", "random")
            )
            if ours is None or theirs is None or chance is None:
                continue
            goal = float(np.median(theirs, axis=0)[-1])
            median = np.median(ours, axis=0)
            reached = next((n for n, value in enumerate(median, 1) if value >= goal), None)
            length = min(len(median), chance.shape[1])
            less = (np.median(chance, axis=0)[:length] - median[:length])[9:]
            below = (np.flatnonzero(less > 0) + 10).tolist()
            needs = f"{reached} evaluations" if reached else f"more than {len(median)} evaluations"
            again = [next((n for n, value in enumerate(one, 1) if value >= goal), np.inf) for one in ours]
            quartiles = ", ".join(
                f"{q:g}" if np.isfinite(q) else f"more than {len(median)}"
                for q in np.quantile(again, [0.25, 0.75], method="nearest")
            )
            where = f"`{name}`, {'with' if seeded else 'without'} seeds"
            under = (
                f"below random at {len(below)} of {length - 9} ({', '.join(map(str, below[:8]))}), by at most "
                f"{100 * less.max():.2g} points"
                if below
                else ""
            )
            lines.append(
                f"- {where}: `polynomial` needs {needs} for the hypervolume that `tpe` has at {theirs.shape[1]} "
                f"(medians of {len(ours)} replays; their quartiles: {quartiles}); from evaluation 10 on it is "
                f"{under or 'never below random'}."
            )
    return lines


# --- seconds ----------------------------------------------------------------------------------------------------------


def deep():
    """A space of 40 axes, and errors by formula: what a proposal costs needs no truth."""
    model = Network(widths=(16, 24, 32), blocks=10, convolutions=2).eval()
    return Space.trace(model, torch.rand(1, 1, 28, 28), resolutions=(28, 24, 20, 16), divisor=4)


def proposal_ms(sampler, trials=300, count=4):
    """Axes, and milliseconds of `count` proposals after so many random trials: by the clock, and of the processor."""
    space = deep()
    full = costs_of(space, space.full)
    problem = Problem(space=space, limits={"macs": 0.5 * full}, batch=1, seed=0)

    def proposer(name):
        return Proposer(
            problem=problem, factory=SAMPLERS[name], seeds=lambda number: None, ranking="l2", fidelity="recalibrated"
        )

    def ended(trial):
        share = np.array(
            [
                axis.choices.index(c) / (len(axis.choices) - 1)
                for axis, c in zip(space.axes, trial.candidate, strict=True)
            ]
        )
        error = 0.1 + 0.3 * float(((1 - share) ** 2).mean()) + 0.1 * float(1 - share.min())
        return trial.ended(Scored(error=error, error_std=0.005))

    drawing, told = proposer("random"), []
    for number in range(trials):
        told.append(ended(drawing.propose(number)))
        drawing.close(told[-1:])
    asked, spent = proposer(sampler), []
    for trial in told:
        asked.recall([trial], told=[trial])
    for number in range(trials, trials + count):
        clock, processor = time.perf_counter(), time.process_time()
        trial = asked.propose(number)
        spent.append((1000 * (time.perf_counter() - clock), 1000 * (time.process_time() - processor)))
        asked.close([ended(trial)])
    return len(space.axes), np.array(spent)


def timed(arguments):
    lines = []
    for sampler in arguments.only or [name for name in samplers() if name != "gp"]:
        axes, spent = proposal_ms(sampler)
        clock, processor = np.median(spent, axis=0)
        lines.append(f"| {sampler} | {axes} | 300 | {clock:.0f} | {processor:.0f} |")
        print(lines[-1], flush=True)
    if not arguments.only:
        KEPT.mkdir(parents=True, exist_ok=True)
        (KEPT / "seconds.json").write_text(json.dumps({"lines": lines, "commit": commit()}))


# --- the page ---------------------------------------------------------------------------------------------------------


COLOURS = {
    "polynomial": "#d62728",
    "tpe": "#1f77b4",
    "random": "#7f7f7f",
    "gp": "#2ca02c",
    "nsga2": "#ff7f0e",
    "nsga3": "#bcbd22",
    "qmc": "#17becf",
    "three-dimensions": "#9467bd",
    "joint": "#e377c2",
    "compound": "#000000",
    "fastnas": "#8c564b",
}


def draw(arguments):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FixedLocator, NullLocator

    figure, grid = pyplot.subplots(2, 2, figsize=(11, 8), sharex=True, sharey="row", layout="constrained")
    for row, name in enumerate(LANDSCAPES):
        for column, seeded in enumerate((True, False)):
            axes = grid[row][column]
            for sampler in [*samplers(), *OTHERS]:
                found, _ = curves(
                    name, sampler, seeded and sampler not in OTHERS, arguments.batch, arguments.share, arguments.seeds
                )
                if found is None:
                    continue
                left = 100 * np.maximum(1 - found, 1e-4)
                trials, colour = np.arange(1, found.shape[1] + 1), COLOURS.get(sampler)
                style = "--" if sampler in OTHERS else "-"
                axes.plot(trials, np.median(left, axis=0), style, color=colour, label=sampler, lw=1.6)
                if sampler in ("polynomial", "tpe", "random"):
                    low, high = np.quantile(left, [0.25, 0.75], axis=0)
                    axes.fill_between(trials, low, high, color=colour, alpha=0.15, lw=0)
            axes.set(xscale="log", yscale="log", title=f"{name}, {'with seeds' if seeded else 'without seeds'}")
            axes.set_ylim(top=min(60.0, axes.get_ylim()[1]))
            axes.set_xlim(left=4)
            axes.xaxis.set_major_locator(FixedLocator([4, *AT]))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter("{x:g}")
            axes.grid(alpha=0.3, which="both", lw=0.5)
            if row == 1:
                axes.set_xlabel("evaluations")
            if column == 0:
                axes.set_ylabel("hypervolume that is missing (%)")
    shown = {label: line for axes in grid.flat for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    order = [sampler for sampler in COLOURS if sampler in shown]
    figure.legend([shown[sampler] for sampler in order], order, loc="outside lower center", ncols=6, frameon=False)
    figure.savefig(PICTURE, dpi=110)


def measured(arguments):
    """The measured part of the page."""
    cells = (path for name in arguments.on for path in KEPT.glob(f"{name}-*.json"))
    commits = sorted({json.loads(path.read_text())["commit"] for path in cells})
    facts = []
    for name in arguments.on:
        found = load(name)
        r2 = found.facts.get("r2")
        count, noise = f"{len(found.encoded):,} networks measured", f"{100 * found.noise:.2f} points"
        if r2 is None:
            facts.append(f"`{name}`: {count}, which are all; standard error {noise}")
            continue
        said = " and ".join(f"{value:.3f} ({kind})" for kind, value in r2.items())
        facts.append(f"`{name}`: {count}, standard error {noise}; R2 in five folds {said}, the better is used")
    lines = [
        "    python benchmarks/landscape.py report",
        f"    python benchmarks/search_efficiency.py show --batch {arguments.batch} --share {arguments.share}",
        "",
        f"Budget: {arguments.share:g} of the full network's multiply-adds; {arguments.batch} trials at once; medians",
        f"of up to {arguments.seeds} replays (seeds from 0); commits {', '.join(commits)}. Shown is the hypervolume",
        "of the true errors and multiply-adds of what was tried, against chance, in percent of the front's that can be",
        "reached; a method that has nothing more to try keeps what it has.",
        "",
        *[f"- {fact}." for fact in facts],
        "",
        f"![Missing hypervolume against evaluations]({PICTURE.name})",
        *tables(arguments),
        "",
        "### Held against TPE and random search",
        "",
        "Hypervolume against chance:",
        "",
        *target(arguments, "chance"),
        "",
        "Hypervolume against twice the full network's error:",
        "",
        *target(arguments, "twice"),
    ]
    for title, changes in OTHERWISE.items():
        if held := target(argparse.Namespace(**(vars(arguments) | changes)), "chance"):
            options = " ".join(f"--{key} {' '.join(value) if key == 'on' else value}" for key, value in changes.items())
            lines += ["", f"{title} (`show {options}`), against chance:", "", *held]
    seconds = KEPT / "seconds.json"
    if seconds.exists():
        lines += ["", "### Seconds", "", "40 axes, 300 trials told, one core:", ""]
        lines += [
            "| sampler | axes | trials | ms a proposal, median | of the processor |",
            "| --- | --- | --- | --- | --- |",
        ]
        lines += json.loads(seconds.read_text())["lines"]
    return lines


def page(arguments):
    draw(arguments)
    text = (
        PAGE.read_text()
        if PAGE.exists()
        else "# Searching: how many evaluations it takes\n\n" + "\n".join(MARKS) + "\n"
    )
    if MARKS[0] not in text:
        text = text.rstrip() + "\n\n## Measured\n\n" + "\n".join(MARKS) + "\n"
    head, rest = text.split(MARKS[0])
    tail = rest.split(MARKS[1])[1]
    PAGE.write_text(head + MARKS[0] + "\n\n" + "\n".join(measured(arguments)) + "\n\n" + MARKS[1] + tail)


def show(arguments):
    print(f"commit {commit()}, batch {arguments.batch}, budget {arguments.share:g} of the multiply-adds, seeds 0 to "
          f"{arguments.seeds - 1}")  # fmt: skip
    print("\n".join([*tables(arguments), "", "against chance", *target(arguments, "chance")]))
    print("\n".join(["", "against twice the full network's error", *target(arguments, "twice")]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "show", "time", "page"))
    parser.add_argument("--only", nargs="+", help="samplers")
    parser.add_argument("--on", nargs="+", default=list(LANDSCAPES), help="landscapes, layers-forest among them")
    parser.add_argument("--seeding", choices=("both", "seeded", "bare"), default="both")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--share", type=float, default=0.5, help="of the full network's multiply-adds")
    parser.add_argument("--again", action="store_true", help="run cells that are kept, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    {"run": run, "show": show, "time": timed, "page": page}[arguments.what](arguments)


if __name__ == "__main__":
    main()
