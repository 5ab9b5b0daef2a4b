"""What proxies are worth to a search: methods' scores that a candidate retains, and reconstruction errors, as features.

    python benchmarks/proxies.py record --data FOLDER     # FOLDER: the four IDX files of Fashion-MNIST
    python benchmarks/proxies.py show

Five landscapes: `groups` and `layers` of benchmarks/landscape.py (shared weights, Fashion-MNIST), and three that this
script records, of ordinarily trained networks, all networks of a space each: `separable` (depthwise convolutions,
Fashion-MNIST, 512 networks at fidelity `reconstructed`), `digits` (a plain network, 5,000 digits of MNIST, likewise)
and `epoch` (the same network at its full side, 256 networks trained for an epoch after recalibration).

A proxy says of every candidate, by arithmetic, how much is left of the full network: for a method the share of its
scores that stays (`retained`), for the reconstruction the sum over the axes of the error that the network's outputs
have when this axis alone is cut and the layers are solved. `record` writes benchmarks/landscapes/proxies-*.npz.

`show` has three parts, all within half of the multiply-adds. *alone*: rank correlation of each proxy with the errors.
*features*: a polynomial is told 6 to 40 networks of all sizes and foretells all others, with and without a proxy among
its features. *searches*: percent of the reachable hypervolume, against twice the full network's error, after so many
trials of `polynomial` with and without proxies; and with what it begins with: the full network alone, `compound`
(the default), or one threshold over the scores of a method at the same costs. `page` writes docs/search.md.
"""

from __future__ import annotations

import argparse
import json
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from landscape import (
    FILES,
    FIRST,
    FIRST_EPOCHS,
    KEPT,
    Convolution,
    Landscape,
    commit,
    data,
    load,
    network,
    table,
    traced,
)
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from search_efficiency import best_front, problem_of
from torch import nn

from secateur import Classification, Space, Training, build
from secateur.evaluators import Origin, Reconstructor, measure_error, recalibrate, train
from secateur.pruners import METHODS, Examples, Request
from secateur.search import SAMPLERS, hypervolume, non_dominated
from secateur.search.polynomial import polynomial
from secateur.search.polynomial.features import Features
from secateur.search.polynomial.scales import Noise
from secateur.search.polynomial.surrogate import fit
from secateur.search.scaling import compound
from secateur.spaces import threshold_candidate
from secateur.studies.proposals.proposer import Proposer, Seeds
from secateur.studies.proposals.seeds import Seed
from secateur.studies.study_files.data import Data
from secateur.studies.trials.trial import Scored

METHODS_READ = ("ranp-f", "ranp-m", "taylor", "flap")
LANDSCAPES = ("groups", "layers", "separable", "digits", "epoch")
BATCHES, IMAGES, JUDGED = 8, 256, 2000
SHARE, TOLD, AT = 0.5, (6, 10, 20, 40), (6, 10, 20, 40)
FEATURES = {
    "none": lambda kinds: [],
    "scores": lambda kinds: [kind for kind in kinds if kind != "reconstruction"],
    "reconstruction": lambda kinds: ["reconstruction"],
    "all": list,
}
BEGINNINGS = ("compound", "l2", "ranp-f", "taylor", "compound + ranp-f")
PAGE = Path(__file__).parents[1] / "docs" / "search.md"
MARKS = "<!-- proxies: begin -->", "<!-- proxies: end -->"


class Separable(nn.Sequential):
    """A depthwise and a pointwise convolution."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__(
            nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = Separable(width, width)

    def forward(self, x):
        return x + self.body(x)


def headed(*layers):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def made(name):
    """An untrained network of a recorded landscape, and its space."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "separable":
            layers = Convolution(1, 32, 2), Separable(32, 32), Separable(32, 32, 2), nn.Sequential(Residual(32))
            model = headed(*layers, Separable(32, 32))
        else:
            model = headed(Convolution(1, 32, 2), Convolution(32, 32), Convolution(32, 32, 2), Convolution(32, 32))
    return model.eval(), space_of(name, model)


def space_of(name, model):
    sides = {"resolutions": (28, 20)} if name == "digits" else {}
    return Space.trace(model, torch.rand(1, 1, 28, 28), divisor=8, **sides)


def task_of(name, folder):
    if name not in ("digits", "epoch"):
        return data(folder)
    images, labels = Data(reader="mnist5k").read().train
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    cuts = {"train": order[:3000], "validation": order[3000:]}
    return Classification(
        **{split: (images[rows], labels[rows]) for split, rows in cuts.items()}, batch=64, normalise="measure"
    )


def trained(name, task):
    """The network that proxies read: for `groups` and `layers` the one before its weights were shared."""
    path = KEPT / f"first-{'digits' if name == 'epoch' else name}.safetensors"
    KEPT.mkdir(parents=True, exist_ok=True)
    model = network(name) if name in ("groups", "layers") else made(name)[0]
    if path.exists():
        model.load_state_dict(load_file(path))
    else:
        recorded = name in ("groups", "layers")
        train(model, task, FIRST if recorded else Training(lr=0.1, warmup=0.1), epochs=FIRST_EPOCHS if recorded else 8)
        save_file(model.state_dict(), path)
    model.eval()
    return model, traced(name, model) if name in ("groups", "layers") else space_of(name, model)


def error_of(model, space, candidate, task, reconstructor):
    """Error, and that of its outputs beside the full network's, of a network whose layers are solved."""
    small = build(model, space, candidate)
    found = reconstructor(small, Origin(model=model, space=space, candidate=candidate))
    error = measure_error(small, task.with_batch(250), resolution=space.side(candidate)).compute()
    return float(error), float(found.error)


def after_an_epoch(model, space, candidate, task):
    small = build(model, space, candidate)
    recalibrate(small, task, images=IMAGES)
    train(small, task, Training(lr=0.05, warmup=0.1), epochs=1)
    return float(measure_error(small, task.with_batch(250)).compute())


def scores_of(model, space, task):
    batches = [batch for _, batch in zip(range(BATCHES), task.loader("train", None, 0), strict=False)]
    examples = Examples(batches=batches, loss=task.loss, forward=task.forward)
    limits = {"macs": space.full_costs["macs"]}
    found = {"l2": space.default_scores}
    for name in METHODS_READ:
        found[name] = METHODS[name]().propose(Request(model, space, limits, examples=examples)).scores
    return found


def record(arguments):
    for name in arguments.on:
        path = FILES / f"proxies-{name}.npz"
        if path.exists() and not arguments.again:
            continue
        task = task_of(name, arguments.data)
        model, space = trained(name, task)
        full = float(measure_error(model, task.with_batch(250)).compute())
        print(f"{name}: {full:.4f} full, {len(space.axes)} axes", flush=True)
        scores = scores_of(model, space, task)
        arrays = {
            f"{kind}:{i}": own[g.name].numpy() for kind, own in scores.items() for i, g in enumerate(space.groups)
        }
        few = judged(task)
        reconstructor = Reconstructor(task, images=IMAGES)
        for i, axis in enumerate(space.axes):
            alone = [(*space.full[:i], choice, *space.full[i + 1 :]) for choice in axis.choices]
            errors = [error_of(model, space, space.canonical(one), few, reconstructor) for one in alone]
            arrays[f"outputs:{i}"] = np.array([one[1] for one in errors])
            print(axis.name, np.round(errors, 3).tolist(), flush=True)
        if name not in ("groups", "layers"):
            arrays |= whole(name, model, space, few, reconstructor)
        arrays["facts"] = json.dumps({"commit": commit(), "full": full})
        np.savez_compressed(path, **arrays)


def judged(task):
    """The task with few validation images."""
    images, labels = task.validation
    return Classification(
        train=task.train, validation=(images[:JUDGED], labels[:JUDGED]), batch=task.batch, mean=task.mean, std=task.std
    )


def whole(name, model, space, task, reconstructor):
    """Every network of a space, by side."""
    grid = np.stack(np.meshgrid(*[axis.choices for axis in space.axes], indexing="ij"), axis=-1)
    encoded = grid.reshape(-1, len(space.axes))
    order = np.argsort(encoded[:, -1], kind="stable")
    error = np.zeros(len(encoded))
    for count, row in enumerate(order.tolist()):
        candidate = space.canonical(encoded[row].tolist())
        if name == "epoch":
            error[row] = after_an_epoch(model, space, candidate, task)
        else:
            error[row], _ = error_of(model, space, candidate, task, reconstructor)
        if count % 64 == 0:
            print(f"{name} {count}/{len(encoded)}: {error[row]:.3f}", flush=True)
    return {"encoded": encoded.astype(np.int16), "error": error.astype(np.float32)}


# --- what they are worth ----------------------------------------------------------------------------------------------


@cache
def opened(name):
    """The landscape, and what is recorded beside it."""
    with np.load(FILES / f"proxies-{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    if name in ("groups", "layers"):
        return load(name), arrays
    _, space = made(name)
    space = replace(
        space,
        default_scores={g.name: torch.from_numpy(arrays[f"l2:{i}"].astype(float)) for i, g in enumerate(space.groups)},
    )
    encoded, measured = arrays["encoded"].astype(np.int64), arrays["error"].astype(float)
    found = Landscape(
        name=name,
        space=space,
        error=table(space, encoded, measured),
        noise=0.0,
        encoded=encoded,
        measured=measured,
        tuned=np.full(len(measured), np.nan),
        facts={"recalibration_std": 0.0},
    )
    return found, arrays


def proxies_of(space, arrays):
    """By name: what maps `(n, d)` candidates to `(n, q)` features, 0 of the full network and less of smaller ones."""
    order = {g.name: np.argsort(-arrays[f"l2:{i}"], kind="stable") for i, g in enumerate(space.groups)}
    found = {}
    for kind in ("l2", *METHODS_READ):
        shares = []
        for i, group in enumerate(space.groups):
            own = arrays[f"{kind}:{i}"][order[group.name]].astype(float)  # the ranking's order: those units stay
            shares.append(np.concatenate([[0.0], np.cumsum(own)]))
        found[kind] = Retained(space, shares)
    found["reconstruction"] = Outputs(space, [arrays[f"outputs:{i}"].astype(float) for i in range(len(space.axes))])
    return found


class Retained:
    def __init__(self, space, sums):
        self.units = [group.unit for group in space.groups]
        self.sums = sums

    def __call__(self, encoded):
        kept = np.stack(
            [own[encoded[:, i] // unit] for i, (own, unit) in enumerate(zip(self.sums, self.units, strict=True))],
            axis=1,
        )
        top = np.array([own[-1] for own in self.sums])
        whole = kept.sum(axis=1) / top.sum()
        each = np.log2(np.maximum(kept / top, 1e-6)).mean(axis=1) / 2
        return np.stack([np.log2(np.maximum(whole, 1e-6)) / 2, each], axis=1)


class Outputs:
    def __init__(self, space, tables):
        self.choices = [np.array(axis.choices) for axis in space.axes]
        self.tables = tables

    def __call__(self, encoded):
        parts = [
            own[np.searchsorted(c, encoded[:, i])]
            for i, (own, c) in enumerate(zip(self.tables, self.choices, strict=True))
        ]
        total = np.sum(parts, axis=0)
        return np.stack([-np.sqrt(total), -np.log2(1 + 20 * total) / 4], axis=1)


def inside(name):
    """`(n, d)` measured networks within the budget, their features of both kinds, proxies by name, and errors."""
    found, arrays = opened(name)
    share = found.space.cost_table(found.encoded)["macs"] / found.space.full_costs["macs"]
    encoded = found.encoded[share <= SHARE]
    shared, axes = Features(problem_of(found, SHARE, 4, 0))(encoded)
    proxies = {kind: one(encoded) for kind, one in proxies_of(found.space, arrays).items()}
    return share[share <= SHARE], shared, axes, proxies, found.error(encoded), found


def alone(arguments):
    """Rank correlation of each proxy by itself with the errors."""
    rows = {}
    for name in arguments.on:
        share, _, _, proxies, error, _ = inside(name)
        columns = {"multiply-adds": share} | {kind: one[:, 0] for kind, one in proxies.items()}
        for kind, column in columns.items():
            rows.setdefault(kind, []).append(f"{-spearmanr(column, error).statistic:.2f}")
    yield from markdown(("proxy", *arguments.on), [(kind, *cells) for kind, cells in rows.items()])


def forecasts(arguments):
    """How well a polynomial orders networks that it was not told, with proxies among its features and without."""
    rows = []
    for name in arguments.on:
        share, shared, axes, proxies, error, found = inside(name)
        for kind, used in FEATURES.items():
            all_of = np.concatenate([shared, *(proxies[one] for one in used(proxies))], axis=1)
            cells = []
            for count in TOLD:
                ranks = []
                for seed in range(arguments.replays * 2):
                    rows_told = spread(share, count, np.random.default_rng([seed, count]))
                    left = np.setdiff1d(np.arange(len(error)), rows_told)
                    std = found.error_std(error[rows_told])
                    told = error[rows_told] + std * np.random.default_rng([seed, count, 1]).standard_normal(count)
                    model = fit(all_of[rows_told], axes[rows_told], np.clip(told, 1e-3, 1), Noise(std))
                    ranks.append(spearmanr(model.predict(all_of[left], axes[left]), error[left]).statistic)
                cells.append(f"{np.nanmean(ranks):.3f}")
            rows.append((name, kind, *cells))
    yield from markdown(("landscape", "proxies", *(f"told {count}" for count in TOLD)), rows)


def spread(share, count, random):
    """Rows of networks whose sizes are spread evenly on a logarithmic scale."""
    rows = []
    for wanted in np.exp(random.uniform(np.log(share.min()), np.log(SHARE), count)):
        near = np.argsort(np.abs(np.log(share / wanted)), kind="stable")[: 40 + count]
        rows.append(random.choice(np.setdiff1d(near, rows)))
    return np.array(rows)


# --- whole searches ---------------------------------------------------------------------------------------------------


@contextmanager
def features_with(extra):
    """The sampler sees these proxies, maps of `(n, d)` candidates, among its features."""

    class More(Features):
        def __call__(self, encoded):
            shared, axes = super().__call__(encoded)
            return np.concatenate([shared, *(one(encoded) for one in extra)], axis=1), axes

    polynomial.Features = More
    try:
        yield
    finally:
        polynomial.Features = Features


def kept(name, kinds, begun, seed, trials):
    """Percent of the reachable hypervolume along `AT`; what was searched once is kept in build/landscape."""
    path = KEPT / f"proxies-{name}-{kinds}-{begun.replace(' + ', '-and-')}-{seed}.json"
    if not path.exists():
        used = FEATURES[kinds](("l2", *METHODS_READ, "reconstruction"))
        path.write_text(json.dumps({"percent": search(name, used, begun, seed, trials), "commit": commit()}))
    return json.loads(path.read_text())["percent"]


def search(name, kinds, begun, seed, trials):
    """As `kept`."""
    found, arrays = opened(name)
    problem = problem_of(found, SHARE, 4, seed)
    proposer = Proposer(
        problem=problem, factory=SAMPLERS["polynomial"], seeds=beginning(name, begun), ranking="l2", fidelity=""
    )
    proxies = proxies_of(found.space, arrays)
    tried = []
    with features_with([proxies[kind] for kind in kinds]):
        for first in range(0, trials, 4):
            mates = [proposer.propose(number) for number in range(first, min(first + 4, trials))]
            mates = [mate for mate in mates if mate is not None]
            encoded = found.space.encode([mate.candidate for mate in mates])
            told = found.noisy(encoded, seed)
            stds = found.error_std(told)
            ended = [
                mate.ended(Scored(error=error, error_std=std))
                for mate, error, std in zip(mates, told.tolist(), stds.tolist(), strict=True)
            ]
            proposer.close([one.ended(one.outcome, proposer.after(one)) for one in ended])
            tried += encoded.tolist()
    reference, most = reachable(name)
    return [100 * volume(name, tried[:n], reference) / most for n in AT if n <= trials]


def volume(name, encoded, reference):
    found, _ = opened(name)
    encoded = np.asarray(encoded, np.int64)
    points = np.stack([found.error(encoded), found.space.cost_table(encoded)["macs"]], axis=1)
    points[:, 1] /= found.space.full_costs["macs"]
    points = points[(points < reference).all(axis=1)]
    return hypervolume(points[non_dominated(points)], reference) if len(points) else 0.0


@cache
def reachable(name):
    """The corner, and the hypervolume of the best front."""
    found, _ = opened(name)
    full = float(found.error(found.space.encode([found.space.full]))[0])
    reference = 2 * full, SHARE
    if name == "layers":
        points = best_front(name, SHARE)
        return reference, hypervolume(points[(points < reference).all(axis=1)], reference)
    return reference, volume(name, found.encoded, reference)


@cache
def beginning(name, kind):
    """What a study tries first: the full network, and those of a kind at a study's costs."""
    found, arrays = opened(name)
    space = found.space

    def make(name, aim):
        if name == "compound":
            return Seed(name=name, candidate=compound(space, aim.limits))
        scores = {
            g.name: torch.from_numpy(arrays[f"{kinds[-1]}:{i}"].astype(float)) for i, g in enumerate(space.groups)
        }
        candidate = threshold_candidate(space, scores, aim.limits, depth=aim.depth, resolution=aim.resolution)
        return Seed(name=name, candidate=candidate)

    kinds = kind.split(" + ")
    seeds = ["full", *("compound" if one == "compound" else "magnitude" for one in kinds if one != "full")]
    return Seeds(seeds, space, {"macs": SHARE * space.full_costs["macs"]}, make)


def searches(arguments):
    """What features and what beginnings are worth."""
    rows = []
    for name in arguments.on:
        ways = [(kinds, "full") for kinds in FEATURES] + [("none", begun) for begun in BEGINNINGS]
        for kinds, begun in [*ways, ("reconstruction", "compound")]:
            found = [kept(name, kinds, begun, seed, max(AT)) for seed in range(arguments.replays)]
            mean, std = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / np.sqrt(len(found))
            shown = [f"{one:.1f} ± {error:.1f}" for one, error in zip(mean, std, strict=True)]
            rows.append((name, kinds, begun, *shown))
            print("|", " | ".join(rows[-1]), "|", flush=True)
    yield from markdown(("landscape", "proxies", "begins with", *(f"after {n}" for n in AT)), rows)


def markdown(head, rows):
    yield f"| {' | '.join(head)} |"
    yield "|" + " --- |" * len(head)
    yield from (f"| {' | '.join(map(str, row))} |" for row in rows)


def show(arguments):
    KEPT.mkdir(parents=True, exist_ok=True)
    lines = [
        f"    python benchmarks/proxies.py show --replays {arguments.replays} --on {' '.join(arguments.on)}",
        "",
        f"Commit {commit()}; {arguments.replays} replays of every search, twice as many draws of networks to be told.",
        "",
    ]
    for part in (alone, forecasts, searches):
        lines += [part.__doc__, "", *part(arguments), ""]
    print("\n".join(lines))
    (KEPT / "proxies.md").write_text("\n".join(lines))


def page(arguments):
    head, rest = PAGE.read_text().split(MARKS[0])
    found = (KEPT / "proxies.md").read_text().rstrip()
    PAGE.write_text(f"{head}{MARKS[0]}\n\n{found}\n\n{MARKS[1]}{rest.split(MARKS[1])[1]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("record", "show", "page"))
    parser.add_argument("--data", help="folder of the four IDX files")
    parser.add_argument("--on", nargs="+", default=list(LANDSCAPES), choices=LANDSCAPES)
    parser.add_argument("--replays", type=int, default=6)
    parser.add_argument("--again", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    {"record": record, "show": show, "page": page}[arguments.what](arguments)


if __name__ == "__main__":
    main()
