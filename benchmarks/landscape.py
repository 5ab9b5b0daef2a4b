"""Real landscapes for replaying searches: measured errors of thousands of cuts of two small networks.

    nice python benchmarks/landscape.py --data FOLDER record groups layers tune
    python benchmarks/landscape.py pack
    python benchmarks/landscape.py report

`groups` is complete: three widths of four levels, three removable blocks, four sides, all 2,048 networks measured.
`layers` has a width a layer (12), three stages of up to two removable blocks and four sides; 2,400 networks of all
sizes are measured, and a model fitted on them (a random forest or a Gaussian process, whichever predicts the held-out
ones better; never a polynomial, which a sampler of ours fits itself) stands for the rest.

Trained on 10,000 images of Fashion-MNIST and measured on 5,000 others, after recalibration on 512. An ordinarily
trained network is at chance when cut without fine-tuning, and then there is no landscape; so both networks are trained
with shared weights: at every step the full network, the smallest and two drawn ones, the smaller ones taught by the
full one. What is measured is therefore what `evaluator = "shared-weights"` sees. 256 networks of `groups` are also
fine-tuned for one epoch (`tune`).

`record` keeps chunks of 32 networks in build/landscape and goes on where it was stopped; the base networks are trained
when they are missing. `pack` writes benchmarks/landscapes/*.npz from them, `report` prints what is in these.

    from landscape import load
    errors = load("groups").error(encoded)
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.model_selection import KFold, cross_val_predict
from torch import nn

from secateur import Classification, Space, Training, build
from secateur.evaluators import measure_error, recalibrate, train
from secateur.evaluators.training.sharing import Sandwich
from secateur.spaces import threshold_family
from secateur.spaces.allocation import mixture

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "build" / "landscape"
FILES = Path(__file__).parent / "landscapes"
SIDES = (28, 24, 20, 16)
CHUNK, AGAIN, TUNED, SAMPLES = 32, 64, 256, 2400
RECALIBRATION, VALIDATION = 512, 5000
FIRST_EPOCHS, SHARED_EPOCHS = 4, {"groups": 36, "layers": 24}
FIRST, SHARED, TUNING = Training(lr=0.05, warmup=0.1), Training(lr=0.1, warmup=0.1), Training(lr=0.02, warmup=0.1)
CHANCE = 0.9


# --- the networks -----------------------------------------------------------------------------------------------------


class Convolution(nn.Sequential):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        )


class Block(nn.Module):
    def __init__(self, width, convolutions):
        super().__init__()
        self.body = nn.Sequential(*(Convolution(width, width) for _ in range(convolutions)))

    def forward(self, x):
        return x + self.body(x)


class Network(nn.Module):
    """Stages of a strided transition and removable blocks, each of so many convolutions; a linear head."""

    def __init__(self, widths, blocks, convolutions):
        super().__init__()
        stages, last = [], 1
        for width in widths:
            inner = [Convolution(last, width, 2)] + [Convolution(width, width) for _ in range(convolutions - 1)]
            kept = nn.Sequential(*(Block(width, convolutions) for _ in range(blocks)))
            stages.append(nn.Sequential(nn.Sequential(*inner), kept))
            last = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(last, 10)

    def forward(self, x):
        return self.head(self.stages(x).mean((2, 3)))


SETTINGS = {
    "groups": ({"widths": (32, 32, 32), "blocks": 1, "convolutions": 1}, 8),
    "layers": ({"widths": (16, 24, 32), "blocks": 2, "convolutions": 2}, 4),
}
LANDSCAPES = tuple(SETTINGS)


def network(name, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network(**SETTINGS[name][0]).eval()


def traced(name, model):
    return Space.trace(model, torch.rand(1, 1, 28, 28), resolutions=SIDES, divisor=SETTINGS[name][1])


# --- replaying --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """A space with an error everywhere.

    Attributes:
        name: of the landscape.
        space: with the ranking of the trained network as its default scores.
        error: `(n, d)` candidates to `(n,)` errors after recalibration, always the same.
        noise: standard error of an error, the median over the measured networks within half of the multiply-adds.
        encoded: `(s, d)` measured networks.
        measured: `(s,)` their errors.
        tuned: `(s,)` their errors after one epoch of fine-tuning; NaN where that was not done.
        facts: how it was recorded.
    """

    name: str
    space: Space
    error: Callable[[np.ndarray], np.ndarray]
    noise: float
    encoded: np.ndarray
    measured: np.ndarray
    tuned: np.ndarray
    facts: dict

    def noisy(self, encoded, seed):
        """`(n,)` errors as another set of as many validation images would show them; the same for the same seed."""
        errors = self.error(encoded)
        draws = [np.random.default_rng([seed, *row]).standard_normal() for row in np.asarray(encoded).tolist()]
        return np.clip(errors + standard_error(errors, self.facts) * np.array(draws), 0.0, 1.0)

    def error_std(self, errors):
        """`(n,)` standard errors of these errors."""
        return standard_error(errors, self.facts)


def standard_error(errors, facts):
    """Of the share of wrong answers among the validation images, and of recalibrating on other images."""
    errors = np.asarray(errors, float)
    return np.sqrt(errors * (1 - errors) / VALIDATION + facts["recalibration_std"] ** 2)


@cache
def load(name):
    """The landscape `"groups"` or `"layers"`, from the files beside this script.

    `"layers-forest"` and `"layers-process"` are the same with the one or the other model, whichever is better.
    """
    given, _, model = name.partition("-")
    with np.load(FILES / f"{given}.npz") as found:
        arrays = {key: found[key] for key in found.files}
    facts = json.loads(str(arrays["facts"])) | ({"model": model} if model else {})
    space = traced(given, network(given))
    scores = {
        group.name: torch.from_numpy(arrays[f"score_{number}"].astype(np.float64))
        for number, group in enumerate(space.groups)
    }
    space = replace(space, default_scores=scores)
    encoded, measured = arrays["encoded"].astype(np.int64), arrays["error"].astype(np.float64)
    error = table(space, encoded, measured) if given == "groups" else fitted(space, encoded, measured, facts)
    macs = space.cost_table(encoded)["macs"]
    small = macs <= 0.5 * space.full_costs["macs"]
    return Landscape(
        name=name,
        space=space,
        error=error,
        noise=float(np.median(standard_error(measured[small], facts))),
        encoded=encoded,
        measured=measured,
        tuned=arrays["tuned"].astype(np.float64),
        facts=facts,
    )


def table(space, encoded, measured):
    """Looks errors up; every candidate must be there."""
    shape = [len(axis.choices) for axis in space.axes]
    found = np.full(int(np.prod(shape)), np.nan)
    found[places(space, encoded)] = measured
    if np.isnan(found).any():
        raise ValueError(f"the table lacks {int(np.isnan(found).sum())} of {found.size} networks; record them first")
    return lambda candidates: found[places(space, candidates)]


def places(space, encoded):
    columns = [np.searchsorted(axis.choices, np.asarray(encoded)[:, i]) for i, axis in enumerate(space.axes)]
    return np.ravel_multi_index(columns, [len(axis.choices) for axis in space.axes])


def fitted(space, encoded, measured, facts):
    model = MODELS[facts["model"]](facts)
    model.fit(features(space, encoded), logit(measured))
    return lambda candidates: expit(model.predict(features(space, candidates)))


def features(space, encoded):
    """`(n, d)` logarithms of widths (-1 where every block with them is gone), blocks, logarithm of the side.

    Widths are shares of the full one; so are blocks, and the side.
    """
    encoded = np.asarray(encoded)
    found = np.empty(encoded.shape)
    groups = len(space.groups)
    for i, axis in enumerate(space.axes):
        if axis.kind == "width":
            found[:, i] = np.log2(encoded[:, i] / axis.full)
        elif axis.kind == "depth":
            found[:, i] = encoded[:, i] / axis.full
        else:
            sides = np.array([side[0] for side in space.resolutions])
            found[:, i] = 2 * np.log2(sides[encoded[:, i]] / sides[-1])
    for number, stage in enumerate(space.stages):
        for kept in range(len(stage.blocks)):
            gone = tuple(f"{name}." for name in stage.removed(kept))
            rows = encoded[:, groups + number] == kept
            for i, group in enumerate(space.groups):
                if group.name.startswith(gone):
                    found[rows, i] = -np.log2(group.widths[-1] / group.widths[0]) - 1
    return found


def forest(facts):
    return ExtraTreesRegressor(500, min_samples_leaf=2, max_features=0.7, random_state=0)


def process(facts):
    """A Gaussian process; its lengths are fitted when packing, and kept."""
    kernel = kernel_of(facts)
    return GaussianProcessRegressor(kernel, optimizer=None, normalize_y=True, random_state=0)


def kernel_of(facts):
    kernel = ConstantKernel() * Matern(np.full(facts["axes"], 2.0), (0.05, 1e4), nu=2.5) + WhiteKernel(0.01, (1e-5, 1))
    return kernel.clone_with_theta(np.array(facts["theta"])) if "theta" in facts else kernel


MODELS = {"forest": forest, "process": process}


def logit(errors):
    errors = np.clip(errors, 1e-3, 1 - 1e-3)
    return np.log(errors / (1 - errors))


def expit(values):
    return 1 / (1 + np.exp(-values))


# --- what is measured -------------------------------------------------------------------------------------------------


def planned(name, space):
    """`(s, d)` networks to measure, in the order in which that is done.

    `groups`: all, shuffled. `layers`: an equal number from each of 40 bands of multiply-adds (of their logarithm, from
    0.01 to 1 of the full network), drawn from a pool of four kinds: every axis at random; widths around one ratio;
    one threshold over the L2 norms; and the first three again with few blocks and small sides.
    """
    random = np.random.default_rng(0)
    if name == "groups":
        grid = np.stack(np.meshgrid(*[axis.choices for axis in space.axes], indexing="ij"), axis=-1)
        return random.permutation(grid.reshape(-1, len(space.axes)))
    pool = canonical(space, np.concatenate([random_pool(space, random), *threshold_pools(space, random)]))
    pool = random.permutation(np.unique(pool, axis=0))
    share = space.cost_table(pool)["macs"] / space.full_costs["macs"]
    band = np.clip(((np.log10(share) + 2) / 2 * 40).astype(int), -1, 39)
    few = [np.flatnonzero(band == b)[: SAMPLES // 40] for b in range(40)]
    chosen = random.permutation(np.concatenate(few))
    left = np.setdiff1d(np.flatnonzero(band >= 0), chosen)
    chosen = np.concatenate([chosen, random.permutation(left)[: SAMPLES - len(chosen)]])
    return np.concatenate([space.encode([space.full]), pool[chosen]])


def random_pool(space, random, count=30_000):
    """Every axis at random, and widths around one ratio; half of each at lower depths and sides."""
    found = np.empty((count, len(space.axes)), np.int64)
    ratio = random.uniform(0.1, 1.1, count)
    alike, low = random.random(count) < 0.5, random.random(count) < 0.5
    for i, axis in enumerate(space.axes):
        choices = np.array(axis.choices)
        drawn = random.integers(0, len(choices), count)
        if axis.kind == "width":
            want = ratio * axis.full * np.exp(0.25 * random.standard_normal(count))
            near = np.abs(want[:, None] - choices).argmin(1)
            drawn = np.where(alike, near, drawn)
        else:
            drawn = np.where(low, np.minimum(drawn, random.integers(0, len(choices), count)), drawn)
        found[:, i] = choices[drawn]
    return found


def threshold_pools(space, random, count=60):
    for _ in range(count):
        scores = {
            name: values / values.mean() * float(np.exp(0.2 * random.standard_normal()))
            for name, values in space.default_scores.items()
        }
        family = threshold_family(
            space, scores, depth=float(random.choice([0.0, 0.5, 1.0])), resolution=random.choice(SIDES) / SIDES[0]
        )
        yield family[random.choice(len(family), min(40, len(family)), replace=False)]


def canonical(space, encoded):
    return space.encode([space.canonical(row) for row in encoded.tolist()])


# --- recording --------------------------------------------------------------------------------------------------------


def base(name, task):
    """The network with shared weights, and its space with the ranking they were trained with.

    A few epochs of ordinary training come first: the L2 norms of its weights are the ranking from then on.
    """
    model = network(name)
    for stage, epochs, training in (("first", FIRST_EPOCHS, FIRST), ("base", SHARED_EPOCHS[name], SHARED)):
        space = traced(name, model)
        path = KEPT / f"{stage}-{name}.safetensors"
        if path.exists():
            model.load_state_dict(load_file(path))
            continue
        callbacks = [] if stage == "first" else [Sandwich(space, mixture(space), networks=2, seed=0)]
        losses = train(model, task, training, epochs=epochs, callbacks=callbacks)
        print(f"{stage} network of {name}: loss {losses[0]:.3f} to {losses[-1]:.3f}", flush=True)
        save_file(model.state_dict(), path)
    return model.eval(), space


def record(name, folder):
    torch.set_num_threads(1)
    KEPT.mkdir(parents=True, exist_ok=True)
    task = data(folder)
    if name == "tune":
        tune(task)
        return
    model, space = base(name, task)
    plan = planned(name, space)
    quick, other = task.with_batch(256), other_images(task).with_batch(256)
    for first in range(0, len(plan), CHUNK):
        path = KEPT / f"{name}-{first:05d}.json"
        if path.exists():
            continue
        rows = plan[first : first + CHUNK].tolist()
        errors = [error_of(model, space, row, quick) for row in rows]
        again = [error_of(model, space, row, other) for row in rows] if first < AGAIN else []
        write(path, {"encoded": rows, "error": errors, "again": again, "commit": commit()})
        print(f"{name} {first + len(rows)}/{len(plan)}: {min(errors):.3f} to {max(errors):.3f}", flush=True)


def tune(task):
    """Fine-tune the first networks of `groups` that are within half of the multiply-adds, or the full one."""
    model, space = base("groups", task)
    plan = planned("groups", space)
    share = space.cost_table(plan)["macs"] / space.full_costs["macs"]
    plan = np.concatenate([space.encode([space.full]), plan[share <= 0.5][: TUNED - 1]])
    for first in range(0, len(plan), CHUNK // 2):
        path = KEPT / f"tune-{first:05d}.json"
        if path.exists():
            continue
        rows = plan[first : first + CHUNK // 2].tolist()
        errors = [error_of(model, space, row, task, epochs=1) for row in rows]
        write(path, {"encoded": rows, "error": errors, "commit": commit()})
        print(f"tune {first + len(rows)}/{len(plan)}: {min(errors):.3f} to {max(errors):.3f}", flush=True)


def error_of(model, space, row, task, epochs=0):
    candidate = space.check(row)
    side = space.side(candidate)
    small = build(model, space, candidate)
    recalibrate(small, task, images=RECALIBRATION, resolution=side)
    if epochs:
        train(small, task, TUNING, epochs=epochs, resolution=side)
    return float(measure_error(small, task.with_batch(250), resolution=side).compute())


def data(folder):
    """10,000 training and 5,000 validation images."""
    from fashion import data as pictures

    return pictures(folder)


def other_images(task):
    """The task with its training images in another order: others are recalibrated on."""
    images, labels = task.train
    return Classification(
        train=(images.flip(0), labels.flip(0)),
        validation=task.validation,
        batch=task.batch,
        mean=task.mean,
        std=task.std,
    )


def ranked(name):
    """The space with the ranking that the recorded networks were cut by."""
    model = network(name)
    model.load_state_dict(load_file(KEPT / f"first-{name}.safetensors"))
    return traced(name, model)


def write(path, values):
    making = path.with_suffix(".part")
    making.write_text(json.dumps(values))
    making.replace(path)


def commit():
    from fashion import commit as said

    return said()


# --- files ------------------------------------------------------------------------------------------------------------


def pack():
    FILES.mkdir(exist_ok=True)
    for name in LANDSCAPES:
        chunks = [json.loads(path.read_text()) for path in sorted(KEPT.glob(f"{name}-[0-9]*.json"))]
        if not chunks:
            continue
        space = ranked(name)
        encoded = np.array([row for chunk in chunks for row in chunk["encoded"]], np.int64)
        error = np.array([one for chunk in chunks for one in chunk["error"]])
        again = np.array([one for chunk in chunks for one in chunk["again"]])
        tuned = np.full(len(error), np.nan)
        if name == "groups":
            at = {tuple(row): number for number, row in enumerate(encoded.tolist())}
            for path in sorted(KEPT.glob("tune-*.json")):
                chunk = json.loads(path.read_text())
                for row, one in zip(chunk["encoded"], chunk["error"], strict=True):
                    tuned[at[tuple(row)]] = one
        facts = {
            "axes": len(space.axes),
            "commits": sorted({chunk["commit"] for chunk in chunks}),
            "recalibration_std": float((again - error[: len(again)]).std() / np.sqrt(2)),
        }
        if name == "layers":
            facts |= chosen_model(features(space, encoded), logit(error), error, facts)
        scores = {
            f"score_{i}": space.default_scores[group.name].numpy().astype(np.float32)
            for i, group in enumerate(space.groups)
        }
        np.savez_compressed(
            FILES / f"{name}.npz",
            encoded=encoded.astype(np.int16),
            error=error.astype(np.float32),
            tuned=tuned.astype(np.float32),
            facts=json.dumps(facts),
            **scores,
        )


def chosen_model(inputs, outputs, error, facts):
    """Which model predicts held-out networks best, with its settings; R2 of the errors, in five folds."""
    few = np.random.default_rng(0).permutation(len(inputs))[:800]
    lengths = GaussianProcessRegressor(kernel_of(facts), normalize_y=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an axis that hardly matters has no longest length
        theta = lengths.fit(inputs[few], outputs[few]).kernel_.theta.tolist()
    facts = facts | {"theta": theta}
    found = {}
    for kind, make in MODELS.items():
        folds = KFold(5, shuffle=True, random_state=0)
        guess = expit(cross_val_predict(make(facts), inputs, outputs, cv=folds))
        found[kind] = float(1 - ((guess - error) ** 2).sum() / ((error - error.mean()) ** 2).sum())
    return {"theta": theta, "r2": found, "model": max(found, key=found.get)}


def report():
    for name in LANDSCAPES:
        if not (FILES / f"{name}.npz").exists():
            print(f"{name}: not recorded")
            continue
        found = load(name)
        space, error = found.space, found.measured
        costs = space.cost_table(found.encoded)
        macs = costs["macs"] / space.full_costs["macs"]
        full = float(found.error(space.encode([space.full]))[0])
        print(f"\n{name}: {len(error)} measured, commits {', '.join(found.facts['commits'])}, seed 0")
        print("  axes: " + ", ".join(f"{axis.kind} {len(axis.choices)}" for axis in space.axes))
        print(f"  full network: {space.full_costs['macs']:,.0f} multiply-adds, error {full:.4f}")
        spread = np.quantile(error, [0.05, 0.5, 0.95])
        print(f"  errors: {error.min():.4f} to {error.max():.4f}; 5, 50, 95 %: {spread.round(4).tolist()}")
        print(f"  shares of multiply-adds, deciles: {np.quantile(macs, np.linspace(0, 1, 11)).round(3).tolist()}")
        print(f"  noise: {found.noise:.4f} (of it recalibration {found.facts['recalibration_std']:.4f})")
        print(f"  rank correlation of error and multiply-adds: {spearmanr(error, macs).statistic:.3f}")
        tuned = ~np.isnan(found.tuned)
        if tuned.any():
            rank = spearmanr(error[tuned], found.tuned[tuned]).statistic
            print(f"  fine-tuned: {tuned.sum()}, median {np.median(found.tuned[tuned]):.4f} (before", end=" ")
            print(f"{np.median(error[tuned]):.4f}), rank correlation with the errors before {rank:.3f}")
        if "r2" in found.facts:
            said = ", ".join(f"{kind} {r2:.4f}" for kind, r2 in found.facts["r2"].items())
            print(f"  R2 in five folds: {said}; the landscape is the {found.facts['model']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of the four IDX files")
    tasks = parser.add_subparsers(dest="what", required=True)
    recording = tasks.add_parser("record")
    recording.add_argument("names", nargs="*", choices=(*LANDSCAPES, "tune"), default=[*LANDSCAPES, "tune"])
    tasks.add_parser("pack")
    tasks.add_parser("report")
    arguments = parser.parse_args()
    if arguments.what == "record":
        for name in arguments.names:
            record(name, arguments.data)
    else:
        {"pack": pack, "report": report}[arguments.what]()


if __name__ == "__main__":
    main()
