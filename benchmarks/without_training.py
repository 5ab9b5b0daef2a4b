"""Smaller networks without training: inherited, recalibrated, reconstructed, and some steps on the full one's answers.

    python benchmarks/without_training.py --data FOLDER [--only l2 taylor] [--seeds 3] [--again]
    python benchmarks/without_training.py --photos FOLDER --weights FILE [--only l2] [--again]
    python benchmarks/without_training.py --labels FOLDER --only l2
    python benchmarks/without_training.py --page

The residual network of benchmarks/fashion.py on Fashion-MNIST (FOLDER holds its four IDX files), and torchvision's
pretrained MobileNetV2 on photographs (those of examples/photo_mobilenet, by its picture files). 1,024 training images
without their labels, or 512 views of photographs, are all that reconstruction sees. `--labels` is `--data`
beside eight epochs with labels. Cells are kept in build/without_training; `--page` writes docs/without_training.md, and
keeps the sections it has of which there are none.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from pathlib import Path

import torch
from fashion import base, commit, data, section

from secateur import Classification, Space, Training, build, reconstruct
from secateur.evaluators import Teacher, recalibrate, train
from secateur.evaluators.reconstruction.learning import judged, taught
from secateur.evaluators.reconstruction.pictures import given
from secateur.evaluators.reconstruction.targets import observed
from secateur.studies.proposals.pruning import Pruning, method_named
from secateur.studies.proposals.seeds import Aim

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "build" / "without_training"
METHODS = ("l2", "taylor", "ranp-f", "uniform")
SHARES = {"fashion": (0.75, 0.5, 0.3, 0.15), "photos": (0.8, 0.65), "labels": (0.5, 0.3)}
TITLES = {
    "fashion": "A residual network on Fashion-MNIST",
    "labels": "Beside eight epochs with labels",
    "photos": "torchvision's pretrained MobileNetV2 on photographs",
}
PICTURES = {"fashion": 1024, "photos": 512}
PARTS = ("full", "small", "gather", "solve")
STEPS, EIGHT = 64, "eight epochs"
WAYS = {
    "inherited": "inherited",
    "recalibrated": "recalibrated",
    "reconstructed": "reconstructed",
    "reconstructed, recalibrated": "then recalibrated",
    "recalibrated, distilled": f"recalibrated, {STEPS} steps",
    "reconstructed, distilled": f"reconstructed, {STEPS} steps",
    "epoch": "one epoch with labels",
    EIGHT: "eight epochs with labels",
}
EPOCHS = {"epoch": 1, EIGHT: 8}
ASKED = {"labels": ("reconstructed", EIGHT)}


def cell(name, share, ways, model, task, space, images, seed):
    """Errors of what a method cuts, each way, and how long reconstruction took."""
    pruning = Pruning(
        model=model, space=space, task=task, training=Training(pruning_images=1024), seed=seed,
        device=torch.device("cpu"),
    )  # fmt: skip
    proposal = pruning.propose(method_named(name), Aim(limits={"macs": share * space.full_costs["macs"]}))
    candidate, scores = proposal.candidate, proposal.scores
    asked = {"model": model, "space": space, "candidate": candidate, "images": images, "scores": scores}

    def made(way):
        small, note = build(model, space, candidate, scores), None
        first, _, then = way.partition(", ")
        if first == "recalibrated" or first in EPOCHS:
            recalibrate(small, task, images=len(images))
        if first in EPOCHS:
            teacher = Teacher(model=model)
            train(small, task, Training(lr=0.05, warmup=0.1), epochs=EPOCHS[first], seed=seed, teacher=teacher)
        if first == "reconstructed":
            note = reconstruct(small, **asked, distill=STEPS if then == "distilled" else 0)
        elif then == "distilled":
            only_taught(small, asked)
        if then == "recalibrated":
            recalibrate(small, task, images=len(images))
        return small, note

    found = {"errors": {}, "agreement": {}, "spent": {}}
    wanted, labels = agreed(model, task), torch.cat([batch.targets for batch in task.loader("test", None, None)])
    for way in ways:
        started = time.perf_counter()
        small, note = made(way)
        found["spent"][way] = time.perf_counter() - started
        seen = agreed(small, task)
        found["errors"][way] = float((seen != labels).float().mean())
        found["agreement"][way] = float((seen == wanted).float().mean())
        if way == "reconstructed":
            found |= {"seconds": dict(note.seconds), "solved": len(note.solved), "left": dict(note.left)}
            found |= {"few": list(note.few), "note": str(note), "pictures": note.pictures + note.held_out}
    started = time.perf_counter()
    with torch.no_grad():
        for part in images.split(32):
            model(part)
    found["forward"] = time.perf_counter() - started
    found |= {"macs": space.cost_table([candidate])["macs"][0] / space.full_costs["macs"], "commit": commit()}
    return found | {"full": float((wanted != labels).float().mean()), "tested": len(labels)}


def only_taught(small, asked):
    """The steps on the full network's answers alone, from the same pictures."""
    images = asked["images"]
    pictures = given(small, asked["space"], asked["candidate"], images, most=len(images), memory=2**31)
    targets = observed(asked["model"], pictures, (), memory=2**30, rows=1)
    small.eval()
    taught(small, asked["model"], pictures, targets, judged(small, pictures, targets), steps=STEPS)


@torch.no_grad()
def agreed(model, task):
    """The classes that a network sees in the test images."""
    return torch.cat([task.forward(model.eval(), batch)[0].argmax(1) for batch in task.loader("test", None, None)])


def fashion(folder, seeds):
    """For every seed: its number, the network, the task, the space and the pictures."""
    task = data(folder)
    for seed in range(seeds):
        model = base(seed, task)
        space = Space.trace(model, torch.rand(1, 1, 28, 28), divisor=1)
        batches = [task.prepare(batch, torch.device("cpu"))[0] for batch in task.loader("train", None, None)]
        yield seed, model, task, space, torch.cat(batches)[: PICTURES["fashion"]]


def photos(folder, weights):
    """As `fashion`, of MobileNetV2: labels are what the full network sees."""
    sys.path.insert(0, str(ROOT / "examples" / "photo_mobilenet"))
    import network
    from photos import MEAN, STD, answers, pictures, split, views

    model = network.mobilenet(Path(weights)).requires_grad_(True)  # so that its norms can be recalibrated
    files, splits = split(pictures(Path(folder)), []), {}
    for place, (name, parts) in enumerate(
        {"train": ("train",), "validation": ("validation",), "test": ("validation", "test")}.items()
    ):
        chosen = [file for part in parts for file in files[part]]
        images = views(chosen, count=2, side=224, seed=place)[:: 1 if name != "validation" else 4]
        splits[name] = images, answers(model, images)
    task = Classification(**splits, batch=32, mean=MEAN, std=STD, classes=1000)
    space = Space.trace(model, torch.rand(1, 3, 224, 224), divisor=4, rules={"*": {"depth": False}})
    batches = [task.prepare(batch, torch.device("cpu"))[0] for batch in task.loader("train", None, None)]
    yield 0, model, task, space, torch.cat(batches)[: PICTURES["photos"]]


def rows(which):
    """`{(share, method): cells of all seeds}` of what is kept."""
    found = {}
    for share in SHARES[which]:
        for name in METHODS:
            cells = [json.loads(path.read_text()) for path in sorted(KEPT.glob(f"{which}-{name}-{share}-*.json"))]
            if cells:
                found[share, name] = cells
    return found


def table(which, figure):
    """Markdown of one figure of all cells, in percent, the mean over the seeds."""
    found = rows(which)
    ways = [way for way in WAYS if any(way in cell[figure] for cells in found.values() for cell in cells)]
    lines = ["| MACs | method | " + " | ".join(WAYS[way] for way in ways) + " |", "| --- " * (2 + len(ways)) + "|"]
    for (share, name), cells in found.items():
        means = [100 * statistics.mean(cell[figure][way] for cell in cells) for way in ways]
        lines.append(f"| {share} | {name} | " + " | ".join(f"{mean:.1f}" for mean in means) + " |")
    return lines


def seconds(which):
    """Markdown of what reconstruction takes, beside one forward of the full network over the same pictures."""
    lines = [
        "| MACs | method | one forward | full network's | small one's | gathering | solving | layers solved | left |",
        "| --- " * 9 + "|",
    ]
    for (share, name), cells in rows(which).items():
        took = [[cell["forward"], *(cell["seconds"][part] for part in PARTS)] for cell in cells]
        shown = " | ".join(f"{statistics.median(column):.1f}" for column in zip(*took, strict=True))
        lines.append(f"| {share} | {name} | {shown} | {cells[0]['solved']} | {len(cells[0]['left'])} |")
    return lines


INTRODUCTION = """# Without training

What a smaller network is worth before it has been trained: with its inherited weights, with its batch norms
recalibrated, and with its layers solved again by `secateur.reconstruct`, from pictures without labels. Beside them
some steps on the full network's answers to the same pictures, and epochs with labels and a teacher. Recalibrating a
reconstructed network gains nothing, and often loses. Reconstruction takes about as long as four forwards of a large
full network over the same pictures, the solving included; of a small network, whose forward takes a fraction of a
second, longer.

    python benchmarks/without_training.py --data FOLDER
    python benchmarks/without_training.py --photos FOLDER --weights FILE
    python benchmarks/without_training.py --labels FOLDER --only l2
    python benchmarks/without_training.py --page

Commits: {commits}."""


def page():
    """The page, of the cells that are kept; the sections it has of which none are."""
    kept = {which: rows(which) for which in SHARES}
    flat = [cell for found in kept.values() for cells in found.values() for cell in cells]
    path = ROOT / "docs" / "without_training.md"
    old, commits = path.read_text().splitlines(), {cell["commit"] for cell in flat}
    if not all(kept.values()):
        commits |= {one for line in old if line.startswith("Commits: ") for one in re.findall(r"[0-9a-f]{7,}", line)}
    lines = INTRODUCTION.format(commits=", ".join(sorted(commits))).splitlines()
    for which, title in TITLES.items():
        cells = [cell for found in kept[which].values() for cell in found]
        lines += ["", f"## {title}", "", *SECTIONS[which](cells)] if cells else section([*old, ""], title)
    return "\n".join(lines) + "\n"


def of_fashion(cells, which="fashion"):
    """The section on Fashion-MNIST."""
    seeds = max(len(found) for found in rows(which).values())
    full = 100 * statistics.mean(cell["full"] for cell in cells)
    return [
        f"Errors in percent on 10,000 test images, {seeds} seed{'s' * (seeds > 1)}; the full network: {full:.1f}. "
        f"{PICTURES['fashion']} training images.",
        "",
        *table(which, "errors"),
        *(["", "Seconds on one core of a shared machine, medians:", "", *seconds(which)] if which == "fashion" else []),
    ]


def of_labels(cells):
    """The same network beside a training with labels."""
    return ["The network above, trained anew; epochs are of 10,000 images.", "", *of_fashion(cells, "labels")]


def of_photos(cells):
    """The section on MobileNetV2."""
    half = 196 * (0.25 / cells[0]["tested"]) ** 0.5
    return [
        "Agreement with the full network on its class of 1,000, in percent, on "
        f"{cells[0]['tested']} views of photographs that reconstruction did not see (95 % interval: at most {half:.0f} "
        f"points to either side); {cells[0]['pictures']} views of others, cut out and laid on plain colours, at 224 x "
        "224, one seed.",
        "",
        *table("photos", "agreement"),
        "",
        "Seconds on one core of a shared machine:",
        "",
        *seconds("photos"),
    ]


SECTIONS = {"fashion": of_fashion, "photos": of_photos, "labels": of_labels}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of the four IDX files")
    parser.add_argument("--labels", help="the same folder: beside eight epochs with labels")
    parser.add_argument("--photos", help="folder of PNG files")
    parser.add_argument("--weights", help="file of MobileNetV2's weights")
    parser.add_argument("--only", nargs="+", default=METHODS)
    parser.add_argument("--shares", nargs="+", type=float)
    parser.add_argument("--ways", nargs="+", choices=WAYS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--again", action="store_true", help="run cells that are kept, too")
    parser.add_argument("--page", action="store_true", help="write docs/without_training.md")
    asked = parser.parse_args()
    if asked.page:
        (ROOT / "docs" / "without_training.md").write_text(page())
        return
    KEPT.mkdir(parents=True, exist_ok=True)
    which = "photos" if asked.photos else "labels" if asked.labels else "fashion"
    folder, ways = asked.data or asked.labels, asked.ways or ASKED.get(which, [one for one in WAYS if one != EIGHT])
    for seed, *rest in fashion(folder, asked.seeds) if folder else photos(asked.photos, asked.weights):
        for share in asked.shares or SHARES[which]:
            for name in asked.only:
                path = KEPT / f"{which}-{name}-{share}-{seed}.json"
                if path.exists() and not asked.again:
                    continue
                found = cell(name, share, ways, *rest, seed)
                path.write_text(json.dumps(found))
                shown = ", ".join(f"{way} {100 * error:.1f}" for way, error in found["errors"].items())
                spent = ", ".join(f"{what} {value:.1f}" for what, value in found["seconds"].items())
                print(f"{name} at {share}, seed {seed}: {shown}; {spent}; forward {found['forward']:.1f} s", flush=True)


if __name__ == "__main__":
    main()
