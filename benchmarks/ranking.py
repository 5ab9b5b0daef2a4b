"""Which cheap error of a small network ranks networks as training them does: Spearman's correlation.

    python benchmarks/ranking.py digits [--networks 100]
    python benchmarks/ranking.py fashion --data FOLDER [--networks 100]
    python benchmarks/ranking.py --page

Networks between a tenth and nine tenths of the full one's multiply-adds are drawn, as samplers draw them. Of each the
error on the validation images is measured with inherited weights, with recalibrated norms, with reconstructed layers
(of the same training images, without labels) and after one epoch; the truth is the error on the test images after a
long fine-tuning from the recalibrated network. Networks are kept one by one in build/ranking, so that a run that was
stopped goes on. `--page` writes docs/ranking.md.

`digits` are the 1,797 pictures of 8 x 8 of scikit-learn with a residual network of its own; `fashion` is
the network of benchmarks/fashion.py on 10,000 images of Fashion-MNIST (FOLDER holds its four IDX files).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from fashion import base, commit, data
from scipy.stats import spearmanr
from sklearn.datasets import load_digits

from secateur import Classification, Space, Training, build
from secateur.evaluators import Origin, Reconstructor, measure_error, recalibrate, train
from secateur.spaces.allocation import mixture
from secateur.studies.study_files.networks import resnet20

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "build" / "ranking"
IMAGES = {"digits": 512, "fashion": 1024}
LONG = {"digits": 10, "fashion": 8}
CHEAP = {
    "macs": "multiply-adds alone (fewer are worse)",
    "inherited": "inherited weights",
    "recalibrated": "recalibrated",
    "reconstructed": "reconstructed",
    "epoch": "one epoch",
}
BANDS = {"all": (0.0, 1.0), "0.1 to 0.35": (0.1, 0.35), "0.35 to 0.65": (0.35, 0.65), "0.65 to 0.9": (0.65, 0.9)}
RESAMPLED, FEW = 2000, 10


def digits():
    """The network, the task and the space of the digits: half of the pictures train, a quarter each judges."""
    pictures, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images = torch.tensor(pictures[order] / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    targets = torch.tensor(labels[order])
    cuts = {"train": slice(0, 897), "validation": slice(897, 1347), "test": slice(1347, None)}
    task = Classification(
        **{name: (images[cut], targets[cut]) for name, cut in cuts.items()}, batch=64, normalise="measure"
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = resnet20(widths=(8, 16, 32), blocks=(1, 1, 1))
    train(model, task, Training(lr=0.1, warmup=0.1), epochs=40, seed=0)
    return model.eval(), task, Space.trace(model, images[:1], divisor=1)


def fashion(folder):
    """As `digits`, of Fashion-MNIST."""
    task = data(folder)
    model = base(0, task)
    return model, task, Space.trace(model, torch.rand(1, 1, 28, 28), divisor=1)


def drawn(space, count):
    """So many different networks, spread over the multiply-adds."""
    random, draw, found = np.random.default_rng(0), mixture(space), {}
    while len(found) < count:
        candidate = space.canonical(draw(random))
        share = float(space.cost_table([candidate])["macs"][0] / space.full_costs["macs"])
        if 0.1 <= share <= 0.9:
            found.setdefault(tuple(candidate), (candidate, share))
    return list(found.values())


def measured(which, model, task, space, candidate, reconstructor):
    """Errors of one network, each way, and the seconds that each took."""
    tuning, found, spent = Training(lr=0.05, warmup=0.1), {}, {}

    def note(name, small, split, started):
        found[name] = measure_error(small, task, split=split).compute()
        spent[name] = time.process_time() - started

    started = time.process_time()
    small = build(model, space, candidate)
    note("inherited", small, "validation", started)
    started = time.process_time()
    recalibrate(small, task, images=IMAGES[which])
    note("recalibrated", small, "validation", started)
    started, again = time.process_time(), build(model, space, candidate)
    reconstructor(again, Origin(model=model, space=space, candidate=candidate))
    note("reconstructed", again, "validation", started)
    started, kept = time.process_time(), {name: one.clone() for name, one in small.state_dict().items()}
    train(small, task, tuning, epochs=1, seed=0)
    note("epoch", small, "validation", started)
    errors = []
    for seed in range(2):  # one training's chance would hide how networks rank
        started = time.process_time()
        small.load_state_dict(kept)
        train(small, task, tuning, epochs=LONG[which], seed=seed)
        note("long", small, "test", started)
        errors.append(found["long"])
    return {"errors": found | {"long": sum(errors) / 2, "trainings": errors}, "seconds": spent}


def record(which, folder, count):
    """Measure what is not kept yet."""
    model, task, space = digits() if which == "digits" else fashion(folder)
    reconstructor = Reconstructor(task, images=IMAGES[which])
    (KEPT / which).mkdir(parents=True, exist_ok=True)
    for number, (candidate, share) in enumerate(drawn(space, count)):
        path = KEPT / which / f"{number}.json"
        if path.exists():
            continue
        found = measured(which, model, task, space, candidate, reconstructor)
        found |= {"macs": share, "candidate": list(candidate), "commit": commit()}
        path.write_text(json.dumps(found))
        shown = ", ".join(f"{name} {100 * value:.1f}" for name, value in found["errors"].items() if name != "trainings")
        print(f"{which} {number}, {share:.2f} of the MACs: {shown}", flush=True)


def kept(which):
    """`(n,)` of every figure of the networks that are kept, by name; and the files' contents."""
    found = [json.loads(path.read_text()) for path in sorted((KEPT / which).glob("*.json"))]
    figures = {name: np.array([one["errors"][name] for one in found]) for name in (*list(CHEAP)[1:], "long")}
    figures["macs"] = -np.array([one["macs"] for one in found])
    figures["trainings"] = np.array([one["errors"]["trainings"] for one in found])
    return figures, found


def interval(cheap, truth):
    """Spearman's correlation and half of its 95 % interval, by drawing the networks again."""
    random = np.random.default_rng(0)
    rows = [random.integers(0, len(truth), len(truth)) for _ in range(RESAMPLED)]
    again = [spearmanr(cheap[row], truth[row]).statistic for row in rows]
    low, high = np.nanquantile(again, (0.025, 0.975))
    return spearmanr(cheap, truth).statistic, (high - low) / 2


def gain(one, other, truth):
    """Share of resampled sets of networks in which `one` ranks better than `other`."""
    random = np.random.default_rng(0)
    rows = [random.integers(0, len(truth), len(truth)) for _ in range(RESAMPLED)]
    return np.mean([spearmanr(one[row], truth[row])[0] > spearmanr(other[row], truth[row])[0] for row in rows])


def table(which):
    """Markdown of a task."""
    figures, found = kept(which)
    share = -figures["macs"]
    inside = {name: (low <= share) & (share < high) for name, (low, high) in BANDS.items()}
    lines = [
        "| error | " + " | ".join(f"{name} ({int(mask.sum())})" for name, mask in inside.items()) + " | seconds |",
        "| --- " * (len(BANDS) + 2) + "|",
    ]
    for name, words in CHEAP.items():
        cells = []
        for mask in inside.values():
            value, half = interval(figures[name][mask], figures["long"][mask]) if mask.sum() >= FEW else (0, 0)
            cells.append(f"{value:.2f} ± {half:.2f}" if mask.sum() >= FEW else "too few")
        spent = "0" if name == "macs" else f"{np.median([one['seconds'][name] for one in found]):.2g}"
        lines.append(f"| {words} | {' | '.join(cells)} | {spent} |")
    twice = [figures["trainings"][mask].T for mask in inside.values()]
    cells = [f"{spearmanr(*pair)[0]:.2f}" if len(pair[0]) >= FEW else "too few" for pair in twice]
    spent = np.median([one["seconds"]["long"] for one in found])
    lines.append(f"| (two long fine-tunings, one beside the other) | {' | '.join(cells)} | {spent:.2g} |")
    better = gain(figures["reconstructed"], figures["recalibrated"], figures["long"])
    short = gain(figures["reconstructed"], figures["epoch"], figures["long"])
    gap = np.mean(figures["reconstructed"] - figures["long"]), np.mean(figures["recalibrated"] - figures["long"])
    return [
        *lines,
        "",
        f"Drawing the {len(found)} networks again, reconstructed ranks better than recalibrated in {better:.0%} of",
        f"{RESAMPLED:,} draws, and better than one epoch in {short:.0%}. Reconstructed errors lie {100 * gap[0]:.1f}",
        f"points above those of the long fine-tuning on average, recalibrated ones {100 * gap[1]:.1f}.",
    ]


INTRODUCTION = """# Which error ranks networks

A search compares networks by an error that is cheap to measure. Here is how well each cheap error ranks them as the
mean of two long fine-tunings does: Spearman's correlation (1: the same order, 0: none), over all networks and over
those of like cost, where a search decides; ± is half of the 95 % interval over the networks that were drawn. The last
row is a bound that chance sets: how one long fine-tuning ranks them as another one does. On the digits no cheap error
ranks better than another one by more than chance, so `fidelity = "auto"` does not pick by it. What the reconstructed
error has over the recalibrated one is its size: it is that of a network which can be used without training.

    python benchmarks/ranking.py digits
    python benchmarks/ranking.py fashion --data FOLDER
    python benchmarks/ranking.py --page
"""


def page():
    """The page, of the networks that are kept."""
    titles = {"digits": "A residual network on scikit-learn's digits", "fashion": "A residual network on Fashion-MNIST"}
    lines = INTRODUCTION.splitlines()
    for which, title in titles.items():
        if any((KEPT / which).glob("*.json")):
            commits = sorted({one["commit"] for one in kept(which)[1]})
            note = f"Long is {LONG[which]} epochs; {IMAGES[which]} images. Commits: {', '.join(commits)}."
            lines += ["", f"## {title}", "", note, "", *table(which)]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", choices=list(LONG))
    parser.add_argument("--data", help="folder of Fashion-MNIST's four IDX files")
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument("--page", action="store_true", help="write docs/ranking.md")
    asked = parser.parse_args()
    if asked.page:
        (ROOT / "docs" / "ranking.md").write_text(page())
    elif asked.task is None or (asked.task == "fashion" and not asked.data):
        parser.error("name a task, digits or fashion; fashion needs --data FOLDER")
    else:
        record(asked.task, asked.data, asked.networks)


if __name__ == "__main__":
    main()
